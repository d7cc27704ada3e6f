"""The command line: what it prints where, its exit codes, and a sweep that survives being killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from robustbench_jax.bench.records import Record
from robustbench_jax.cli import main
from robustbench_jax.models import build_model, files
from robustbench_jax.ops.judge import predict

SHAPE, CLASSES, COUNT = (4, 4, 1), 3, 12
TRAIN = ("train", "--dataset", "npz('{lab}/data.npz')")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """data.npz (one label is not what the model says), model, and files with one thing wrong each."""
    root = tmp_path_factory.mktemp("lab")
    model = build_model("mlp([8])", SHAPE, CLASSES, jax.random.key(0))
    files.save(root / "model", model, files.describe(model, "mlp([8])", SHAPE, CLASSES))
    x = np.random.default_rng(0).integers(0, 256, (COUNT, *SHAPE), np.uint8)
    y = predict(model, x).argmax(-1)
    y[0] = (y[0] + 1) % CLASSES
    right = {"x": x, "y": y, "classes": ["a", "b", "c"]}
    wrong = {
        "labels": {"y": np.where(np.arange(COUNT) == 5, 7, y)},
        "bright": {"x": x / 100},
        "dark": {"x": x / 255 - 0.5},
        "nan": {"x": np.where(x == x.max(), np.nan, x / 255)},
        "shape": {"x": x.reshape(COUNT, -1)},
        "side": {"x": x[:, :3]},
        "channels": {"x": x.repeat(3, axis=-1)},
        "classes": {"classes": ["a", "b", "c", "d"]},
    }
    for name, changes in ({"data": {}} | wrong).items():
        np.savez(root / f"{name}.npz", **right | changes)
    (root / "cut.npz").write_bytes((root / "data.npz").read_bytes()[:-40])
    (root / "cut").mkdir()
    (root / "cut" / "model.json").write_text((root / "model" / "model.json").read_text()[:50])
    (root / "empty").mkdir()
    return root


@pytest.fixture
def run(lab, capsys, monkeypatch, tmp_path):
    """Runs the command line in an empty directory; {lab} in an argument is where the files lie."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([argument.replace("{lab}", str(lab)) for argument in arguments])
        return code, *capsys.readouterr()

    return call


def attack(**changes: str) -> list[str]:
    """The arguments of `attack`, some changed; None leaves one out."""
    right = {
        "model": 'checkpoint("{lab}/model")',
        "dataset": 'npz("{lab}/data.npz")',
        "attack": "pgd(3)",
        "budget": "linf(0.1)",
    }
    options = {name: value for name, value in (right | changes).items() if value is not None}
    return ["attack", *(word for name, value in options.items() for word in (f"--{name}", value))]


def sweep_file(directory, lab, **changes) -> str:
    """A sweep of two budgets on the checkpoint and the images of the lab."""
    fields = {
        "model": f'checkpoint("{lab}/model")',
        "dataset": f'npz("{lab}/data.npz")',
        "attack": "pgd(3)",
        "budget": ["linf(0.1)", "linf(0.2)"],
    } | changes
    lines = [f"{name} = {json.dumps(value)}" for name, value in fields.items()]
    (directory / "small.toml").write_text("\n".join(["[[sweep]]", *lines]) + "\n")
    return str(directory / "small.toml")


def test_attack_with_json_prints_one_object_of_the_fixed_shape_and_nothing_else(run):
    code, out, err = run(*attack(), "--json")
    assert code == 0
    record = json.loads(out)
    assert {"schema", "cell", "metrics", "per_example", "timing", "provenance"} <= set(record)
    assert record["schema"] == 1 and record["status"] == "ok" and record["error"] is None
    assert record["cell"]["attack"].startswith("pgd(steps=3, ")
    assert record["cell"]["budget"] == "linf(eps=0.1)"
    assert record["metrics"]["clean_accuracy"]["value"] == (COUNT - 1) / COUNT
    for name in ("clean_accuracy", "robust_accuracy", "attack_success_rate"):
        metric = record["metrics"][name]
        assert 0 <= metric["low"] <= metric["value"] <= metric["high"] <= 1 and metric["definition"]
        assert metric["n"] == (COUNT - 1 if name == "attack_success_rate" else COUNT)
    robust = record["per_example"]["robust"]
    assert len(robust) == COUNT and set(robust) <= {True, False} and robust[0] is False
    assert record["metrics"]["robust_accuracy"]["value"] == sum(robust) / COUNT
    timing = record["timing"]
    assert set(timing) == {
        "compile_s",
        "run_s",
        "stages_s",
        "forward_evaluations",
        "gradient_evaluations",
        "inference_s",
    }
    assert 0 < timing["gradient_evaluations"] <= 3 * (COUNT - 1) < timing["forward_evaluations"] + COUNT
    assert record["provenance"]["seed"] == 0 and len(record["provenance"]["data"]) == 64
    assert Record.model_validate_json(out).to_json() == out.strip()


