"""The runner: a rerun does only what is missing, failed, damaged or out of date; a stop costs one cell."""

import json

import jax
import numpy as np
import pytest

from robustbench_jax.bench import records, runner
from robustbench_jax.bench.cells import make_cell
from robustbench_jax.bench.runner import run_sweep
from robustbench_jax.bench.workshop import Workshop
from robustbench_jax.models import build_model, files
from robustbench_jax.ops.judge import predict
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.types import UserError

SHAPE, CLASSES, COUNT = (4, 4, 1), 3, 12
TIMES = ("timing", "provenance")


class Bench:
    """A directory with images, a model that is right on most of them, and sweeps over both."""

    def __init__(self, directory):
        self.directory, self.out = directory, directory / "out"
        self.x = np.random.default_rng(0).integers(0, 256, (COUNT, *SHAPE), np.uint8)
        self.save_model(0)
        self.save_data()

    def save_model(self, seed: int, name: str = "model"):
        model = build_model("mlp([8])", SHAPE, CLASSES, jax.random.key(seed))
        files.save(self.directory / name, model, files.describe(model, "mlp([8])", SHAPE, CLASSES))
        self.y = predict(model, self.x).argmax(-1)
        self.y[0] = (self.y[0] + 1) % CLASSES

    def save_data(self, **changes):
        arrays = {"x": self.x, "y": self.y, "classes": ["a", "b", "c"]} | changes
        np.savez(self.directory / "data.npz", **arrays)

    def cell(self, eps: float = 0.1, **changes):
        model = f'checkpoint("{self.directory}/model")'
        data = f'npz("{self.directory}/data.npz")'
        fields = {"model": model, "dataset": data, "attack": "pgd(3)", "budget": f"linf({eps})"}
        return make_cell(**fields | changes)

    def run(self, *cells, **options):
        workshop = Workshop(self.out / "victims")
        return run_sweep(tuple(cells), self.out, runtime=Runtime(), workshop=workshop, **options)

    def path(self, cell):
        return self.out / "cells" / f"{cell.id}.json"

    def read(self, cell) -> dict:
        return json.loads(self.path(cell).read_text())

    def stamps(self, *cells) -> list[int]:
        return [self.path(cell).stat().st_mtime_ns for cell in cells]


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def without_times(record: dict) -> dict:
    return {name: value for name, value in record.items() if name not in TIMES}


def test_a_sweep_leaves_one_record_a_cell_with_its_numbers(bench):
    cells = bench.cell(0.0), bench.cell(1.0)
    summary = bench.run(*cells)
    assert (summary.ran, summary.kept, summary.failed) == (list(cells), [], [])
    unharmed, broken = map(bench.read, cells)
    right = [False] + [True] * (COUNT - 1)
    for record, cell in zip((unharmed, broken), cells, strict=True):
        assert record["schema"] == 1 and record["id"] == cell.id and record["status"] == "ok"
        assert record["cell"] == cell.model_dump()
        assert record["per_example"]["clean_correct"] == right
        assert record["metrics"]["clean_accuracy"]["value"] == (COUNT - 1) / COUNT
        assert record["provenance"]["seed"] == 0 and record["papers"] == ["madry2018", "goodfellow2015"]
    assert unharmed["per_example"]["robust"] == right
    assert sum(broken["per_example"]["robust"]) < COUNT - 1


def test_beside_a_record_lie_the_images_that_were_broken(bench):
    cell = bench.cell(0.3)
    bench.run(cell)
    each = bench.read(cell)["per_example"]
    with np.load(bench.out / "arrays" / f"{cell.id}.npz") as arrays:
        ids, x_adv = arrays["ids"], arrays["x_adv"]
    clean, robust = np.array(each["clean_correct"]), np.array(each["robust"])
    assert len(ids) and ids.tolist() == np.flatnonzero(clean & ~robust).tolist()
    model = files.load(bench.directory / "model")[0]
    assert np.all(predict(model, x_adv).argmax(-1) != bench.y[ids])
    assert np.abs(x_adv - np.float32(bench.x[ids]) / 255).max() <= 0.3 + 1e-6


def test_a_rerun_keeps_what_is_there_byte_for_byte(bench):
    cells = bench.cell(0.1), bench.cell(0.2)
    bench.run(*cells)
    before = bench.stamps(*cells)
    summary = bench.run(*cells)
    assert (summary.ran, summary.kept) == ([], list(cells))
    assert bench.stamps(*cells) == before


def test_a_rerun_does_only_the_cells_that_are_missing(bench):
    cells = [bench.cell(eps) for eps in (0.1, 0.2, 0.3)]
    bench.run(cells[0], cells[1])
    bench.path(cells[0]).unlink()
    before = bench.stamps(cells[1])
    summary = bench.run(*cells)
    assert (summary.ran, summary.kept) == ([cells[0], cells[2]], [cells[1]])
    assert bench.stamps(cells[1]) == before


