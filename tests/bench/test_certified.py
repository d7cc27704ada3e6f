"""Attacked and certified in one table: certified <= true <= attacked, and whatever contradicts that is an alarm."""

import csv
import io
import re

import numpy as np
import pytest
from PIL import Image

from robustbench_jax.bench import certified_table, report
from robustbench_jax.bench.bands import bands
from robustbench_jax.bench.collisions import collisions
from robustbench_jax.bench.leaderboard import alarms, tables
from tests.bench.made_up import first, made_up, made_up_failure, made_up_proof
from tests.bench.test_report import Page
from tests.certify import oracle

SMOOTHED = "smoothed_linear"


@pytest.fixture(autouse=True, scope="module")
def certifiers():
    with oracle.registered():
        yield


def only_table(records):
    (table,) = tables(records)
    return table


def smoothed(certified, **more):
    return made_up_proof(certified, certifier=SMOOTHED, failure=0.001, **more)


def some_records():
    """Two models, one with a smoothed one made of it; three radii, two attacks and two certifiers."""
    records = [
        made(hits, model=model, budget=f"linf(eps={eps})", **method)
        for model, robust, proved in (("mlp", 90, 60), ("cnn", 70, 10))
        for eps in (0.1, 0.2, 0.3)
        for made, hits, method in (
            (made_up, first(robust - int(100 * eps)), {"attack": "fgsm"}),
            (made_up, first(robust - int(200 * eps)), {"attack": "pgd(steps=40)"}),
            (made_up_proof, first(max(proved - int(200 * eps), 0)), {}),
            (made_up_proof, first(max(proved - int(150 * eps), 0)), {"certifier": "shy_linear"}),
        )
    ]
    smooth = [smoothed(first(40 - int(100 * eps)), budget=f"linf(eps={eps})") for eps in (0.1, 0.2, 0.3)]
    return [*records, *smooth]


def test_a_row_has_attacked_certified_and_what_is_between_on_the_same_images():
    """Attacks leave 0-59, certifiers prove 0-19 and 10-34: 35 are certified and 25 undecided."""
    proofs = made_up_proof(first(20)), made_up_proof(first(35) & ~first(10), certifier="shy_linear")
    records = [made_up(first(70)), made_up(first(60), attack="fgsm"), *proofs]
    table = only_table(records)
    (row,) = table.rows
    assert table.certifiers == ["exact_linear", "shy_linear"]
    assert {name: m.value for name, m in row.certifiers.items()} == {"exact_linear": 0.2, "shy_linear": 0.25}
    assert (row.worst.value, row.certified.value, row.undecided.value) == (0.6, 0.35, 0.25)
    assert row.certified.low < 0.35 < row.certified.high and row.undecided.n == 100
    assert (row.rank, row.complete) == ("1", True)
    assert alarms(records) == []


def test_what_a_certifier_broke_is_not_undecided():
    broken = first(60) & ~first(50)
    (row,) = only_table([made_up(first(60)), made_up_proof(first(20), attacked=broken)]).rows
    assert (row.worst.value, row.undecided.value) == (0.6, 0.3)


def test_the_gap_is_never_negative():
    """An alarm, for 20 images are proved and broken; the share of undecided images is still 0."""
    records = [made_up(first(30)), made_up_proof(first(50))]
    (row,) = only_table(records).rows
    assert row.undecided.value == 0
    assert len(alarms(records)) == 1


def test_a_model_that_a_certifier_makes_is_a_row_of_its_own():
    clean = first(80)
    records = [made_up(first(60)), made_up_proof(first(20)), smoothed(first(40), clean=clean)]
    base, made = only_table(records).rows
    assert (base.model, base.clean.value, base.certified.value, base.undecided.value) == ("mlp", 1.0, 0.2, 0.4)
    assert (made.model, made.clean.value, made.certified.value) == ("mlp + smoothed_linear", 0.8, 0.4)
    assert (made.worst, made.undecided, made.rank) == (None, None, "–")
    assert base.certifiers["smoothed_linear"] is None and made.certifiers["exact_linear"] is None


