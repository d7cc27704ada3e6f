"""Certificates against patches: known votes, every place of a patch by enumeration, and ties against the label."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.certify import patch_cleanser
from robustbench_jax.certify.derandomized_smoothing import ahead
from robustbench_jax.ops import ablation
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import build
from robustbench_jax.threats import certification
from robustbench_jax.types import Classifier, Dataset, UserError
from tests import oracles

KEY = jax.random.key(0)
ONE = Runtime(width=512, devices=1)


def certify(text, model, x, y, budget, runtime=ONE):
    made, budget = build("certifier", text), build("budget", budget)
    return made.certify(KEY, model, x, np.asarray(y), budget, ids=np.arange(len(x)), runtime=runtime)


def one_pixel(params, x):
    """Class 0 where the pixel at `params` is dark, 1 where it is bright, 2 where it is hidden (grey)."""
    value = x[params[0], params[1], 0]
    return jnp.array([value < 0.4, value > 0.6, (value >= 0.4) & (value <= 0.6)], jnp.float32)


def count_bright(params, x):
    """Class 1 where more than `params` pixels are bright."""
    return jnp.stack([params, jnp.sum(x > 0.75)])


def first_row(params, x):
    """The class of a band is coded by its brightest pixel of the first row that is not grey: 0 below 1/2, else 1."""
    seen = jnp.where(x[0, :, 0] == ablation.GREY, -1.0, x[0, :, 0])
    bright = jnp.max(seen) > 0.5
    return jnp.stack([~bright, bright]).astype(jnp.float32)


def noisy_images(count, side, seed=0):
    """Class 1 where an image is bright on the whole; its rows, columns and pixels differ from that at random."""
    rng = np.random.default_rng(seed)
    parts = [(1, 1), (side, 1), (1, side), (side, side)]
    level = sum(
        size * rng.normal(size=(count, *part)) for size, part in zip((0.2, 0.15, 0.15, 0.1), parts, strict=True)
    )
    y = (level.mean((1, 2)) > 0).astype(np.int32)
    x = np.clip(0.5 + level, 0, 1)[..., None]
    return Dataset((x * 255).astype(np.uint8), y, ("dark", "bright"), "noisy")


def brightness(params, x):
    """Class 1 where the pixels, weighted, are brighter than grey on the whole; what is hidden in grey has no say."""
    score = jnp.sum(params * (x - ablation.GREY))
    return jnp.stack([-score, score])


@pytest.fixture(scope="module")
def bright():
    """A model of brightness with random weights, and images of both classes."""
    weights = np.random.default_rng(5).uniform(0.5, 1.5, (6, 6, 1)).astype(np.float32)
    return Classifier(brightness, weights), noisy_images(24, 6, 1)


def placed_patches(model, x, y, height, width):
    """x_adv and the image that each is of: a patch in every place, filled at random and by signs of gradients."""
    x, rng = as_unit(x), np.random.default_rng(0)

    def loss(x, label):
        choices = ablation.bands("column", 2, x.shape)
        logits = jax.vmap(lambda r: model(ablation.only(x, r, ablation.GREY)))(choices)
        return jnp.mean(jax.nn.logsumexp(logits, -1) - logits[:, label])

    signs = np.asarray(jax.vmap(jax.grad(loss))(jnp.asarray(x), jnp.asarray(y))) > 0
    worst = [signs.astype(np.float32), 1 - signs.astype(np.float32)]
    fills = [*worst, *rng.uniform(size=(2, *x.shape)), np.zeros_like(x), np.ones_like(x)]
    out = []
    places = itertools.product(range(x.shape[1] - height + 1), range(x.shape[2] - width + 1))
    for (top, left), fill in itertools.product(places, fills):
        changed = x.copy()
        changed[:, top : top + height, left : left + width] = fill[:, top : top + height, left : left + width]
        out.append(changed)
    return np.concatenate(out).astype(np.float32), np.tile(np.arange(len(x)), len(out))


SOUND = [
    ("derandomized_smoothing(1)", 4, 2),
    ("derandomized_smoothing(2)", 2, 1),
    ("derandomized_smoothing(1, threshold=0.45)", 2, 2),
    ("derandomized_smoothing(1, kind='row')", 2, 3),
    ("derandomized_smoothing(2, kind='block')", 3, 2),
    ("patch_cleanser(2)", 1, 2),
    ("patch_cleanser(3)", 2, 2),
]


@pytest.mark.parametrize("text, height, width", SOUND)
def test_no_patch_anywhere_changes_the_class_of_a_certified_image(text, height, width, bright):
    model, data = bright
    budget = f"patch({height}, {width})"
    y = certify(text, model, data.x, data.y, budget).prediction
    certified = certify(text, model, data.x, y, budget).certified
    x_adv, image = placed_patches(model, data.x, y, height, width)
    changed = certify(text, model, x_adv, y[image], budget).prediction != y[image]
    assert 0 < certified.sum() and changed.any() and not changed[certified[image]].any()


@pytest.mark.parametrize("kind", ablation.SHAPES)
def test_the_bands_that_a_patch_touches_are_at_most_those_that_are_counted_and_as_many_somewhere(kind):
    for height, width, side in ((4, 5, 2), (4, 5, 4), (7, 3, 1), (7, 3, 3)):
        masks = np.asarray(
            jax.vmap(partial(ablation.inside, shape=(height, width)))(ablation.bands(kind, side, (height, width)))
        )
        for tall, wide in itertools.product(range(1, height + 1), range(1, width + 1)):
            most = 0
            for top, left in itertools.product(range(height - tall + 1), range(width - wide + 1)):
                most = max(most, masks[:, top : top + tall, left : left + wide].any((1, 2)).sum())
            assert most == ablation.met(kind, side, (tall, wide), (height, width))


@pytest.mark.parametrize("kind, voters", [("column", 3), ("row", 3), ("block", 9)])
def test_a_model_of_one_pixel_has_the_votes_of_the_bands_that_show_it(kind, voters):
    x = np.full((2, 7, 7, 1), 0, np.uint8)
    x[1, 6, 0] = 255
    found = certify(
        f"derandomized_smoothing(3, kind='{kind}')", Classifier(one_pixel, np.array([6, 0])), x, [2, 1], "patch(1, 1)"
    )
    bands = 49 if kind == "block" else 7
    np.testing.assert_array_equal(found.evidence["votes"], [bands - voters, voters])
    np.testing.assert_array_equal(found.evidence["rival"], [voters + 1, bands - voters])
    np.testing.assert_array_equal(found.prediction, 2)
    np.testing.assert_array_equal(found.certified, [bands - 2 * voters - 1 >= 2 * voters, False])
    assert found.counts["forward_evaluations"] == 2 * bands and found.failure == 0


def test_the_certificate_of_columns_is_exact_where_each_column_can_be_given_any_class():
    """One pixel decides a column: y holds iff one column less for it and one more for the other leave it in front."""
    columns = np.array(list(itertools.product([0, 1], repeat=6)), np.uint8)
    x = np.repeat(255 * columns[:, None, :, None], 3, axis=1)
    model = Classifier(first_row, jnp.zeros(()))
    certified = {
        y: certify("derandomized_smoothing(1)", model, x, np.full(64, y), "patch(1, 1)").certified for y in (0, 1)
    }
    for number, row in enumerate(columns):
        for y in (0, 1):
            flipped = [row] + [np.where(np.arange(6) == i, 1 - row, row) for i in range(6)]
            holds = all(int(f.sum() > 3) == y for f in flipped)  # 3 to 3 goes to class 0
            assert certified[y][number] == holds
    assert (certified[0].sum(), certified[1].sum()) == (22, 7)


def test_votes_that_tie_count_for_the_lower_class():
    counts = np.array([[5, 5, 3], [5, 5, 3], [4, 4, 4], [4, 5, 9]])
    own, rival = ahead(counts, np.array([0, 1, 2, 2]))
    np.testing.assert_array_equal(own, [5, 5, 4, 9])
    np.testing.assert_array_equal(rival, [5, 6, 5, 6])


def test_with_a_threshold_a_band_votes_for_every_class_that_is_likely_enough():
    model = Classifier(lambda params, x: params + 0 * x.sum(), jnp.log(jnp.array([0.45, 0.4, 0.15])))
    x = np.zeros((1, 5, 5, 1), np.uint8)
    for threshold, votes in ((0.1, [5, 5, 5]), (0.3, [5, 5, 0]), (0.42, [5, 0, 0]), (0.5, [0, 0, 0])):
        made = build("certifier", f"derandomized_smoothing(1, threshold={threshold})")
        np.testing.assert_array_equal(made.votes(model, x, ONE), [votes])
    assert certify("derandomized_smoothing(1, threshold=0.42)", model, x, [0], "patch(1, 2)").certified.all()
    assert not certify("derandomized_smoothing(1, threshold=0.42)", model, x, [0], "patch(1, 3)").certified.any()


def test_masks_of_double_masking_cover_every_place_of_the_patch():
    for whole, count in itertools.product(range(1, 15), range(1, 8)):
        for patch in range(1, whole + 1):
            starts, length = ablation.covering(whole, patch, count)
            assert len(starts) <= count and starts.min() >= 0 and starts.max() + length <= whole
            for place in range(whole - patch + 1):
                assert any(start <= place and place + patch <= start + length for start in starts)


def test_masks_of_rectangular_patches_cover_them_in_rectangular_images():
    masks = patch_cleanser.rectangles(3, (2, 4), (9, 7, 3))
    hidden = np.asarray(jax.vmap(partial(ablation.inside, shape=(9, 7)))(masks[:, None]))
    assert len(masks) == 6  # two of them do for the 4 places from left to right
    for top, left in itertools.product(range(8), range(4)):
        assert hidden[:, top : top + 2, left : left + 4].all((1, 2)).any()


def test_double_masking_asks_the_masks_that_disagree_for_a_second_one():
    agree = np.full((3, 3), 4)
    assert patch_cleanser.answer(agree) == 4
    kept = agree.copy()
    kept[1, :] = kept[:, 1] = 2  # the mask that hides the patch, whatever joins it
    assert patch_cleanser.answer(kept) == 2
    lost = kept.copy()
    lost[1, 2] = lost[2, 1] = 4
    assert patch_cleanser.answer(lost) == 4
    tied = np.array([[3, 1], [1, 1]])
    assert patch_cleanser.answer(tied) == 1
    two = np.diag([5, 5, 5, 1, 2])
    two[3, :], two[4, :] = 0, 2
    two[3, 3] = 1
    assert patch_cleanser.answer(two) == 2


def test_a_model_that_counts_is_certified_iff_what_two_masks_leave_is_enough():
    """patch(1, 1), two masks an axis: 4 masks of 4 x 4 tile the image, two of them leave 32 of 64 bright pixels."""
    x = np.full((1, 8, 8, 1), 255, np.uint8)
    for needed, certified, pairs in ((31.5, True, 10), (32.5, False, 4), (48.5, False, 0)):
        model = Classifier(count_bright, jnp.float32(needed))
        found = certify("patch_cleanser(2)", model, x, [1], "patch(1, 1)")
        assert found.certified[0] == certified and found.evidence["pairs_right"][0] == pairs
        assert found.counts["forward_evaluations"] == 10
    assert found.prediction[0] == 0  # every single mask leaves 48


def test_a_model_of_one_pixel_is_never_certified_by_masks_but_for_what_it_says_when_it_is_hidden():
    x = np.zeros((1, 6, 6, 1), np.uint8)
    model = Classifier(one_pixel, np.array([2, 3]))
    assert not certify("patch_cleanser(3)", model, x, [0], "patch(2, 2)").certified.any()
    assert certify("patch_cleanser(3)", model, np.full_like(x, 128), [2], "patch(2, 2)").certified.all()


@pytest.mark.parametrize("text", ["derandomized_smoothing(2)", "patch_cleanser(2)"])
def test_images_are_certified_alike_in_any_company_and_on_two_devices(text, bright):
    model, data = bright
    whole = certify(text, model, data.x, data.y, "patch(1, 2)")
    few = certify(text, model, data.x[5:7], data.y[5:7], "patch(1, 2)", Runtime(width=8, devices=2))
    np.testing.assert_array_equal(few.prediction, whole.prediction[5:7])
    for name, values in few.evidence.items():
        np.testing.assert_array_equal(values, whole.evidence[name][5:7])


@pytest.mark.parametrize("text", ["derandomized_smoothing(2)", "patch_cleanser(2)"])
def test_smaller_scales_of_a_patch_have_the_certificate_of_its_whole_size(text, bright):
    model, data = bright
    whole, scaled = (certify(text, model, data.x, data.y, f"patch(2, 2{s})") for s in ("", ", smallest=0.2"))
    np.testing.assert_array_equal(whole.certified, scaled.certified)


def test_the_model_that_is_certified_is_the_one_whose_accuracy_is_reported(bright):
    model, data = bright
    budget, certifier = build("budget", "patch(1, 1)"), build("certifier", "derandomized_smoothing(1)")
    found = certification.run(KEY, model, data, certifier, budget, runtime=ONE)
    alone = certify("derandomized_smoothing(1)", model, data.x, data.y, "patch(1, 1)")
    np.testing.assert_array_equal(found.arrays["prediction"], alone.prediction)
    assert found.metrics["certified_accuracy"].value == np.mean(alone.certified) > 0.5
    assert found.metrics["clean_accuracy"].value >= found.metrics["certified_accuracy"].value and not found.flags


@pytest.mark.parametrize("name, kind", [(f"{kind}_ablation", kind) for kind in ablation.SHAPES])
def test_training_sees_one_band_of_each_image_by_its_id_alone(name, kind):
    data, ids = oracles.noise_images(64, (5, 5, 2)), np.arange(64)
    x = jnp.asarray(data.x / 255, jnp.float32)
    defence = build("training", f"{name}(2, fill=0.25)")
    seen = np.asarray(defence.perturb(KEY, None, x, data.y, ids))
    possible = np.asarray(jax.vmap(partial(ablation.inside, shape=(5, 5)))(ablation.bands(kind, 2, (5, 5))))
    shown = []
    for image, left in zip(np.asarray(x), seen, strict=True):
        options = np.where(possible[..., None], image, 0.25).astype(np.float32)
        shown.append(np.flatnonzero((options == left).all((1, 2, 3))).item())
    assert set(shown) == set(range(5)) if kind != "block" else len(set(shown)) > 12
    again = defence.perturb(KEY, None, x[::-1], data.y[::-1], ids[::-1])
    np.testing.assert_array_equal(again[::-1], seen)


def test_what_cannot_be_asked_is_refused(bright):
    model, data = bright
    for kind, text, message in (
        ("certifier", "derandomized_smoothing(0)", "width = 0 must be at least 1"),
        ("certifier", "derandomized_smoothing(kind='colum')", "did you mean 'column'"),
        ("certifier", "derandomized_smoothing(threshold=1.5)", "threshold = 1.5"),
        ("certifier", "patch_cleanser(0)", "masks = 0 must be at least 1"),
        ("certifier", "patch_cleanser(fill=2)", "fill = 2.0 must lie between 0 and 1"),
        ("training", "column_ablation(0)", "column_ablation: width = 0"),
    ):
        with pytest.raises(UserError, match=message):
            build(kind, text)
    for text, budget, message in (
        ("derandomized_smoothing(7)", "patch(1, 1)", "width = 7: images of 6 x 6 take at most 6"),
        ("derandomized_smoothing(1)", "patch(7, 1)", "larger than the image, 6 x 6"),
        ("patch_cleanser(2)", "patch(1, 7)", "larger than the image, 6 x 6"),
        ("patch_cleanser(2)", "linf(0.1)", "certifies patch, e.g. patch\\(5, 5\\); got linf"),
    ):
        with pytest.raises(UserError, match=message):
            certify(text, model, data.x, data.y, budget)
    with pytest.raises(UserError, match="take at most 6"):
        build("training", "row_ablation(7)").perturb(KEY, model, as_unit(data.x), data.y, np.arange(24))
    nan = Classifier(lambda params, x: params * x.sum() * jnp.ones(3), jnp.float32(np.nan))
    with pytest.raises(UserError, match="partly hidden are NaN"):
        certify("patch_cleanser(2)", nan, data.x, data.y, "patch(1, 1)")
