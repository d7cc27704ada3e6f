"""image_folder("dir"): the order, the classes, the crop, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from robustbench_jax.data import load_dataset
from robustbench_jax.data.pictures import centre_crop
from robustbench_jax.types import UserError


def write(path, value, shape=(4, 4, 3)):
    """A picture of one value; array values are written as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.full(shape, value, np.uint8) if np.ndim(value) == 0 else value
    Image.fromarray(array).save(path)


@pytest.fixture
def animals(tmp_path):
    for name, values in (("dog", [10, 11, 12]), ("cat", [20, 21])):
        for value in values:
            write(tmp_path / "pets" / name / f"{value}.png", value)
    return tmp_path / "pets"


def test_one_file_of_each_class_in_turn_in_alphabetical_order(animals):
    data = load_dataset(f'image_folder("{animals}")')
    assert data.classes == ("cat", "dog")
    assert data.x[:, 0, 0, 0].tolist() == [20, 10, 21, 11, 12]
    assert data.y.tolist() == [0, 1, 0, 1, 1]
    assert data.x.shape == (5, 4, 4, 3) and data.x.dtype == np.uint8


def test_limit_reads_only_the_files_it_needs(animals):
    (animals / "dog/12.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match="examples = 6: .*pets has 5"):
        load_dataset(f'image_folder("{animals}")', limit=6)
    assert load_dataset(f'image_folder("{animals}")', limit=4).y.tolist() == [0, 1, 0, 1]
    with pytest.raises(UserError, match="12.png is no picture"):
        load_dataset(f'image_folder("{animals}")')


def test_labels_mean_the_same_class_in_both_splits(tmp_path):
    for place in ("train/ant", "train/bee", "train/cow", "test/bee", "test/cow"):
        write(tmp_path / place / "1.png", 1)
    assert load_dataset(f'image_folder("{tmp_path}")', "train").y.tolist() == [0, 1, 2]
    test = load_dataset(f'image_folder("{tmp_path}")', "test")
    assert (test.y.tolist(), test.classes) == ([1, 2], ("ant", "bee", "cow"))


def test_a_split_that_is_not_there_is_named(tmp_path):
    write(tmp_path / "train/ant/1.png", 1)
    with pytest.raises(UserError, match="holds train/ but no test/"):
        load_dataset(f'image_folder("{tmp_path}")', "test")


def test_hidden_and_other_files_are_no_images(animals):
    for name in (".git/x.png", "cat/._20.png"):
        write(animals / name, 0)
    (animals / "cat/notes.txt").write_text("no picture")
    data = load_dataset(f'image_folder("{animals}")')
    assert len(data) == 5 and data.classes == ("cat", "dog")


def test_grey_palette_and_transparent_pictures_become_what_is_asked_for(tmp_path):
    write(tmp_path / "a/1.png", 7, (4, 4))
    write(tmp_path / "a/2.png", 7, (4, 4, 4))
    coloured = Image.fromarray(np.full((4, 4, 3), 7, np.uint8))
    coloured.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "a/3.png")
    assert (load_dataset(f'image_folder("{tmp_path}")').x == np.full((3, 4, 4, 3), 7)).all()
    assert (load_dataset(f'image_folder("{tmp_path}", grey=True)').x == np.full((3, 4, 4, 1), 7)).all()


def test_sixteen_bit_pictures_are_refused_instead_of_clipped(tmp_path):
    write(tmp_path / "a/1.png", np.full((4, 4), 30_000, np.uint16))
    with pytest.raises(UserError, match="1.png has more than 8 bits"):
        load_dataset(f'image_folder("{tmp_path}")')


def test_images_of_several_sizes_need_a_size(animals):
    write(animals / "dog/9.png", 9, (4, 6, 3))
    with pytest.raises(UserError, match="several sizes, .*4x6.* give size"):
        load_dataset(f'image_folder("{animals}")')
    assert load_dataset(f'image_folder("{animals}", size=3)').x.shape == (6, 3, 3, 3)


def test_a_truncated_picture_is_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    for suffix in ("png", "jpg"):
        path = tmp_path / suffix / f"a/cut.{suffix}"
        write(path, noise)
        path.write_bytes(path.read_bytes()[:500])
        with pytest.raises(UserError, match=f"cut.{suffix} is no picture, or cut short"):
            load_dataset(f'image_folder("{tmp_path}/{suffix}")')


def test_an_empty_folder_a_missing_folder_and_a_bad_size_are_refused(tmp_path):
    (tmp_path / "cat").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        load_dataset(f'image_folder("{tmp_path}")')
    with pytest.raises(UserError, match="no folder 'nowhere'.*fashion_mnist_mini"):
        load_dataset('image_folder("nowhere")')
    with pytest.raises(UserError, match="size = 0 must be greater than 0"):
        load_dataset(f'image_folder("{tmp_path}", size=0)')


def test_the_centre_crop_cuts_the_middle_and_never_stretches():
    columns = np.repeat(np.arange(8, dtype=np.uint8)[None, :, None], 4, axis=0)
    np.testing.assert_array_equal(centre_crop(columns, 2, 4)[..., 0], [[3, 4], [3, 4]])
    np.testing.assert_array_equal(centre_crop(columns, 4, 4)[..., 0], columns[:, 2:6, 0])
    assert centre_crop(np.zeros((100, 333, 3), np.uint8), 224, 256).shape == (224, 224, 3)
    assert centre_crop(np.zeros((301, 7, 1), np.uint8), 5, 5).shape == (5, 5, 1)
