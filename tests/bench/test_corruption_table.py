"""The corruption table: means, mCE and relative mCE of made-up records, by hand; what is missing stays empty."""

import csv

import numpy as np
import pytest

from robustbench_jax.bench import leaderboard, records, report
from robustbench_jax.bench.cells import Cell, make_cell
from robustbench_jax.bench.config import load_sweep
from robustbench_jax.bench.corruption_report import sheets
from robustbench_jax.bench.corruption_table import ALEXNET, ALEXNET_ERRORS, alarms, boards, corruption_of
from robustbench_jax.bench.curves import along_eps
from robustbench_jax.bench.records import MetricValue, Record, Timing
from robustbench_jax.data.corrupted import COMMON, EXTRA
from robustbench_jax.metrics import proportion
from robustbench_jax.types import UserError
from tests.bench.made_up import PROVENANCE, first, made_up

N = 20


def record(right, corruption, severity, *, clean=None, weights="w0", model="mlp", **cell):
    """`right` of N images are right after the corruption, the first ones."""
    right = first(right, N) if np.ndim(right) == 0 else right
    clean = first(N if clean is None else clean, N)
    fields = {"dataset": "fashion_mnist_mini", "attack": corruption, "budget": f"severity(level={severity})"} | cell
    cell = Cell(threat="corruption", model=model, **fields)
    metrics = {"corrupted_accuracy": proportion("corrupted_accuracy", right)}
    if corruption != "identity":
        metrics["clean_accuracy"] = proportion("clean_accuracy", clean)
    return Record(
        id=cell.id,
        cell=cell,
        metrics={name: MetricValue(**vars(metric)) for name, metric in metrics.items()},
        per_example={"clean_correct": clean.tolist(), "robust": right.tolist()},
        timing=Timing(),
        provenance=PROVENANCE | {"weights": weights},
    )


def full(right, names=COMMON, **options):
    """All cells; `right(corruption number, severity)` images are right."""
    return [record(right(i, s), name, s, **options) for i, name in enumerate(names) for s in range(1, 6)]


def published(names, count, dataset='cifar10_corrupted(corruption="{}", severity={})', **options):
    cells = [(name, severity) for name in names for severity in range(1, 6)]
    where = {"attack": "identity", "budget": "unchanged"}
    return [record(count, "identity", 0, dataset=dataset.format(*cell), **where, **options) for cell in cells]


def only(records, baseline=None):
    (board,) = boards(records, baseline)
    return board


def test_the_mean_is_over_15_corruptions_and_5_severities_and_the_extra_ones_are_apart():
    board = only(full(lambda i, s: 20 - s) + full(lambda i, s: 10, EXTRA))
    (line,) = board.lines
    assert line.mean.value == pytest.approx(17 / 20) and line.mean.n == N
    assert line.mean.low <= line.mean.value <= line.mean.high
    assert line.extra.value == pytest.approx(0.5)
    assert board.corruptions == [*COMMON, *EXTRA]
    assert (line.mce, line.relative, board.baseline) == (None, None, None)


def test_mce_is_the_mean_of_ratios_of_summed_errors():
    """The baseline errs on 4 images everywhere; the model on 2 in the first corruption, on 8 in the others."""
    mine = full(lambda i, s: 18 if i == 0 else 12)
    board = only(mine + full(lambda i, s: 16, model="cnn"), "cnn")
    line = next(line for line in board.lines if line.model == "mlp")
    assert line.ce["gaussian_noise"] == pytest.approx(0.5) and line.ce["fog"] == pytest.approx(2)
    assert line.mce.value == pytest.approx((0.5 + 14 * 2) / 15)
    base = next(line for line in board.lines if line.model == "cnn")
    assert base.mce.value == pytest.approx(1)
    assert line.mce.low is None  # a resample may hold none of the four images that the baseline errs on


def test_severities_are_summed_before_errors_are_divided():
    """Errors 0, 0, 0, 0, 10 against 2 each: 10 / 10, not the mean of ratios."""
    mine = full(lambda i, s: 10 if s == 5 else 20)
    line = next(x for x in only(mine + full(lambda i, s: 18, model="cnn"), "cnn").lines if x.model == "mlp")
    assert line.mce.value == pytest.approx(1)