def test_attack_without_json_prints_nothing_on_stdout_and_a_table_on_stderr(run, tmp_path):
    code, out, err = run(*attack())
    assert (code, out) == (0, "")
    assert "robust accuracy" in err and "95% interval" in err
    assert list(tmp_path.iterdir()) == []


def test_attack_takes_the_first_examples_and_keeps_the_record_where_told(run, tmp_path):
    code, out, err = run(*attack(), "--json", "--examples", "5", "--seed", "3", "--out", "kept")
    printed = json.loads(out)
    assert code == 0
    assert printed["cell"]["examples"] == 5 and printed["cell"]["seed"] == printed["provenance"]["seed"] == 3
    assert printed["metrics"]["clean_accuracy"]["n"] == len(printed["per_example"]["robust"]) == 5
    assert json.loads((tmp_path / "kept" / "cells" / f"{printed['id']}.json").read_text()) == printed
    assert (tmp_path / "kept" / "arrays" / f"{printed['id']}.npz").is_file()


def test_a_radius_of_zero_changes_nothing(run):
    each = json.loads(run(*attack(budget="linf(0)"), "--json")[1])["per_example"]
    assert each["robust"] == each["clean_correct"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["atack"], "no verb 'atack'; did you mean 'attack'?"),
        ([], "the following arguments are required: VERB"),
        (["attack", "--modle", "m"], "unrecognized arguments: --modle; did you mean '--model'?"),
        ([*attack(), "--exmaples=3"], "unrecognized arguments: --exmaples=3; did you mean '--examples'?"),
        ([*attack(), "more"], "unrecognized arguments: more"),
        (attack(budget=None), "the following arguments are required: --budget"),
        ([*attack(), "--examples", "ten"], "'ten'"),
        ([*attack(), "--examples", "0"], "examples = 0 must be a whole number of at least 1"),
        ([*attack(), "--examples", "13"], "examples = 13: npz('{lab}/data.npz') has 12, so give 1 to 12"),
        ([*attack(), "--seed", "-1"], "seed = -1 must be a whole number of at least 0"),
        ([*attack(), "--seed", "99999999999999999999"], "seed = 99999999999999999999 is too large"),
        ([*attack(), "--defence", "standard"], "is trained already"),
        ([*attack(), "--out", "{lab}/data.npz"], "--out {lab}/data.npz: "),
        (attack(attack="pdg"), "no attack 'pdg'; did you mean 'pgd'?"),
        (attack(attack="pgd(step=3)"), "attack 'pgd' has no argument 'step'; did you mean 'steps'?"),
        (attack(attack="pgd(steps=1.5)"), "attack 'pgd': steps = 1.5 must be an int"),
        (attack(attack="pgd("), "'pgd(' is no call string"),
        (attack(attack=""), "'' is no call string"),
        (attack(budget="lnf(0.1)"), "no budget 'lnf'; did you mean 'linf'?"),
        (attack(budget="linf(-0.1)"), "linf: eps = -0.1 must be a finite number of at least 0"),
        (attack(model="mpl"), "no model 'mpl'; did you mean 'mlp'?"),
        (attack(model="fashion_mnist/linf/pgd_ta"), "did you mean 'fashion_mnist/linf/pgd_at'?"),
        (attack(model='checkpoint("{lab}/gone")'), "there is no checkpoint directory '{lab}/gone'"),
        (attack(model='checkpoint("{lab}/empty")'), "{lab}/empty holds no model: model.json is missing"),
        (attack(model='checkpoint("{lab}/cut")'), "{lab}/cut/model.json is cut short"),
        (attack(dataset="fashion_mnst"), "no dataset 'fashion_mnst'; did you mean 'fashion_mnist'?"),
        (attack(dataset='npz("{lab}/gone.npz")'), "there is no file '{lab}/gone.npz'; write one with"),
        (attack(dataset='npz("{lab}/cut.npz")'), "{lab}/cut.npz is no npz file, or cut short"),
        (attack(dataset='npz("{lab}/labels.npz")'), "label 7 is out of range; 0 to 2 are classes"),
        (attack(dataset='npz("{lab}/bright.npz")'), "images lie in [0, 2."),
        (attack(dataset='npz("{lab}/dark.npz")'), "images lie in [-0.5, 0.4"),
        (attack(dataset='npz("{lab}/nan.npz")'), "images hold NaN"),
        (attack(dataset='npz("{lab}/shape.npz")'), "images have shape [12, 16]; [N, H, W, C]"),
        (attack(dataset='npz("{lab}/side.npz")'), "the model does not take images of shape [3, 4, 1]"),
        (attack(dataset='npz("{lab}/channels.npz")'), "the model takes images of 1 channels, not of 3"),
        (attack(dataset='npz("{lab}/classes.npz")'), "the model has 3 classes, npz('{lab}/classes.npz') has"),
        (["sweep", "gone.toml"], "cannot read gone.toml: No such file or directory"),
        (["leaderboard", "gone"], "there is no directory 'gone'"),
        (["leaderboard", "{lab}/empty"], "{lab}/empty holds no records"),
        (["leaderboard", "{lab}", "--format", "pdf"], "no format 'pdf'; there are: md, csv, tex, html"),
        (["list", "atacks"], "no kind 'atacks'; did you mean 'attacks'?"),
        ([*TRAIN, "--model", "mpl"], "no model 'mpl'; did you mean 'mlp'?"),
        ([*TRAIN, "--model", "mlp", "--seed", "-1"], "seed = -1 must be a whole number of at least 0"),
        ([*TRAIN, "--model", "mlp"], "batch_size = 128: there are 12 to train on; take batch_size=12 or less"),
    ],
)
def test_wrong_input_is_one_line_on_stderr_and_exit_code_two(run, lab, arguments, message):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("robustbench-jax: ") and err.count("\n") == 1 and err.endswith("\n")
    assert message.replace("{lab}", str(lab)) in err


