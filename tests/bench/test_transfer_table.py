"""The transfer table: sources by targets, from records alone."""

from robustbench_jax.bench.transfer_table import matrices, sheets, sources_of
from robustbench_jax.registry import canonical
from tests.bench.made_up import first, made_up, made_up_failure

CLEAN, NOISE = "fashion_mnist/clean/standard", "fashion_mnist/gaussian/noise_025"


def transfer(*sources):
    listed = ", ".join(f'zoo("{source}")' for source in sources)
    return canonical("attack", f"transfer(mi_fgsm, sources=[{listed}])")


RECORDS = [
    made_up(first(40), clean=first(80), model=NOISE, attack=transfer(CLEAN)),
    made_up(first(0), model=CLEAN, attack=transfer(CLEAN)),
    made_up(first(60), model=CLEAN, attack=transfer(CLEAN, NOISE)),
    made_up(first(10), model=CLEAN, attack="pgd(steps=40)"),
    made_up_failure(model=NOISE, attack=transfer(NOISE)),
]


def test_a_value_is_the_success_rate_among_the_images_that_the_target_gets_right():
    (matrix,) = matrices(RECORDS)
    value = matrix.values[f"{CLEAN} (mi_fgsm)", NOISE]
    assert (value.value, value.n) == (0.5, 80) and value.low < 0.5 < value.high
    assert matrix.sources == [f"{CLEAN} (mi_fgsm)", f"{CLEAN} + {NOISE} (mi_fgsm)"]
    assert matrix.targets == [NOISE, CLEAN]


def test_the_target_among_the_sources_is_marked_and_what_was_not_run_is_no_number():
    (matrix,) = matrices(RECORDS)
    assert matrix.own == {(f"{CLEAN} (mi_fgsm)", CLEAN), (f"{CLEAN} + {NOISE} (mi_fgsm)", CLEAN)}
    (sheet,) = sheets(RECORDS)
    assert sheet.head == ["made on", NOISE, CLEAN]
    assert sheet.rows[0][2] == "100.0* [96.4, 100.0]"
    assert sheet.rows[1][:2] == [f"{CLEAN} + {NOISE} (mi_fgsm)", "–"] and sheet.rows[1][2].startswith("40.0* [")
    assert "n up to 100" in sheet.note


def test_sources_are_read_from_the_call_string():
    text = canonical("attack", 'transfer(pgd(steps=10), train="cnn", count=2)')
    assert sources_of(text) == ("pgd(10)", ("2 cnn trained on the pool",))
