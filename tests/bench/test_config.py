"""Sweep files: lists are axes, tables are products, and what is wrong is said in one line before any work."""

from pathlib import Path

import pytest

from robustbench_jax.bench.config import load_sweep
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.types import UserError

LINES = 'dataset = "fashion_mnist_mini"\nmodel = "fashion_mnist/linf/pgd_at"\nattack = "pgd"\nbudget = "linf(0.1)"\n'
BASE = f"[[sweep]]\n{LINES}"


@pytest.fixture
def load(tmp_path):
    def load(text: str, *overrides: str):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return load_sweep(path, list(overrides))

    return load


def refused(load, text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        load(text, *overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_sweep_file_says_what_it_is(load):
    sweep = load(f'title = "T"\nexpected = "E"\nduration = "D"\n{BASE}[runtime]\nwidth = 8\n')
    assert (sweep.name, sweep.title, sweep.expected, sweep.duration) == ("mine", "T", "E", "D")
    assert sweep.runtime == Runtime(width=8)


def test_a_list_is_an_axis_and_a_table_is_the_product_in_the_order_of_the_file(load):
    sweep = load(BASE.replace('"pgd"', '["pgd(steps=5)", "fgsm"]').replace('"linf(0.1)"', '["linf(0.1)", "l2(1)"]'))
    shown = [(cell.show("attack"), cell.show("budget")) for cell in sweep.cells]
    assert shown == [("pgd(5)", "linf(0.1)"), ("pgd(5)", "l2(1.0)"), ("fgsm", "linf(0.1)"), ("fgsm", "l2(1.0)")]


def test_a_cell_that_two_tables_name_is_run_once_however_it_is_written(load):
    other = BASE.replace('"pgd"', '["pgd(steps=40)", "fgsm"]').replace("linf(0.1)", "linf(eps=1/10)")
    sweep = load(BASE + other)
    assert [cell.show("attack") for cell in sweep.cells] == ["pgd", "fgsm"]


def test_speed_is_not_part_of_the_identity(load):
    (a,), (b,) = load(BASE).cells, load(BASE + "[runtime]\nwidth = 8\ndevices = 1\n").cells
    assert a.id == b.id


@pytest.mark.parametrize(
    "override, field, expected",
    [
        ("examples=7", "examples", [7, 7]),
        (" examples = 7 ", "examples", [7, 7]),
        ("sweep.1.examples=7", "examples", [None, 7]),
        ("attack=fgsm", "attack", ["fgsm", "fgsm"]),
        ("sweep.0.attack='fgsm'", "attack", ["fgsm", "uniform_noise(10)"]),
        ("budget=linf(1/4)", "budget", ["linf(0.25)", "linf(0.25)"]),
        ('attack=["fgsm", "pgd(steps=3)"]', "attack", ["fgsm", "pgd(3)", "fgsm", "pgd(3)"]),
    ],
)
def test_set_changes_every_table_or_the_one_that_it_names(load, override, field, expected):
    second = BASE.replace('"pgd"', '"uniform_noise(steps=10)"').replace("0.1", "0.2")
    cells = load(BASE.replace("linf(0.1)", "linf(0.1)") + second + "seed = 1\n", override).cells
    found = [getattr(cell, field) if field == "examples" else cell.show(field) for cell in cells]
    assert found == expected


def test_set_reaches_the_runtime_and_the_title(load):
    sweep = load(BASE, "runtime.width=64", "title=Mine")
    assert (sweep.runtime.width, sweep.title) == (64, "Mine")


@pytest.mark.parametrize(
    "override, said",
    [
        ("exmples=3", "no key 'exmples'; did you mean 'examples'?"),
        ("runtime.widht=3", "no key 'widht' in [runtime]; did you mean 'width'?"),
        ("sweep.0.exampels=3", "did you mean 'sweep.0.examples'?"),
        ("sweep.1.examples=3", "no key 'sweep.1.examples'; did you mean 'sweep.0.examples'?"),
        ("sweep.-1.examples=3", "no key 'sweep.-1.examples'"),
        ("sweep=3", "no key 'sweep'"),
        ("examples", "write key=value"),
        ("=3", "write key=value"),
        ("examples=many", "examples = 'many' must be a whole number"),
        ("runtime.width=0", "width = 0 must be a whole number of at least 1"),
        ("budget=linf(-1)", "linf: eps = -1.0"),
        ("attack=pdg", "no attack 'pdg'; did you mean 'pgd'?"),
    ],
)
def test_a_wrong_set_is_refused(load, override, said):
    assert said in refused(load, BASE, override)


@pytest.mark.parametrize(
    "text, said",
    [
        ("a = = 3", "(at line 1, column 5)"),
        ("", "there is no [[sweep]] in it"),
        ("sweep = 3", "there is no [[sweep]] in it"),
        ("sweep = [1]", "there is no [[sweep]] in it"),
        (f"[sweep]\n{LINES}", "[sweep] must be written [[sweep]]"),
        (f"runtime = 3\n{BASE}", "runtime = 3 must be a table"),
        (f"tilte = 'x'\n{BASE}", "no key 'tilte' in a sweep file; did you mean 'title'?"),
        (f"{BASE}exmples = 3", "no key 'exmples' in [[sweep]]; did you mean 'examples'?"),
        (f"{BASE}[runtime]\nwidht = 3", "no key 'widht' in [runtime]; did you mean 'width'?"),
        (f"{BASE}seed = []", "seed = [] leaves no cell"),
        (f"{BASE}seed = [[1]]", "seed: [1] must be text or a whole number"),
        (f"{BASE}threat = {{a = 1}}", "threat: {'a': 1} must be text or a whole number"),
        (f"{BASE}examples = 2.5", "examples: 2.5 must be text or a whole number"),
        (BASE.replace('"pgd"', "3"), "attack = 3 must be a call string"),
        (BASE.replace('attack = "pgd"\n', ""), "attack or certifier is missing"),
        (BASE.replace("linf(0.1)", "linf(-0.1)"), "linf: eps = -0.1"),
        (BASE.replace("linf(0.1)", "lnif(0.1)"), "no budget 'lnif'; did you mean 'linf'?"),
        (BASE.replace('"pgd"', '"pgd(step=3)"'), "has no argument 'step'"),
        (BASE.replace("fashion_mnist_mini", "fashion_mnist_mni"), "did you mean 'fashion_mnist_mini'?"),
        (BASE.replace("pgd_at", "pgd_ta"), "did you mean 'fashion_mnist/linf/pgd_at'?"),
    ],
)
def test_a_wrong_file_is_refused_by_name(load, text, said):
    message = refused(load, text)
    assert said in message and "mine.toml: " in message


@pytest.mark.parametrize("override", ["examples=3", "sweep.0.examples=3", "runtime.width=3"])
@pytest.mark.parametrize("text", ["sweep = 3", "sweep = [1, {a = 2}]", "[sweep]\na = 1", "[[sweep]]\n[[sweep.0]]"])
def test_set_does_not_hide_what_is_wrong_in_the_file(load, text, override):
    assert "mine.toml: " in refused(load, text, override)


def test_one_wrong_cell_among_many_stops_the_sweep_before_it_starts(load):
    """Even where it is the last one of an axis."""
    assert "pdg" in refused(load, BASE.replace('"pgd"', '["pgd", "fgsm", "pdg"]'))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for path, said in ((tmp_path / "gone.toml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(UserError, match=f"cannot read .*{said}"):
            load_sweep(path)
    (tmp_path / "picture.toml").write_bytes(b"\x89PNG\xff")
    with pytest.raises(UserError, match="is no text file"):
        load_sweep(tmp_path / "picture.toml")


POLICIES = ("audit", "policy")  # what ships beside the sweeps
SWEEPS = [path for path in sorted(Path(__file__).parents[2].glob("configs/*.toml")) if path.stem not in POLICIES]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_the_configurations_that_ship_are_whole(path):
    sweep = load_sweep(path)
    assert sweep.cells and sweep.title and sweep.expected and sweep.duration