def test_debug_shows_the_traceback_as_well(run):
    code, _, err = run(*attack(attack="pdg"), "--debug")
    assert code == 2
    assert "Traceback (most recent call last):" in err
    assert err.splitlines()[-1] == "robustbench-jax: no attack 'pdg'; did you mean 'pgd'?"


@pytest.mark.parametrize(
    "text, message",
    [
        ("[[sweep]]\nmodle = 'mlp'\n", "no key 'modle' in [[sweep]]; did you mean 'model'?"),
        ("[[sweeps]]\n", "no key 'sweeps' in a sweep file; did you mean 'sweep'?"),
        ("title = 'x'\n", "there is no [[sweep]] in it"),
        ("[[sweep]\n", "small.toml: "),
        ("[[sweep]]\nmodel = 'mlp'\n", "dataset is missing"),
        ("[runtime]\nwidht = 3\n[[sweep]]\n", "no key 'widht' in [runtime]; did you mean 'width'?"),
    ],
)
def test_a_wrong_sweep_file_is_refused_by_name_before_anything_runs(run, tmp_path, text, message):
    (tmp_path / "small.toml").write_text(text)
    code, out, err = run("sweep", "small.toml")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "small.toml" in err and message in err
    assert [path.name for path in tmp_path.iterdir()] == ["small.toml"]


def test_a_dry_run_prints_the_cells_and_touches_nothing(run, lab, tmp_path):
    code, out, err = run("sweep", sweep_file(tmp_path, lab), "--dry-run")
    assert code == 0 and "2 cells" in err
    lines = out.splitlines()
    assert [line.split(" · ")[-1] for line in lines] == ["linf(0.1)", "linf(0.2)"]
    assert len({line[:12] for line in lines}) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["small.toml"]