def test_without_attacks_certified_accuracy_ranks():
    records = [
        made_up_proof(first(20)),
        made_up_proof(first(90), model="cnn"),
        smoothed(first(88), model="cnn"),
    ]
    table = only_table(records)
    assert [(row.model, row.rank) for row in table.rows] == [("cnn", "1"), ("cnn + smoothed_linear", "1"), ("mlp", "3")]
    assert table.attacks == [] and [name for name, _ in report.heads(table)][-2:] == ["Certified", "Undecided"]
    assert table.rows[2].undecided.value == 0.8 and table.n == 100


def test_a_certifier_that_failed_is_shown_as_failed():
    failed = made_up_failure(attack="", certifier="exact_linear", threat="certification")
    table = only_table([made_up(first(60)), failed])
    (row,) = table.rows
    assert (row.rank, row.certified, row.undecided) == ("1", None, None)
    assert "| failed | – | – |" in report.markdown([table], "t", [])


def test_records_of_other_weights_are_not_joined():
    records = [made_up(first(60)), made_up_proof(first(20), weights="w1")]
    (row,) = only_table(records).rows
    assert (row.worst, row.certified, row.undecided) == (None, None, None)
    (alarm,) = alarms(records)
    assert "different images or weights" in alarm


def test_certified_though_wrong_is_an_alarm():
    (alarm,) = alarms([made_up_proof(first(50), clean=first(40))])
    assert alarm == "mlp · exact_linear · linf(0.1): more examples certified than classified correctly"


def test_an_image_that_is_certified_and_broken_is_named():
    records = [made_up(~first(8) | first(3)), made_up_proof(first(5))]
    (alarm,) = collisions(records)
    assert alarm.startswith("mlp · exact_linear · linf(0.1): certified, and broken by pgd at linf(0.1): image 3, 4;")
    assert alarm in alarms(records)


def test_a_long_list_of_collisions_is_cut():
    (alarm,) = collisions([made_up(first(0)), made_up_proof(first(10))])
    assert "image 0, 1, 2, 3, 4 and 5 more;" in alarm


def test_a_certifier_that_contradicts_itself_is_found():
    (alarm,) = collisions([made_up_proof(first(5), attacked=~first(4))])
    assert "image 4;" in alarm


@pytest.mark.parametrize(
    "attacked, certified, collides",
    [("linf(eps=0.1)", "linf(eps=0.2)", True), ("linf(eps=0.2)", "linf(eps=0.1)", False), ("l2(eps=0.1)", None, False)],
)
def test_a_proof_holds_for_smaller_radii_of_its_norm(attacked, certified, collides):
    records = [made_up(first(0, 5), budget=attacked), made_up_proof(first(2, 5), budget=certified or "linf(eps=0.1)")]
    assert bool(collisions(records)) == collides


def test_a_small_adversarial_example_found_at_a_large_radius_collides():
    attack = made_up(~first(1, 5), budget="linf(eps=0.3)")
    proof = made_up_proof(first(1, 5))
    for size, collides in ((0.2, False), (0.05, True)):
        sized = attack.model_copy(update={"per_example": attack.per_example | {"size": [size] + [None] * 4}})
        assert bool(collisions([sized, proof])) == collides


def test_a_certified_radius_collides_as_certified_at_it_does():
    attack = made_up(first(0, 5), budget="linf(eps=0.2)")
    for radius, collides in ((0.15, False), (0.25, True)):
        assert bool(collisions([attack, made_up_proof(first(0, 5), radius=[radius, 0, 0, 0, 0])])) == collides


def test_a_radius_of_an_image_that_is_wrong_proves_nothing():
    proof = made_up_proof(first(0, 5), clean=~first(1, 5), radius=np.full(5, 0.05))
    assert collisions([proof, made_up(~first(1, 5), clean=~first(1, 5))]) == []


@pytest.mark.parametrize(
    "changes", [{"certifier": SMOOTHED}, {"failure": 0.001}, {"weights": "w1"}, {"data": "d1"}, {"seed": 1}]
)
def test_only_proofs_about_the_same_model_and_images_collide(changes):
    assert collisions([made_up(first(0)), made_up_proof(first(50), **changes)]) == []


def test_images_that_an_attack_left_because_they_were_proved_collide_with_other_attacks():
    spared = made_up(first(50), attack="autoattack('fast', certify_first=exact_linear)")
    spared = spared.model_copy(update={"per_example": spared.per_example | {"certified": first(20).tolist()}})
    assert collisions([spared, made_up(first(20))]) == []
    (alarm,) = collisions([spared, made_up(first(18))])
    assert "image 18, 19;" in alarm


