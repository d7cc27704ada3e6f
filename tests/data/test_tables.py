"""Tables: the census and what can be known of it, Adult's files, and coarse labels."""

import itertools

import numpy as np
import pytest

from robustbench_jax.data import census, load_dataset
from robustbench_jax.types import Dataset, UserError


def test_a_person_has_one_value_in_every_column_and_the_last_is_the_private_one():
    data = load_dataset("census(train=50, test=70)", "train")
    assert data.x.shape == (50, 1, 51, 1) and set(np.unique(data.x)) == {0, 255}
    flat, at = data.x.reshape(50, -1) == 255, 0
    for values in [*census.COLUMNS.values(), 3]:
        np.testing.assert_array_equal(flat[:, at : at + values].sum(1), 1)
        at += values
    private = data.attribute
    assert at == 51 and private.place == (48, 51) and len(load_dataset("census(train=50, test=70)")) == 70
    np.testing.assert_array_equal(flat[:, 48:].argmax(1), private.values)


def test_the_draw_is_always_the_same_and_another_seed_is_another_draw():
    digest = "2810ead8e51b79d2110630f01ceb52758afd82744884b21c380caabb05649f4b"
    assert load_dataset("census(test=20000)").digest == digest
    assert len({load_dataset("census", split).digest for split in ("train", "test")} | {digest}) == 3
    assert load_dataset("census(seed=1)").digest != load_dataset("census").digest


def test_posterior_and_best_guess_are_those_of_the_stated_distribution(monkeypatch):
    """Two columns, all their people one by one."""
    whole = census.tables()
    monkeypatch.setattr(census, "tables", lambda: whole[8:])
    census.best_guess.cache_clear()
    best = 0.0
    for a, b, income in itertools.product(range(3), range(3), range(2)):
        mass = [census.JOINT[h, income] * whole[8][h, income, a] * whole[9][h, income, b] for h in range(3)]
        person = np.zeros((1, 1, 9, 1), np.uint8)
        person[0, 0, [a, 3 + b, 6], 0] = 255
        np.testing.assert_allclose(census.posterior(person, np.array([income]))[0], np.array(mass) / sum(mass))
        best += max(mass)
    assert census.best_guess() == pytest.approx(best)
    census.best_guess.cache_clear()


def test_people_come_as_often_as_the_distribution_says():
    data = load_dataset("census(test=20000)")
    pairs = np.bincount(2 * data.attribute.values + data.y, minlength=6) / len(data)
    np.testing.assert_allclose(pairs, census.JOINT.ravel(), atol=0.01)
    age = (data.x[:, 0, :6, 0] > 0)[(data.attribute.values == 1) & (data.y == 0)].mean(0)
    np.testing.assert_allclose(age, census.tables()[0][1, 0], atol=0.025)
    guessed = census.posterior(data.x, data.y).argmax(-1) == data.attribute.values
    assert guessed.mean() == pytest.approx(census.best_guess(), abs=0.01)


def test_writing_a_value_changes_its_place_alone():
    data = load_dataset("census(train=5)", "train")
    private = data.attribute
    blank, other = private.written(data.x, None), private.written(data.x, 2)
    assert not blank[:, :, 48:].any() and (other[:, 0, 48:, 0] == [0, 0, 255]).all()
    np.testing.assert_array_equal(blank[:, :, :48], data.x[:, :, :48])
    np.testing.assert_array_equal(data.x.reshape(5, -1)[:, 48:].argmax(1), private.values)


def test_rows_take_the_attribute_with_them_and_the_digest_sees_it():
    data = load_dataset("census(train=9)", "train")
    assert data.take(4).attribute.values.tolist() == data.attribute.values[:4].tolist()
    assert data.rows(np.array([3, 1])).attribute.values.tolist() == data.attribute.values[[3, 1]].tolist()
    assert Dataset(data.x, data.y, data.classes, "bare").digest != data.digest