def test_set_overrides_a_key_of_every_cell_and_a_list_is_an_axis(run, lab, tmp_path):
    file = sweep_file(tmp_path, lab)
    changes = ["--set", 'attack=["fgsm", "pgd(9)"]', "--set", "budget=l2(0.5)"]
    lines = run("sweep", file, "--dry-run", *changes)[1].splitlines()
    assert [line.split(" · ", 1)[1] for line in lines] == ["fgsm · l2(0.5)", "pgd(9) · l2(0.5)"]
    assert len(run("sweep", file, "--dry-run", "--set", "seed=[0, 1, 2]")[1].splitlines()) == 6
    before = run("sweep", file, "--dry-run")[1]
    assert run("sweep", file, "--dry-run", "--set", "runtime.width=8")[1] == before
    for wrong, message in (
        ("sed=1", "no key 'sed'; did you mean 'seed'?"),
        ("seed", "write key=value"),
        ("budget=linf(-1)", "eps = -1.0 must be"),
        ("runtime.width=0", "width = 0 must be a whole number"),
    ):
        code, _, err = run("sweep", file, "--set", wrong)
        assert (code, err.count("\n")) == (2, 1) and message in err


def test_a_sweep_writes_records_and_leaderboards_and_a_rerun_runs_nothing(run, lab, tmp_path):
    file = sweep_file(tmp_path, lab)
    code, out, err = run("sweep", file)
    assert (code, out) == (0, "") and "2 cells run, 0 were there already, 0 failed" in err
    results = tmp_path / "runs" / "small"
    assert len(list((results / "cells").glob("*.json"))) == 2
    for name in ("leaderboard.md", "leaderboard.csv", "leaderboard.tex", "leaderboard.html"):
        assert "linf" in (results / name).read_text()
    assert "0 cells run, 2 were there already, 0 failed" in run("sweep", file)[2]


def test_a_sweep_with_a_failing_cell_exits_with_one_and_names_it(run, lab, tmp_path):
    data = [f'npz("{lab}/{name}.npz")' for name in ("data", "gone")]
    file = sweep_file(tmp_path, lab, dataset=data, budget="linf(0.1)")
    code, out, err = run("sweep", file, "--out", "results")
    assert (code, out) == (1, "")
    assert "1 cells run, 0 were there already, 1 failed" in err
    last = err.splitlines()[-1]
    assert last.startswith("failed: ") and "pgd(3) · linf(0.1)" in last and "gone.npz" in last
    records = [json.loads(path.read_text()) for path in (tmp_path / "results" / "cells").glob("*.json")]
    assert sorted(record["status"] for record in records) == ["failed", "ok"]
    failed = next(record for record in records if record["status"] == "failed")
    assert f"{failed['id']}.json" in last and "Traceback" in failed["error"]