def test_relative_mce_takes_the_clean_error_off_both():
    """(8 - 4) / (4 - 2) = 2, while mCE is 8 / 4 = 2 too; with 6 clean errors it is 1."""
    for wrong, expected in ((4, 2), (6, 1)):
        mine = full(lambda i, s: 12, clean=20 - wrong)
        board = only(mine + full(lambda i, s: 16, clean=18, model="cnn"), "cnn")
        line = next(line for line in board.lines if line.model == "mlp")
        assert line.relative.value == pytest.approx(expected) and line.mce.value == pytest.approx(2)


def test_the_interval_of_mce_is_paired_over_images():
    """Twice the baseline's errors on the same images: 2 in every resample that holds one of them."""
    rng = np.random.default_rng(0)
    hard = [rng.random(200) < 0.3 for _ in range(5)]
    mine, theirs = [], []
    for name in COMMON:
        for s in range(1, 6):
            mine.append(long_record(~hard[s - 1], name, s, "mlp"))
            theirs.append(long_record(~(hard[s - 1] & hard[s % 5]), name, s, "cnn"))
    line = next(line for line in only(mine + theirs, "cnn").lines if line.model == "mlp")
    assert line.mce.low < line.mce.value < line.mce.high and line.mce.high - line.mce.low < 1.5


def long_record(right, name, severity, model):
    made = record(20, name, severity, model=model)
    metric = MetricValue(**vars(proportion("corrupted_accuracy", right)))
    arrays = {"clean_correct": [True] * len(right), "robust": right.tolist()}
    return made.model_copy(update={"metrics": {"corrupted_accuracy": metric}, "per_example": arrays})


def test_a_missing_cell_leaves_means_empty_and_says_so():
    board = only(full(lambda i, s: 15)[1:])
    (line,) = board.lines
    assert (line.mean, line.missing) == (None, 1)
    models, corruptions, severities = sheets(board)
    assert models.rows == [["mlp", "100.0 [83.2, 100.0]", "–", "–", "–", "–", "74 of 75"]]
    assert corruptions.rows[0] == ["gaussian_noise", "–"] and corruptions.rows[1] == ["shot_noise", "75.0"]
    assert severities.rows[0][1] == "–" and severities.rows[0][2].startswith("75.0 [")


def test_a_failed_cell_is_called_failed():
    cell = record(10, "fog", 3).cell
    failed = Record(id=cell.id, cell=cell, status="failed", error="boom", provenance=PROVENANCE)
    board = only([record(10, "fog", 1), failed])
    assert sheets(board)[1].rows == [["fog", "failed"]]
    assert sheets(board)[2].rows[0][3] == "failed"


def test_a_baseline_that_lacks_a_cell_or_never_errs_gives_no_mce():
    for theirs in (full(lambda i, s: 16, model="cnn")[1:], full(lambda i, s: 20, model="cnn")):
        board = only(full(lambda i, s: 12) + theirs, "cnn")
        assert next(line for line in board.lines if line.model == "mlp").mce is None


def test_an_unknown_baseline_is_named_with_the_nearest():
    with pytest.raises(UserError, match="no model 'mpl' among the corruption records; did you mean 'mlp'?"):
        boards(full(lambda i, s: 16), "mpl")


def test_published_sets_are_one_board_whose_clean_accuracy_comes_from_the_clean_set():
    board = only(published(COMMON, 15))
    assert (board.title, board.lines[0].clean) == ("cifar10_corrupted", None)
    assert board.lines[0].mean.value == pytest.approx(0.75)
    clean = record(19, "identity", 0, dataset="cifar10", budget="unchanged")
    assert only([*published(COMMON, 15), clean]).lines[0].clean.value == pytest.approx(0.95)
    other = record(19, "identity", 0, dataset="cifar10", budget="unchanged", weights="w1")
    assert only([*published(COMMON, 15), other]).lines[0].clean is None