@pytest.mark.parametrize("keep", [0, 1, 100, -2])
def test_a_truncated_record_is_made_again_as_it_was(bench, keep):
    cells = bench.cell(0.1), bench.cell(0.2)
    bench.run(*cells)
    whole = bench.read(cells[0])
    bench.path(cells[0]).write_bytes(bench.path(cells[0]).read_bytes()[:keep])
    summary = bench.run(*cells)
    assert (summary.ran, summary.kept) == ([cells[0]], [cells[1]])
    assert without_times(bench.read(cells[0])) == without_times(whole)


def test_a_half_written_file_of_a_run_that_was_killed_does_no_harm(bench):
    cell = bench.cell()
    bench.run(cell)
    (bench.out / "cells" / f".{cell.id}.json.x7").write_text('{"schema": 1, "id"')
    assert bench.run(cell).kept == [cell]
    assert records.read_all(bench.out)[1] == []


def test_a_record_is_made_again_when_the_images_or_labels_changed(bench):
    cell = bench.cell()
    bench.run(cell)
    assert bench.run(cell).kept == [cell]
    bench.x[3, 0, 0, 0] ^= 1
    bench.save_data()
    assert bench.run(cell).ran == [cell]
    bench.y[3] = (bench.y[3] + 1) % CLASSES
    bench.save_data()
    assert bench.run(cell).ran == [cell]
    assert bench.run(cell).kept == [cell]


def test_examples_that_a_cell_does_not_look_at_may_change(bench):
    cell = bench.cell(examples=5)
    bench.run(cell)
    bench.x[7] ^= 255
    bench.save_data()
    assert bench.run(cell).kept == [cell]


def test_a_record_is_made_again_when_the_weights_changed(bench):
    cell = bench.cell()
    bench.run(cell)
    before = bench.read(cell)["provenance"]["weights"]
    model = build_model("mlp([8])", SHAPE, CLASSES, jax.random.key(1))
    files.save(bench.directory / "model", model, files.describe(model, "mlp([8])", SHAPE, CLASSES))
    assert bench.run(cell).ran == [cell]
    assert bench.read(cell)["provenance"]["weights"] == files.digest(model.params) != before


def test_a_failing_cell_leaves_its_traceback_and_the_others_run(bench):
    good = bench.cell(0.1), bench.cell(0.2)
    bad = bench.cell(dataset=f'npz("{bench.directory}/gone.npz")')
    summary = bench.run(good[0], bad, good[1])
    assert summary.ran == list(good)
    assert [cell for cell, _ in summary.failed] == [bad]
    assert "gone.npz" in summary.failed[0][1] and "\n" not in summary.failed[0][1]
    record = bench.read(bad)
    assert record["status"] == "failed" and record["metrics"] == record["per_example"] == {}
    assert record["error"].startswith("Traceback (most recent call last):")
    assert "gone.npz" in record["error"].splitlines()[-1]


