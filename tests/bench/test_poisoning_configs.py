"""The sweeps of poisoning, privacy and monitoring, small: every kind of cell runs and leaves a whole record."""

from pathlib import Path

import numpy as np
import pytest

from robustbench_jax.bench import records
from robustbench_jax.bench.config import load_sweep
from robustbench_jax.bench.report import write_reports
from robustbench_jax.bench.runner import run_sweep
from robustbench_jax.bench.workshop import Workshop

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = ("model=mlp([8])", "recipe=sgd(epochs=1, batch_size=16)", "examples=12", "seed=0")
FIRST = {  # of each [[sweep]], by its number, one call of every list, so that a cell of each kind is left
    "backdoor_rates": (
        *("budget=rate(0.1)", "sweep.0.attack=badnets", "sweep.1.attack=sig(frequency=2)"),
        "sweep.2.attack=bpp",
    ),
    "backdoor_repair": ("attack=blended", "sweep.0.model_defence=clp", "sweep.1.defence=mixup"),
    "backdoor_clean_label": (
        *("sweep.0.attack=label_consistent(steps=2)", "sweep.1.attack=hidden_trigger(steps=2)", "budget=rate(0.1)"),
        "sweep.1.defence=standard",
    ),
    "poison_filtering": ("attack=label_flip", "data_defence=loss_filtering", "budget=rate(0.05)"),
    "neural_cleanse_population": ("inspection=neural_cleanse(epochs=1, batch=4)", "budget=rate(0.1)"),
    "poison_availability": (
        *("budget=rate(0.2)", "sweep.2.attack=label_flip(source=3, to=0)", "sweep.3.defence=gce"),
        *("sweep.4.data_defence=loss_filtering", "sweep.5.attack=adversarial_poisons(steps=2)"),
        "sweep.5.budget=rate(1)",
        *("sweep.6.defence=fast_at(linf(16/255))", "sweep.6.attack=unlearnable_examples(rounds=1)"),
        *("sweep.7.attack=label_flip", "sweep.8.attack=subpopulation(clusters=4)", "sweep.9.model=mlp([])"),
        "sweep.9.attack=influence_poisoning(steps=2)",
    ),
    "poison_targeted": (
        *("defence=standard", "attack=bullseye_polytope(eps=16/255, steps=2)", "budget=count(3)", "examples=2"),
    ),
    "certified_poisoning_mnist": (
        *(f"sweep.{i}.defence=partitioned(partitions=3, steps=4)" for i in (0, 2, 3)),
        "sweep.1.defence=partitioned(partitions=3, spread=2, steps=4)",
        *("sweep.0.certifier=deep_partition", "sweep.1.certifier=run_off_election", "sweep.2.certifier=deep_partition"),
        *(f"sweep.{i}.budget=count(1)" for i in (0, 1, 2)),
        "sweep.3.budget=count(5)",
    ),
    "model_tests": (
        "inspection=mntd(2, sgd(epochs=1, batch_size=2), queries=2, steps=2)",
        *("budget=rate(0.1)", "sweep.1.attack=sig(frequency=2)"),
    ),
    "certified_poisoning": (
        *(f"sweep.{i}.defence=partitioned(partitions=3, steps=4)" for i in (0, 2, 3)),
        *("sweep.0.certifier=deep_partition", "sweep.1.certifier=label_flips", "sweep.2.certifier=run_off_election"),
        *("sweep.0.budget=count(1)", "sweep.3.budget=count(5)", "sweep.4.budget=flips(5)"),
        *(f"sweep.{i}.budget=flips(1)" for i in (1, 2)),
    ),
    "byzantine": (
        *("defence=federated(trimmed_mean, clients=5)", "attack=ipm", "budget=byzantine(1)"),
        "recipe=sgd(epochs=1, batch_size=4)",
    ),
    "byzantine_mnist": (
        *("defence=federated(krum, clients=5)", "attack=mimic", "budget=byzantine(1)"),
        "recipe=sgd(epochs=1, batch_size=4)",
    ),
    "membership_fashion_mnist": (
        *("sweep.0.attack=gap", "sweep.1.attack=rmia", "sweep.2.attack=lira", "sweep.2.defence=dp_sgd(noise=1.0)"),
        *("sweep.1.budget=shadows(2)", "sweep.2.budget=shadows(2)"),
    ),
    "extraction_fashion_mnist": (
        "budget=queries(40, 0.1)",
        "sweep.0.attack=knockoff(model='mlp([4])', least_steps=5)",
        "sweep.1.attack=mixmatch(model='mlp([4])', least_steps=5)",
        "sweep.2.attack=data_free(model='mlp([4])', batch=4)",
        "sweep.3.attack=knockoff(model='mlp([4])', least_steps=5)",
        "sweep.3.model_defence=rounded(1)",
        "sweep.4.attack=knockoff(model='mlp([])', least_steps=5)",
        "sweep.5.attack=active_thief(model='mlp([4])', least_steps=5, rounds=1)",
        "sweep.6.attack=last_layer(model='mlp([4])', least_steps=5)",
        "sweep.7.attack=knockoff(model='mlp([4])', least_steps=5, labels=True)",
        "sweep.7.model_defence=mad(1.0)",
        "sweep.8.attack=kennen(families=['mlp([4])'], fronts=[''], weights=[''], copies=2, "
        "recipe=sgd(epochs=1, batch_size=16))",
    ),
    "privacy_audit": ("defence=dp_sgd(noise=1.0)", "budget=canaries(40)"),
    "attributes": (
        *("sweep.0.attack=csmia", "sweep.1.attack=loss_density", "sweep.1.defence=dp_sgd(noise=1.0)"),
        *("sweep.2.attack=overlearned", "budget=complete(12)", "sweep.0.dataset=census(train=40, test=20)"),
        *("sweep.1.dataset=census(train=40, test=20)", "sweep.2.dataset=coarse(npz('{images}'), [[0, 1], [2, 3]])"),
    ),
    "monitoring_fashion_mnist": (
        *("monitor=query_rate(threshold=3.0)", "sweep.0.budget=traffic(2, 4)", "sweep.1.budget=traffic(2, 6)"),
        *("sweep.1.attack=random_pixels", "sweep.2.attack=among_natural(random_pixels, 1)"),
        *("sweep.2.budget=traffic(2, 6)", "sweep.3.budget=traffic(2, 6, accounts=2)", "sweep.3.attack=natural"),
        *("sweep.4.attack=random_pixels", "sweep.4.budget=traffic(2, 6)"),
    ),
    "monitoring_refusals": (
        *("monitor=query_rate(threshold=3.0)", "attack=oars(square, linf(0.1))", "budget=traffic(2, 6)"),
    ),
    "truth_serum": ("attack=truth_serum(lira, copies=2, targets=20)", "budget=shadows(2)"),
    "privacy_audit_strong": (
        *("sweep.0.defence=dp_sgd(noise=1.0)", "sweep.1.defence=dp_sgd(noise=1.0)", "sweep.1.budget=runs(2)"),
        *("sweep.0.budget=canaries(40)", "sweep.1.attack=multi_run_audit(30)"),
    ),
    "private_training": (
        *("sweep.0.defence=dp_ftrl(noise=1.0)", "sweep.1.defence=output_perturbation", "sweep.1.model=mlp([])"),
        *("sweep.2.defence=dp_sgd(noise=1.0)", "budget=canaries(40)"),
    ),
    "inversion_fashion_mnist": (
        *("sweep.0.attack=analytic", "sweep.1.attack=inverting_gradients(3)", "sweep.2.attack=mi_face(steps=2)"),
        *("sweep.0.budget=gradients(1)", "sweep.1.budget=gradients(2)"),
    ),
    "model_inversion": (
        "dataset=only(npz('{images}'), [0, 1])",
        "attack=gmi(only(npz('{images}'), [2, 3]), steps=2, recipe=sgd(epochs=1, batch_size=16))",
    ),
    "watermarks_fashion_mnist": (
        *("sweep.0.defence=trigger_set(images=10)", "sweep.1.defence=uchida(bits=8)", "sweep.0.attack=prune"),
        *("sweep.1.attack=forge", "sweep.2.defence=dawn(rate=0.5)", "budget=images(30)"),
        "sweep.2.attack=extract(sgd(epochs=1, batch_size=16))",
        *("sweep.3.defence=dataset_inference(images=5, directions=1, steps=3)", "sweep.3.attack=no_removal"),
    ),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "data.npz"
    rng = np.random.default_rng(0)
    arrays = {f"x_{split}": rng.integers(0, 256, (120, 8, 8, 1), np.uint8) for split in ("train", "test")}
    np.savez(path, **arrays, y_train=np.arange(120) % 4, y_test=np.arange(120) % 4, classes=list("abcd"))
    return path


@pytest.mark.parametrize("name", FIRST)
def test_a_cell_of_each_kind_runs(name, images, tmp_path):
    sweep = load_sweep(
        CONFIGS / f"{name}.toml",
        [f'dataset=npz("{images}")', *SMALL, *(it.format(images=images) for it in FIRST[name])],
    )
    assert 1 <= len(sweep.cells) <= 9 and sweep.expected and sweep.duration
    summary = run_sweep(sweep.cells, tmp_path, runtime=sweep.runtime, workshop=Workshop(tmp_path / "victims"))
    assert not summary.failed and len(summary.ran) == len(sweep.cells)
    found, damaged = records.read_all(tmp_path)
    assert len(found) == len(sweep.cells) and not damaged
    written = write_reports(found, tmp_path, sweep.title, ("md", "csv"))
    shown = written[0].read_text()
    assert all(found[0].cell.show(part) in shown for part in ("dataset", "model", "budget"))
    again = run_sweep(sweep.cells, tmp_path, runtime=sweep.runtime, workshop=Workshop(tmp_path / "victims"))
    assert len(again.kept) == len(sweep.cells) and not again.ran