def test_stopping_a_sweep_exits_with_130_and_says_that_it_goes_on(run, lab, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("robustbench_jax.bench.runner.run_cell", stop)
    code, _, err = run("sweep", sweep_file(tmp_path, lab))
    assert code == 130
    assert err.splitlines()[-1].startswith("robustbench-jax: stopped; what was finished is kept")


def test_leaderboard_writes_the_formats_asked_for_from_records_alone(run, lab, tmp_path):
    run("sweep", sweep_file(tmp_path, lab), "--out", "results")
    damaged = tmp_path / "results" / "cells" / "0123456789ab.json"
    damaged.write_text('{"schema": 1')
    code, out, err = run("leaderboard", "results", "--out", "board", "--format", "md", "csv")
    assert (code, out) == (0, "")
    written = {path.name for path in (tmp_path / "board").iterdir()}
    assert {"leaderboard.md", "leaderboard.csv"} <= written
    assert not {"leaderboard.tex", "leaderboard.html"} & written
    assert f"passed over: {damaged.relative_to(tmp_path)} is no whole record" in err
    assert f"{(COUNT - 1) / COUNT:.1%}"[:-1] in (tmp_path / "board" / "leaderboard.md").read_text()


def test_list_prints_names_with_arguments_and_defaults(run):
    code, out, err = run("list", "attacks")
    assert (code, err) == (0, "")
    assert "pgd(steps=40, step_size=None, restarts=1" in out and "madry2018" in out and "linf(eps" not in out
    everything = run("list")[1]
    for word in ("attacks", "linf(eps)", "fashion_mnist_mini", "wide_resnet", "gaussian_noise", "pgd_at"):
        assert word in everything
    assert run("list", "zoo")[1].split() == [
        "zoo",
        "fashion_mnist/clean/standard",
        "fashion_mnist/gaussian/noise_025",
        "fashion_mnist/l2/sll",
        "fashion_mnist/linf/mtl_ibp",
        "fashion_mnist/linf/pgd_at",
    ]


def test_a_model_that_train_wrote_can_be_attacked(run, lab, tmp_path):
    training = [*TRAIN, "--model", "mlp([8])", "--out", "trained", "--recipe", "sgd(epochs=2, batch_size=4)"]
    code, out, err = run(*training)
    assert (code, out) == (0, "") and "use it as --model 'checkpoint(\"trained\")'" in err
    record = json.loads(run(*attack(model='checkpoint("trained")'), "--json")[1])
    assert record["provenance"]["weights"] == files.load(tmp_path / "trained")[1]["weights"]
    assert f"{record['metrics']['clean_accuracy']['value']:.3f}" in err
    assert run(*training)[0] == 0
    code, _, err = run(*training, "--seed", "1")
    assert code == 2 and "trained holds another run: seed = 0, not 1; choose another --out" in err


def test_an_architecture_is_trained_before_it_is_attacked_and_once_only(run, tmp_path):
    words = [*attack(model="mlp([8])"), "--recipe", "sgd(epochs=1, batch_size=4)", "--json", "--out", "kept"]
    first, second = (json.loads(run(*words)[1]) for _ in range(2))
    assert len(list((tmp_path / "kept" / "victims").iterdir())) == 1
    assert first["provenance"]["weights"] == second["provenance"]["weights"]
    assert first["cell"]["defence"] == "standard(label_smoothing=0.0)" and first["id"] == second["id"]
    assert first["per_example"] == second["per_example"]


def test_python_gives_the_record_that_the_command_line_prints(run, lab):
    import robustbench_jax as rb

    printed = json.loads(run(*attack(), "--json")[1])
    model, data = f'checkpoint("{lab}/model")', f'npz("{lab}/data.npz")'
    for given in (data, rb.load_dataset(data)):
        record = json.loads(rb.attack(model, given, "pgd(3)", "linf(0.1)").to_json())
        for name in ("schema", "id", "cell", "metrics", "per_example", "papers"):
            assert record[name] == printed[name]


def everything_but_times(results) -> dict:
    found = {}
    for path in (results / "cells").glob("*.json"):
        record = json.loads(path.read_text())
        record["timing"] = {k: v for k, v in record["timing"].items() if not k.endswith("_s")}
        del record["provenance"]["started"]
        record["provenance"].pop("training", None)  # seconds, and steps, of the run that ended it; weights are in
        found[path.name] = record
    return found


@pytest.mark.slow
def test_a_sweep_killed_at_random_and_rerun_has_the_records_of_an_uninterrupted_one(lab, tmp_path):
    """SIGKILL at random moments after the work has begun, in training, attacks or between them."""
    cells = {
        "model": "mlp([8])",
        "recipe": "sgd(epochs=40, batch_size=4)",
        "attack": ["pgd(200)", "cascade([fgsm, pgd(100)])"],
        "budget": ["linf(0.02)", "linf(0.05)", "l2(0.3)"],
    }
    file = sweep_file(tmp_path, lab, **cells)

    def start(out) -> subprocess.Popen:
        command = [sys.executable, "-m", "robustbench_jax.cli", "sweep", file, "--out", str(out)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def files_of(out) -> set:
        return {name for _, folders, names in os.walk(out) for name in (*folders, *names)}

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(whole)
    assert process.wait(timeout=300) == 0, process.stderr.read()
    kills = 0
    for _ in range(5):
        before, process = files_of(killed), start(killed)
        while process.poll() is None and files_of(killed) == before:
            time.sleep(0.02)
        time.sleep(random.uniform(0, 1.5))
        process.kill()
        kills += process.wait(timeout=60) == -signal.SIGKILL
    assert kills, "the sweep was over before it could be killed once"
    process = start(killed)
    message = process.communicate(timeout=300)[1]
    assert process.returncode == 0, message
    assert "passed over" not in message
    assert len(everything_but_times(whole)) == 6
    assert everything_but_times(killed) == everything_but_times(whole)


def certify(**changes: str) -> list[str]:
    return ["certify", *attack(**{"attack": None, "certifier": "crown"} | changes)[1:]]


def test_certify_with_json_prints_one_object_and_keeps_the_record_where_told(run, tmp_path):
    code, out, err = run(*certify(budget="linf(0.01)"), "--json", "--examples", "6", "--out", "kept")
    assert code == 0
    record = json.loads(out)
    assert record["cell"]["threat"] == "certification" and record["cell"]["certifier"].startswith("crown")
    assert record["cell"]["attack"] == ""
    certified, right = (record["per_example"][name] for name in ("certified", "clean_correct"))
    assert len(certified) == 6 and right[0] is False and certified[0] is False and any(certified)
    assert record["metrics"]["certified_accuracy"]["value"] == sum(certified) / 6
    assert json.loads((tmp_path / "kept" / "cells" / f"{record['id']}.json").read_text()) == record


def test_certify_without_json_shows_a_table_on_stderr(run, tmp_path):
    code, out, err = run(*certify())
    assert (code, out) == (0, "")
    assert "certified accuracy" in err and "certifier" in err and "asked" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        (certify(certifier=None), "the following arguments are required: --certifier"),
        (certify(budget=None), "the following arguments are required: --budget"),
        (certify(certifier="crwn"), "no certifier 'crwn'; did you mean 'crown'?"),
        (certify(certifier="pgd"), "no certifier 'pgd'"),
        (certify(budget="severity(3)"), "certifier 'crown' takes no budget 'severity'"),
        ([*certify(), "--timeout", "3"], "--timeout 3: certifier 'crown' has no timeout; those that have: "),
        ([*certify(), "--certifer", "ibp"], "unrecognized arguments: --certifer; did you mean '--certifier'?"),
        ([*certify(), "--attack", "pgd"], "unrecognized arguments: --attack"),
        (attack(certifier="crown"), "unrecognized arguments: --certifier"),
        (["list", "certifier"], "did you mean 'certifiers'?"),
        (attack(attack="autoattack(certify_first=crwn)"), "no certifier 'crwn'; did you mean 'crown'?"),
    ],
)
def test_a_wrong_certify_is_one_line_and_exit_code_two(run, arguments, message):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert message in err