def test_an_error_without_a_message_is_named_by_its_type(bench, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(runner, "run_cell", broken)
    summary = bench.run(bench.cell())
    assert summary.failed == [(bench.cell(), "ZeroDivisionError")]


def test_a_failed_cell_is_run_again_and_its_record_replaced(bench):
    cell = bench.cell()
    (bench.directory / "data.npz").rename(bench.directory / "away.npz")
    assert [failed for failed, _ in bench.run(cell).failed] == [cell]
    (bench.directory / "away.npz").rename(bench.directory / "data.npz")
    assert bench.run(cell).ran == [cell]
    assert bench.read(cell)["status"] == "ok" and bench.read(cell)["error"] is None


def test_a_result_survives_when_its_images_cannot_be_read_for_now(bench):
    cell = bench.cell()
    bench.run(cell)
    before = bench.stamps(cell)
    (bench.directory / "data.npz").rename(bench.directory / "away.npz")
    ((failed, reason),) = bench.run(cell).failed
    assert failed == cell and reason.endswith("its earlier record is kept, unchecked")
    assert bench.stamps(cell) == before and bench.read(cell)["status"] == "ok"
    (bench.directory / "away.npz").rename(bench.directory / "data.npz")
    assert bench.run(cell).kept == [cell]


def test_a_result_on_old_images_does_not_stand_where_the_new_ones_fail(bench):
    cell = bench.cell()
    bench.run(cell)
    bench.save_data(x=bench.x[:, :3])
    assert [failed for failed, _ in bench.run(cell).failed] == [cell]
    assert bench.read(cell)["status"] == "failed"


def test_a_model_that_does_not_fit_its_data_fails_by_name(bench):
    other = bench.directory / "four.npz"
    np.savez(other, x=bench.x, y=np.arange(COUNT) % 4)
    small = bench.directory / "small.npz"
    np.savez(small, x=bench.x[:, :3], y=bench.y, classes=["a", "b", "c"])
    cells = [bench.cell(dataset=f'npz("{path}")') for path in (other, small)]
    (_, classes), (_, shape) = bench.run(*cells).failed
    assert "the model has 3 classes" in classes and "has 4" in classes
    assert "the model does not take images of shape [3, 4, 1]" in shape


def interrupt_at(number: int):
    def begin(at, cell, examples):
        if at == number:
            raise KeyboardInterrupt
        return lambda settled: None

    return begin


def test_stopping_keeps_every_cell_that_was_done_and_the_rest_follows(bench):
    cells = [bench.cell(eps) for eps in (0.1, 0.2, 0.3, 0.4)]
    with pytest.raises(KeyboardInterrupt):
        bench.run(*cells, begin=interrupt_at(2))
    assert [record.id for record in records.read_all(bench.out)[0]] == sorted(cell.id for cell in cells[:2])
    assert not bench.path(cells[2]).exists()
    summary = bench.run(*cells)
    assert (summary.kept, summary.ran) == (cells[:2], cells[2:])


def test_stopping_in_the_middle_of_an_attack_loses_that_cell_alone(bench):
    cells = bench.cell(0.1), bench.cell(0.2)

    def begin(number, cell, examples):
        def settled(count):
            if number == 1:
                raise KeyboardInterrupt

        return settled

    with pytest.raises(KeyboardInterrupt):
        bench.run(*cells, begin=begin)
    assert [record.id for record in records.read_all(bench.out)[0]] == [cells[0].id]


def test_the_order_and_company_of_cells_change_no_result(bench):
    cells = [bench.cell(eps, seed=seed) for eps in (0.05, 0.2) for seed in (0, 1)]
    bench.run(*cells)
    together = [without_times(bench.read(cell)) for cell in cells]
    for path in (bench.out / "cells").iterdir():
        path.unlink()
    for cell in reversed(cells):
        bench.run(cell)
    assert [without_times(bench.read(cell)) for cell in cells] == together


def test_progress_is_told_of_every_cell_and_ends_at_its_last_example(bench):
    cells = bench.cell(0.1), bench.cell(0.2, examples=5)
    bench.run(cells[0])
    told = []

    def begin(number, cell, examples):
        told.append((number, cell, examples, []))
        return told[-1][-1].append

    bench.run(*cells, begin=begin)
    assert [entry[:3] for entry in told] == [(0, cells[0], COUNT), (1, cells[1], 5)]
    assert [entry[3][-1] for entry in told] == [COUNT, 5]
    assert told[1][3] == sorted(told[1][3])


def test_cells_that_share_a_trained_victim_train_it_once_and_for_all(bench):
    steps = []
    trained = {"model": "mlp([8])", "recipe": "sgd(epochs=1, batch_size=4)"}
    cells = [bench.cell(eps, **trained) for eps in (0.1, 0.2)]
    for _ in range(2):
        workshop = Workshop(bench.out / "victims", lambda what, progress: steps.append(progress.step))
        run_sweep(tuple(cells), bench.out, runtime=Runtime(), workshop=workshop)
    assert steps == [3]
    assert len(list((bench.out / "victims").iterdir())) == 1
    assert bench.read(cells[0])["provenance"]["weights"] == bench.read(cells[1])["provenance"]["weights"]


def test_a_full_disk_ends_the_sweep_and_what_was_written_is_whole(bench, monkeypatch):
    cells = [bench.cell(eps) for eps in (0.1, 0.2, 0.3)]
    bench.run(cells[0])

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(UserError, match="the disk is full"):
            bench.run(*cells)
    assert sorted(path.name for path in (bench.out / "cells").iterdir()) == [f"{cells[0].id}.json"]
    assert bench.run(*cells).ran == cells[1:]


def test_the_papers_of_everything_used_are_named_once():
    cell = make_cell(
        model="mlp",
        dataset="fashion_mnist_mini",
        defence="adversarial_training(pgd(3), linf(0.1))",
        attack="cascade([fgsm, targeted(pgd), pgd])",
        budget="linf(0.1)",
    )
    found = runner.papers(cell)
    assert found[:4] == ["carlini2019", "goodfellow2015", "carlini2017", "madry2018"]
    assert len(set(found)) == len(found)


def test_a_results_directory_that_cannot_be_written_is_refused(tmp_path):
    assert runner.require_out(tmp_path / "a" / "b").is_dir()
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--out .*file"):
        runner.require_out(tmp_path / "file")
    with pytest.raises(UserError, match="--out .*file/below"):
        runner.require_out(tmp_path / "file" / "below")
