"""Laws of training defences: each trains to finite weights, its key decides them, a wrong argument is named."""

from functools import lru_cache

import jax
import numpy as np
import pytest

from robustbench_jax.models import build_model
from robustbench_jax.registry import build, canonical, discover, entry, short
from robustbench_jax.stacks import gains
from robustbench_jax.training import TrainingDefence, fit
from robustbench_jax.types import Dataset, UserError

SHORT = "pgd(steps=1)"
CALLS = {  # quick ones; a defence that is not here is called by its name alone
    "abl": "abl(early=1, isolated=0.1)",
    "ard": f"ard(attack={SHORT}, budget=linf(0.1))",
    "adversarial_training": f"adversarial_training({SHORT}, linf(0.1))",
    "avg_at": f"avg_at([linf(0.1), l2(0.5)], {SHORT})",
    "awp": "awp(standard)",
    "bagged": "bagged(models=2, draws=6, steps=3)",
    "dp_ftrl": "dp_ftrl(noise=1.0)",
    "dp_sgd": "dp_sgd(noise=1.0)",
    "e_at": f"e_at([linf(0.1), l1(1)], {SHORT})",
    "fast_at": "fast_at(align=0.1)",
    "federated": "federated(mean, clients=2)",
    "finetuned": "finetuned(standard, checkpoint('{source}'))",
    "free_at": "free_at(replays=2)",
    "hat": "hat(steps=1)",
    "head_only": "head_only(checkpoint('{source}'))",
    "label_smoothing": "label_smoothing(standard)",
    "macer": "macer(copies=2)",
    "mart": "mart(steps=1)",
    "max_at": f"max_at([linf(0.1), l2(0.5)], {SHORT})",
    "msd": "msd([linf(0.1), l2(0.5)], steps=1)",
    "mtl_ibp": f"mtl_ibp(attack={SHORT})",
    "partitioned": "partitioned(partitions=2, steps=3)",
    "pate": "pate(npz('{source}/public.npz'), teachers=2, queries=20, answers=16, threshold=0, sigma1=1, steps=3)",
    "rslad": "rslad(steps=1)",
    "sabr": f"sabr(attack={SHORT})",
    "smoothadv": "smoothadv(steps=1)",
    "trades": "trades(steps=1)",
    "column_ablation": "column_ablation(width=2)",
    "row_ablation": "row_ablation(width=2)",
    "block_ablation": "block_ablation(width=2)",
}
SOLVED = ("least_squares",)  # in closed form: from a model's weights, without a draw
MODELS = {"output_perturbation": "mlp([])", "lipschitz_margin": "lipschitz_mlp([4])"}
NAMES = sorted(discover("training"))
SHAPE = (4, 4, 1)


@lru_cache
def data():
    rng = np.random.default_rng(0)
    return Dataset(
        rng.integers(0, 256, (24, *SHAPE), np.uint8), np.arange(24, dtype=np.int32) % 3, ("a", "b", "c"), "n"
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    from robustbench_jax.models import files

    model, directory = fresh("standard"), tmp_path_factory.mktemp("source")
    np.savez(
        directory / "public.npz", x=np.random.default_rng(1).integers(0, 256, (20, *SHAPE), np.uint8), y=np.arange(20)
    )
    files.save(directory / files.MODEL, model, files.describe(model, "mlp([4])", SHAPE, 3))
    return directory


def fresh(name):
    return build_model(MODELS.get(name, "mlp([4])"), SHAPE, 3, jax.random.key(1))


def fitted(name, source, seed=0, epochs=2, **options):
    defence = build("training", CALLS.get(name, name).format(source=source))
    recipe = build("recipe", f"sgd(epochs={epochs}, batch_size=8, learning_rate=0.01)")
    return fit(jax.random.key(seed), fresh(name), data(), recipe, defence=defence, **options).params


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_to_finite_weights_that_its_key_decides(name, source):
    first, again, other = (fitted(name, source, seed) for seed in (0, 0, 1))
    for key, value in first.items():
        assert np.isfinite(value).all()
        np.testing.assert_array_equal(value, again[key])
    assert any(not np.array_equal(value, fresh(name).params[key]) for key, value in first.items())
    moved = any(not np.array_equal(value, other[key]) for key, value in first.items())
    assert moved == (name not in SOLVED)


class Killed(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("name", ["e_at", "free_at", "hat"])
def test_what_a_killed_run_remembers_or_has_trained_beside_it_is_there_when_it_goes_on(name, source, tmp_path):
    def stop(progress):
        if progress.step == 20:  # of 24, the last whole epoch being the 18th step
            raise Killed

    with pytest.raises(Killed):
        fitted(name, source, epochs=8, directory=tmp_path, report=stop)
    resumed, whole = fitted(name, source, epochs=8, directory=tmp_path), fitted(name, source, epochs=8)
    for key, value in whole.items():
        np.testing.assert_array_equal(value, resumed[key])


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_argument_is_named_and_a_call_says_what_it_is(name, source):
    with pytest.raises(UserError, match="no_such_argument"):
        build("training", f"{name}(no_such_argument=1)")
    text = CALLS.get(name, name).format(source=source)
    assert canonical("training", short("training", text)) == canonical("training", text)


@pytest.mark.parametrize("name", NAMES)
def test_what_validation_is_to_watch_is_an_attack_and_its_budget_or_nothing(name, source):
    watched = build("training", CALLS.get(name, name).format(source=source)).watched
    if watched is not None:
        attack, budget = watched
        assert attack.registered[0] == "attack" and budget.registered[0] == "budget"


@pytest.mark.parametrize("name", NAMES)
def test_a_loop_of_its_own_is_called_loop(name):
    """What asks whether there is one looks for that name (training.py)."""
    assert entry("training", name).make.fit is TrainingDefence.fit


def test_a_defence_with_a_loop_of_its_own_is_never_trained_as_one_of_a_stack():
    model = fresh("standard")
    assert gains(build("training", "standard"), model)
    for text in ("partitioned(partitions=2)", "federated(mean)"):
        assert not gains(build("training", text), model)