def test_imagenet_c_is_measured_against_alexnets_published_errors():
    """What errs everywhere has 1 / its errors; RobustBench measured 21.12% for AlexNet on 5,000 of the images."""
    where = 'imagenet2012_corrupted(corruption="{}", severity={})'
    board = only(published(COMMON, 0, where))
    assert board.baseline == ALEXNET
    assert board.lines[0].mce.value == pytest.approx(np.mean(1 / np.array(ALEXNET_ERRORS)))
    assert 1 - np.mean(ALEXNET_ERRORS) == pytest.approx(0.2112, abs=0.001) and len(ALEXNET_ERRORS) == len(COMMON)


def test_different_weights_are_an_alarm_and_no_mean():
    found = full(lambda i, s: 15)
    found[3] = record(15, COMMON[0], 4, weights="w1")
    assert only(found).lines[0].mean is None
    assert "different weights" in alarms(found)[0]


def test_a_cell_says_what_it_measures():
    on_the_fly = make_cell(dataset="fashion_mnist_mini", model="mlp", attack="fog", budget="severity(3)")
    assert (on_the_fly.threat, corruption_of(on_the_fly)) == ("corruption", ("fog", 3))
    where = {"model": "mlp", "attack": "identity", "budget": "unchanged"}
    there = make_cell(dataset='cifar10_corrupted("fog", 2)', **where)
    assert corruption_of(there) == ("fog", 2)
    assert corruption_of(make_cell(dataset="cifar10", **where)) is None
    with pytest.raises(UserError, match="takes no budget 'linf'"):
        make_cell(dataset="fashion_mnist_mini", model="mlp", attack="fog", budget="linf(0.1)")


def test_corruptions_are_no_rows_of_the_evasion_tables_nor_alarms_of_theirs():
    """Right after a corruption and wrong before is no contradiction."""
    found = [record(20, "fog", 1, clean=3), made_up(first(5))]
    (table,) = leaderboard.tables(found)
    assert (len(table.rows), leaderboard.alarms(found), along_eps(found)) == (1, [], [])


def test_a_record_that_lacks_what_the_table_reads_is_none(tmp_path):
    made = record(5, "fog", 1)
    assert records.read(records.write(tmp_path, made)) == made
    broken = made.model_copy(update={"metrics": {}})
    with pytest.raises(UserError, match="lacks corrupted_accuracy"):
        records.read(records.write(tmp_path, broken))


def test_reports_hold_the_table_in_every_format(tmp_path):
    found = full(lambda i, s: 12) + full(lambda i, s: 16, model="cnn") + [made_up(first(5))]
    report.write_reports(found, tmp_path, "A title", baseline="cnn")
    for name in ("leaderboard.md", "leaderboard.tex", "leaderboard.html"):
        text = (tmp_path / name).read_text().replace(r"\_", "_")
        assert "common corruptions" in text and "glass_blur" in text and "mCE against cnn" in text, name
    rows = list(csv.DictReader((tmp_path / "corruptions.csv").open()))
    assert len(rows) == 150 and {row["accuracy"] for row in rows} == {"0.6", "0.8"}


def test_records_without_corruptions_write_no_corruption_file(tmp_path):
    report.write_reports([made_up(first(5))], tmp_path, "A title")
    assert not (tmp_path / "corruptions.csv").exists()
    assert "orruption" not in (tmp_path / "leaderboard.md").read_text()


def test_a_sweep_whose_baseline_is_none_of_its_models_is_refused_before_it_runs(tmp_path):
    file = tmp_path / "sweep.toml"
    cell = 'dataset = "fashion_mnist_mini"\nmodel = "fashion_mnist/linf/pgd_at"\nattack = "fog"\nbudget = "severity(1)"'
    file.write_text(f'baseline = "fashion_mnist/linf/pgd"\n[[sweep]]\n{cell}\n')
    with pytest.raises(UserError, match="baseline = 'fashion_mnist/linf/pgd' .* mean 'fashion_mnist/linf/pgd_at'"):
        load_sweep(file)
    assert load_sweep(file, ["baseline=fashion_mnist/linf/pgd_at"]).baseline == "fashion_mnist/linf/pgd_at"
