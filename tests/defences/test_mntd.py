"""MNTD: what its shadow models are trained on, and a reader that tells planted backdoors in models it never saw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.defences.inspection.mntd import _said, fit_reader, jumbo, read, stamp
from robustbench_jax.models import build_model
from robustbench_jax.registry import build
from robustbench_jax.types import Classifier, Dataset, UserError

KEY = jax.random.key(0)
SHAPE, CLASSES = (8, 8, 1), 4


def images(count: int = 20) -> Dataset:
    x = np.full((count, *SHAPE), 100, np.uint8)
    return Dataset(x, (np.arange(count) % CLASSES).astype(np.int32), tuple("abcd"), "grey")


def linear(params, x):
    return x.reshape(*x.shape[:-3], -1) @ params["kernel"]


def planted(count: int, bad: np.ndarray, seed: int) -> Classifier:
    """Random linear models; where `bad`, the last pixel speaks loudly for one class, another one in each."""
    rng = np.random.default_rng(seed)
    kernels = rng.normal(size=(count, 64, CLASSES))
    kernels[bad, -1, rng.integers(0, CLASSES, count)[bad]] += 30
    return Classifier(linear, {"kernel": jnp.asarray(kernels, jnp.float32)})


@pytest.mark.parametrize("hidden", [0, 8])
def test_a_reader_tells_models_with_a_planted_backdoor_that_it_has_not_seen(hidden):
    settings = build("inspection", f"mntd(hidden={hidden}, steps=200)")
    bad = np.arange(64) % 2 == 1
    reader = fit_reader(KEY, planted(64, bad, 1), bad, SHAPE, settings)
    unseen = planted(40, bad[:40], 2)
    scores = np.array([read(reader, _said(linear, {"kernel": k}, reader["queries"])) for k in unseen.params["kernel"]])
    assert np.mean((scores > 0) == bad[:40]) >= 0.8


def test_shadows_are_trained_on_trusted_images_and_those_with_a_backdoor_on_stamped_ones_too():
    trusted = images()
    data, rows = jumbo(np.random.default_rng(0), trusted, 5)
    assert rows.shape == (10, 30) and np.all(rows[:5] < 20) and np.all(np.isin(np.arange(20), rows[5]))
    for own in rows[5:]:
        stamped = own[own >= 20]
        assert len(stamped) and len(set(data.y[stamped])) == 1
        assert np.all(np.any(data.x[stamped] != 100, axis=(1, 2, 3)))
    assert len({tuple(data.x[own[own >= 20][0]].ravel()) for own in rows[5:]}) == 5


def test_triggers_are_small_patches_or_faint_pictures_the_same_on_all_images():
    rng, kinds = np.random.default_rng(0), set()
    for _ in range(40):
        made = stamp(rng, images().x)
        changed = made[0] != 100
        assert np.all(made == made[0])
        kinds.add("patch" if changed.sum() <= 25 else "picture")
        assert changed.sum() <= 25 or np.abs(made[0].astype(int) - 100).max() <= 0.25 * 155 + 1
    assert kinds == {"patch", "picture"}


def test_one_key_and_one_architecture_have_one_reader_and_a_verdict_of_the_model_as_a_whole():
    made = []

    def blank(key):
        made.append(key)
        return build_model("mlp([4])", SHAPE, CLASSES, key)

    inspection = build("inspection", "mntd(2, sgd(epochs=1, batch_size=8), queries=2, steps=2)").making(blank)
    models = [build_model("mlp([4])", SHAPE, CLASSES, jax.random.key(i)) for i in (1, 2)]
    found = [inspection.inspect(KEY, model, images()) for model in models]
    assert len(made) == 4 and found[0].score != found[1].score
    assert found[0].accused.shape == (1,) and found[0].accused[0] == (found[0].score > 0)
    assert found[0].arrays["queries"].shape == (2, *SHAPE)
    inspection.inspect(jax.random.key(5), models[0], images())
    assert len(made) == 8


@pytest.mark.parametrize("text", ["mntd(shadows=0)", "mntd(queries=0)", "mntd(hidden=-1)", "mntd(steps=0)"])
def test_bad_arguments_are_named(text):
    with pytest.raises(UserError, match="mntd"):
        build("inspection", text)


def test_it_must_be_given_the_architecture():
    with pytest.raises(UserError, match="must be given the architecture"):
        build("inspection", "mntd").inspect(KEY, build_model("mlp([4])", SHAPE, CLASSES, KEY), images())
