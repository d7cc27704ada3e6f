"""Records: written once and whole, read back as they were, and never taken for whole when they are not."""

import json

import numpy as np
import pytest

from robustbench_jax.bench import records
from robustbench_jax.bench.cells import Cell
from robustbench_jax.bench.records import Record, Timing, read, read_all, record_of, write, write_arrays
from robustbench_jax.metrics import evasion
from robustbench_jax.types import Outcome, UserError
from tests.bench.made_up import CELL, first, made_up, made_up_failure


def test_a_record_read_back_is_the_record(tmp_path):
    for record in (made_up(first(7, 10)), made_up_failure("a\n“quoted”\n\ttraceback", seed=1)):
        assert read(write(tmp_path, record)) == record


def test_the_json_has_the_fixed_shape(tmp_path):
    found = json.loads(write(tmp_path, made_up(first(7, 10))).read_text())
    assert found["schema"] == 1 and found["status"] == "ok" and found["error"] is None
    assert found["cell"] | CELL == found["cell"] and found["id"] == Cell(**found["cell"]).id
    assert set(found["metrics"]["robust_accuracy"]) == {"value", "n", "low", "high", "definition"}
    assert found["per_example"]["robust"] == [True] * 7 + [False] * 3
    evaluations = {"forward_evaluations", "gradient_evaluations", "inference_s"}
    assert set(found["timing"]) == {"compile_s", "run_s", "stages_s"} | evaluations
    assert {"provenance", "papers"} <= set(found)


def test_the_schema_names_every_field_as_the_file_does():
    assert set(records.json_schema()["properties"]) == set(json.loads(made_up(first(1, 2)).to_json()))


def test_an_outcome_becomes_a_record_without_its_pictures_and_without_nan():
    clean, robust = np.array([True, True, False]), np.array([True, False, False])
    size, count = np.array([np.nan, 0.1, np.nan], np.float32), np.array([5, 1, 0])
    arrays = {"clean_correct": clean, "robust": robust, "size": size, "x_adv": np.zeros((3, 2, 2, 1), np.float32)}
    outcome = Outcome(evasion(clean, robust, size, count, count), arrays)
    record = record_of(Cell(**CELL), outcome, Timing(), {})
    assert record.per_example == {
        "clean_correct": [True, True, False],
        "robust": [True, False, False],
        "size": [None, 0.1, None],
    }
    assert [type(value) for value in record.per_example["robust"]] == [bool] * 3
    assert Record.model_validate_json(record.to_json()) == record
    assert "NaN" not in record.to_json()


@pytest.mark.parametrize("keep", [0, 1, 100, -2], ids=["empty", "one byte", "a hundred bytes", "all but the end"])
def test_a_record_cut_short_is_named_and_the_others_are_read(tmp_path, keep):
    good, bad = write(tmp_path, made_up(first(7, 10))), write(tmp_path, made_up(first(5, 10), seed=1))
    bad.write_bytes(bad.read_bytes()[:keep])
    with pytest.raises(UserError, match="is no whole record .*run the sweep again"):
        read(bad)
    found, damaged = read_all(tmp_path)
    assert [record.id for record in found] == [good.stem]
    assert len(damaged) == 1 and str(bad) in damaged[0] and "\n" not in damaged[0]


@pytest.mark.parametrize(
    "change, named",
    [
        (lambda r: r.update(schema=2), "schema"),
        (lambda r: r.update(status="maybe"), "status"),
        (lambda r: r.pop("cell"), "cell"),
        (lambda r: r["cell"].update(eps=1), "cell.eps"),
        (lambda r: r["metrics"].pop("robust_accuracy"), "lacks robust_accuracy"),
        (lambda r: r["per_example"].pop("clean_correct"), "lacks clean_correct"),
        (lambda r: r["per_example"]["robust"].pop(), r"per_example has \[9, 10\] values, n = 10"),
        (lambda r: r["metrics"]["robust_accuracy"].update(value="much"), "metrics.robust_accuracy.value"),
    ],
)
def test_a_file_that_is_no_record_of_this_schema_is_refused_by_field(tmp_path, change, named):
    path = write(tmp_path, made_up(first(7, 10)))
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))
    with pytest.raises(UserError, match=named):
        read(path)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[]", b"null", b"{}"])
def test_other_files_are_refused_in_one_line(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_failed_record_needs_no_metrics(tmp_path):
    assert read(write(tmp_path, made_up_failure("boom"))).error == "boom"


def test_who_reads_while_a_record_is_written_anew_reads_the_old_one_whole(tmp_path):
    """The new file takes the name of the old one, which is never written to."""
    old = made_up(first(7, 10))
    with write(tmp_path, old).open() as reading:
        begun = reading.read(20)
        write(tmp_path, old.model_copy(update={"error": "something longer" * 99}))
        assert Record.model_validate_json(begun + reading.read()) == old


def test_a_directory_that_cannot_be_made_is_an_error_of_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not write"):
        write(tmp_path / "file", made_up(first(1, 2)))


def test_what_a_killed_run_left_under_another_name_is_not_read(tmp_path):
    path = write(tmp_path, made_up(first(7, 10)))
    (path.parent / f".{path.name}.abc123").write_text('{"schema": 1')
    found, damaged = read_all(tmp_path)
    assert (len(found), damaged) == (1, [])


def test_records_are_read_from_a_results_directory_or_from_its_cells(tmp_path):
    written = [write(tmp_path, made_up(first(7, 10), seed=seed)) for seed in range(3)]
    assert [record.id for record in read_all(tmp_path)[0]] == sorted(path.stem for path in written)
    assert read_all(tmp_path / "cells") == read_all(tmp_path)
    with pytest.raises(UserError, match="no directory"):
        read_all(tmp_path / "gone")


def test_arrays_are_read_back_as_they_were(tmp_path):
    arrays = {"ids": np.array([1, 4]), "x_adv": np.random.default_rng(0).random((2, 3, 3, 1), np.float32)}
    with np.load(write_arrays(tmp_path, "abc", arrays)) as found:
        for name, values in arrays.items():
            np.testing.assert_array_equal(found[name], values)