def test_every_format_shows_the_columns_and_the_same_number_of_cells():
    records = some_records()
    boards = tables(records)
    heads = [name for name, _ in report.heads(boards[0])]
    assert heads == ["fgsm", "pgd", "Worst case", "exact_linear", "shy_linear", SMOOTHED, "Certified", "Undecided"]
    text = report.markdown(boards, "t", [])
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {13}
    assert "Undecided: withstood every attack" in text
    assert "| 30.0 [21.2, 40.0] |" in text  # mlp at 0.1: 70 withstand, 45 are certified
    tex = report.latex(boards)
    assert r"\begin{tabular}{rlrrrrrrrrrr}" in tex and "mlp + smoothed\\_linear" in tex
    page = Page(report.html(boards, records, "t", [], {}))
    assert "Undecided" in page.texts and "exact_linear" in page.texts
    assert page.all("td")[0] and any(cell.get("colspan") == "12" for cell in page.all("td"))
    terminal = report.terminal(boards[0])
    assert [str(column.header) for column in terminal.columns][-3:] == ["Certified %", "Undecided %", "p"]


def test_csv_of_records_has_a_column_of_certifiers_and_one_of_rows_has_the_gap():
    records = some_records()
    rows = list(csv.DictReader(io.StringIO(report.table_csv(records))))
    assert {row["certifier"] for row in rows} == {"", "exact_linear", "shy_linear", SMOOTHED}
    found = list(csv.DictReader(io.StringIO(certified_table.table_csv(tables(records)))))
    assert len(found) == 9
    one = next(row for row in found if row["model"] == "mlp" and row["budget"] == "linf(0.1)")
    assert [float(one[k]) for k in ("clean", "attacked", "certified", "undecided")] == [1.0, 0.7, 0.45, 0.25]
    assert (one["attacks"], one["certifiers"], one["complete"]) == ("2", "2", "True")
    made = next(row for row in found if row["model"] == "mlp + smoothed_linear")
    assert (made["attacked"], made["complete"]) == ("", "False")


def test_bands_run_from_clean_accuracy_along_both_curves():
    found = {band.model: band for band in bands(some_records())}
    assert set(found) == {"cnn", "mlp", "mlp + smoothed_linear"}
    band = found["mlp"]
    assert [(p.at, p.metric.value) for p in band.attacked] == [(0, 1), (0.1, 0.7), (0.2, 0.5), (0.3, 0.3)]
    assert [(p.at, p.metric.value) for p in band.certified] == [(0, 1), (0.1, 0.45), (0.2, 0.3), (0.3, 0.15)]
    assert found["mlp + smoothed_linear"].attacked == []


def test_one_record_with_radii_gives_a_whole_certified_curve():
    radius = np.linspace(0, 0.3, 100)
    records = [made_up(first(0), budget="linf(eps=0.5)"), made_up_proof(radius >= 0.1, radius=radius)]
    (band,) = bands(records)
    assert len(band.attacked) == 2 and len(band.certified) == 62
    for point in band.certified[1:]:
        assert point.metric.value == pytest.approx(np.mean(radius >= point.at), abs=0.011)


def test_one_radius_is_no_band_and_attacks_alone_are_none():
    assert bands([made_up(first(9)), made_up_proof(first(3))]) == []
    assert bands([made_up(first(9), budget=f"linf(eps={eps})") for eps in (0.1, 0.2)]) == []


def test_the_files_are_written_with_a_picture_of_the_bands_and_the_same_bytes_each_time(tmp_path):
    records = some_records()
    once = report.write_reports(records, tmp_path / "a", "t")
    again = report.write_reports(records, tmp_path / "b", "t")
    assert {"certified.csv", "certified.png", "certified.svg"} <= {path.name for path in once}
    for a, b in zip(once, again, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name
    pixels = np.asarray(Image.open(tmp_path / "a" / "certified.png").convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10
    assert "Attacked and certified accuracy against eps" in (tmp_path / "a" / "leaderboard.html").read_text()
    assert re.search(r"!\[.*\]\(certified.png\)", (tmp_path / "a" / "leaderboard.md").read_text())