ADULT = """39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Wife, White, Male, 2174, 0, 40, Cuba, <=50K
50, ?, 83311, Bachelors, 13, Divorced, ?, Husband, Black, Female, 0, 2000, 13, United-States, >50K

"""
TEST = """|1x3 Cross validator
25, Private, 1, 11th, 7, Never-married, Sales, Own-child, Black, Male, 0, 0, 40, Cuba, <=50K.
"""


@pytest.fixture
def adult(tmp_path):
    (tmp_path / "adult.data").write_text(ADULT)
    (tmp_path / "adult.test").write_text(TEST)
    return tmp_path / "adult.data"


def test_adult_is_read_as_uci_writes_it(adult):
    train, test = (load_dataset(f'adult("{adult}", sensitive="sex")', split) for split in ("train", "test"))
    assert train.y.tolist() == [0, 1] and test.y.tolist() == [0] and train.x.shape[1:] == test.x.shape[1:]
    assert train.attribute.names == ("Female", "Male") and train.attribute.values.tolist() == [1, 0]
    assert test.attribute.values.tolist() == [1]
    flat = train.x.reshape(2, -1) == 255
    np.testing.assert_array_equal(flat.sum(1), 12)  # one value in each of the columns
    ages = flat[:, :3]  # bands 1, 2 and 4 occur
    assert ages.argmax(1).tolist() == [1, 2] and test.x.reshape(1, -1)[0, :3].argmax() == 0


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda p: p.write_text(ADULT.replace(", <=50K", "")), "record 1 is none of Adult: 39, State-gov"),
        (lambda p: p.write_text(ADULT.replace("39,", "old,")), "record 1 is none of Adult: old"),
        (lambda p: p.write_text("\n"), "holds no records"),
        (lambda p: p.with_suffix(".test").unlink(), "there is no file .*adult.test"),
    ],
)
def test_other_files_are_refused(adult, change, message):
    change(adult)
    with pytest.raises(UserError, match=message):
        load_dataset(f'adult("{adult}")', "train")


def test_coarse_labels_are_groups_of_classes_and_the_class_is_private():
    fine = load_dataset("fashion_mnist_mini", "test", 50)
    data = load_dataset("coarse(fashion_mnist_mini, [[5, 7, 9], [0, 1, 2, 3, 4, 6, 8]])", "test", 50)
    assert data.classes[0] == "Sandal or Sneaker or Ankle boot" and data.attribute.place is None
    np.testing.assert_array_equal(data.y == 0, np.isin(fine.y, [5, 7, 9]))
    np.testing.assert_array_equal(data.attribute.values, fine.y)


def test_parts_have_no_example_in_common_and_one_test_split():
    one, other = (load_dataset(f"part(fashion_mnist_mini, {rows})", "train") for rows in ("0, 30", "30, 50"))
    whole = load_dataset("fashion_mnist_mini", "train", 50)
    np.testing.assert_array_equal(np.concatenate([one.x, other.x]), whole.x)
    assert load_dataset("part(fashion_mnist_mini, 0, 30)").digest == load_dataset("fashion_mnist_mini").digest
    assert len(load_dataset("part(census(train=9), 2, 6)", "train").attribute.values) == 4


@pytest.mark.parametrize(
    "text, message",
    [
        ("part(fashion_mnist_mini, 5, 5)", "part: first = 5 must be at least 0 and below last = 5"),
        ("part(fashion_mnist_mini, 0, 10001)", "part: last = 10001: fashion_mnist_mini has 10000"),
        ("census(train=0)", "census: train = 0 must be greater than 0"),
        ("census(trian=5)", "no argument 'trian'; did you mean 'train'"),
        ('adult("adult.data", sensitive="gender")', "adult: sensitive = 'gender'; there are: workclass"),
        ('adult("adult.data", sensitive="age")', "adult: sensitive = 'age'; .*"),
        ("coarse(fashion_mnist_mini, [[0, 1]])", "must be two or more lists of classes by number"),
        ("coarse(fashion_mnist_mini, [[0, 1], [1, 2]])", "must hold each class from 0 to 9 once"),
        ("coarse(fashion_mnist_mini, ['a', 'b'])", "must be two or more lists of classes by number"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message):
        load_dataset(text, "train")