def test_list_shows_certifiers_with_the_budgets_that_they_know(run):
    code, out, _ = run("list", "certifiers")
    assert code == 0 and "crown(" in out and "[linf, l2, l1" in out


def test_a_sweep_with_attacks_and_certifiers_makes_one_row_and_an_alarm_ends_it_with_one(run, lab, tmp_path):
    file = sweep_file(tmp_path, lab, budget="linf(0.1)", attack="pgd(3)")
    fields = {"model": f'checkpoint("{lab}/model")', "dataset": f'npz("{lab}/data.npz")', "budget": "linf(0.1)"}
    more = [f"{name} = {json.dumps(value)}" for name, value in (fields | {"certifier": "crown"}).items()]
    with open(file, "a") as opened:
        opened.write("\n".join(["[[sweep]]", *more]) + "\n")
    code, _, err = run("sweep", file, "--out", "results")
    assert code == 0 and "2 cells run" in err and "ALARM" not in err and "Undecided" in err
    (line,) = [line for line in (tmp_path / "results" / "leaderboard.md").read_text().splitlines() if "| 1 |" in line]
    assert line.count("|") == 10
    for path in (tmp_path / "results" / "cells").glob("*.json"):
        record = json.loads(path.read_text())
        if record["cell"]["attack"]:
            record["per_example"]["robust"][1] = False
        else:
            record["per_example"]["certified"][1] = True
        path.write_text(json.dumps(record))
    code, _, err = run("sweep", file, "--out", "results")
    assert code == 1 and "certified, and broken by pgd(3) at linf(0.1): image 1" in err
