"""The security audit: what a policy may say, what holds, what a page shows, and what it is worth to a pipeline."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from robustbench_jax.bench.findings import ERROR, FAILS, HOLDS, UNDECIDED, findings, passes, read_audit, verdict_of
from robustbench_jax.bench.lifecycle import checklist
from robustbench_jax.bench.mitigations import KNOWN
from robustbench_jax.bench.records import MetricValue, Record
from robustbench_jax.bench.security_policy import Check, SecurityPolicy, load_policy
from robustbench_jax.bench.security_report import (
    FAMILY,
    THREATS,
    SecurityReport,
    as_json,
    markdown,
    rendered,
    write_report,
)
from robustbench_jax.cli import main
from robustbench_jax.registry import discover
from robustbench_jax.types import UserError
from tests.bench.made_up import first, made_up

ROOT = Path(__file__).parents[2]
VICTIM = {"model": "fashion_mnist/clean/standard", "dataset": "fashion_mnist_mini"}
CHECK = """
[[check]]
name = "small changes"
attack = "pgd"
budget = "linf(0.1)"
examples = 100
metric = "robust_accuracy"
at_least = 0.5
"""


def policy(tmp_path, text, **victim):
    path = tmp_path / "audit.toml"
    path.write_text(text)
    return load_policy(path, **(VICTIM | victim))


def check(name="small changes", limit=0.5, better="higher", record=None):
    return Check(name, (record or made_up(first(80))).cell, "robust_accuracy", limit, better)


def audited(robust=80, limit=0.5, before=None, name="small changes", **more):
    record = made_up(first(robust))
    made = SecurityPolicy("An audit", ("a@example.org",), "policy.toml", True, (check(name, limit, record=record),))
    return SecurityReport(made, "m", "d", tuple(findings(made, {record.id: record}, before)), **more)


def test_the_shipped_policy_covers_all_six_threats_and_a_trained_model_has_its_architecture_from_training():
    found = load_policy(ROOT / "configs" / "audit.toml", **VICTIM)
    assert {FAMILY.get(it.cell.threat, it.cell.threat) for it in found.checks} == set(THREATS)
    trained = [it.cell for it in found.checks if it.cell.threat in ("poisoning", "backdoor", "membership")]
    assert len(trained) == 3 and all(cell.model.startswith("cnn(") for cell in trained)
    assert all(it.cell.model == VICTIM["model"] for it in found.checks if it.cell.threat == "evasion")


def test_every_threat_belongs_to_one_of_the_six_or_is_one():
    assert {FAMILY.get(name, name) for name in discover("threat")} <= set(THREATS)


@pytest.mark.parametrize(
    "change, message",
    [
        (("at_least = 0.5", "at_most = 0.5"), "of robust_accuracy higher is better; write at_least"),
        (("at_least = 0.5", ""), "one limit"),
        (("at_least = 0.5", "at_least = 'much'"), "must be a number"),
        (('"robust_accuracy"', '"robust_acuracy"'), "did you mean 'robust_accuracy'"),
        (('attack = "pgd"', 'attack = "pdg"'), r"check 1 \(small changes\): .*did you mean 'pgd'"),
        (("examples =", "exampels ="), "did you mean 'examples'"),
        (('name = "small changes"', ""), "needs a name"),
        (("[[check]]", "[[checks]]"), "did you mean 'check'"),
        (("[[check]]", "undecided = 'maybe'\n[[check]]"), "'fail' or 'pass'"),
        (("[[check]]", "contacts = 'me'\n[[check]]"), "list of texts"),
        (("[[check]]", "[training]\nmodle = 'cnn'\n[[check]]"), "did you mean 'model'"),
        ((CHECK, ""), r"needs \[\[check\]\] tables"),
        ((CHECK, CHECK + CHECK), "two checks are called 'small changes'"),
        ((CHECK, "= ="), "audit.toml"),
        (('"pgd"\nbudget = "linf(0.1)"', '"badnets"\nbudget = "rate(0.1)"'), r"say how in \[training\]"),
    ],
)
def test_what_is_wrong_in_a_policy_is_said_before_anything_runs(change, message, tmp_path):
    with pytest.raises(UserError, match=message):
        policy(tmp_path, CHECK.replace(*change))


@pytest.mark.parametrize(
    "value, low, high, limit, better, verdict",
    [
        (0.6, 0.55, 0.65, 0.5, "higher", HOLDS),
        (0.6, 0.5, 0.65, 0.5, "higher", HOLDS),
        (0.6, 0.45, 0.7, 0.5, "higher", UNDECIDED),
        (0.4, 0.3, 0.55, 0.5, "higher", FAILS),
        (0.4, 0.3, 0.45, 0.5, "lower", HOLDS),
        (0.4, 0.3, 0.55, 0.5, "lower", UNDECIDED),
        (0.6, 0.45, 0.7, 0.5, "lower", FAILS),
        (3.0, None, None, 3.0, "lower", HOLDS),
        (3.1, None, None, 3.0, "lower", FAILS),
        (None, None, None, 3.0, "lower", UNDECIDED),
    ],
)
def test_a_check_holds_only_where_its_whole_interval_does(value, low, high, limit, better, verdict):
    metric = MetricValue(value=value, n=10, low=low, high=high)
    assert verdict_of(metric, check(limit=limit, better=better)) == verdict


def test_a_cell_that_failed_is_a_check_that_was_not_made():
    good = made_up(first(80))
    failed = Record(id=good.id, cell=good.cell, status="failed", error="Traceback\nValueError: it broke")
    made = SecurityPolicy("An audit", (), "", False, (check(),))
    (found,) = findings(made, {good.id: failed}, None)
    assert found.verdict == ERROR and not passes(made, [found])
    assert "ValueError: it broke" in markdown(SecurityReport(made, "m", "d", (found,)))


def test_what_is_undecided_fails_a_strict_policy_alone():
    record = made_up(first(55))  # 0.55 [0.447, 0.650]
    for strict in (True, False):
        made = SecurityPolicy("An audit", (), "", strict, (check(record=record),))
        (found,) = findings(made, {record.id: record}, None)
        assert found.verdict == UNDECIDED and passes(made, [found]) == (not strict)


@pytest.mark.parametrize(
    "robust, value, verdict, change",
    [
        (80, 0.7, HOLDS, "better"),
        (80, 0.9, HOLDS, "worse"),
        (80, 0.8, HOLDS, "same"),
        (80, 0.4, FAILS, "better"),
        (40, 0.9, HOLDS, "worse"),
        (80, None, ERROR, "better"),
    ],
)
def test_what_became_of_a_check_since_the_last_audit(robust, value, verdict, change):
    before = {"findings": [{"name": "small changes", "value": value, "verdict": verdict}]}
    (found,) = audited(robust, before=before).findings
    assert found.change == change
    assert audited(robust, before={"findings": []}).findings[0].change == ""


def test_a_failure_comes_with_what_was_measured_to_help_and_what_holds_does_not():
    assert not audited(80).findings[0].advice
    advised = audited(20).findings[0].advice
    assert advised and advised == KNOWN["evasion"]
    text = markdown(audited(20))
    assert "## What to do" in text and all(it.shown in text and it.source in text for it in advised)


def test_every_figure_of_a_mitigation_stands_in_the_leaderboard_that_it_names():
    """Numbers in per cent, as the checked-in table prints them; points of difference and settings are left out."""
    for mitigation in {it for group in KNOWN.values() for it in group}:
        table = (ROOT / mitigation.source / "leaderboard.md").read_text()
        for figure in re.findall(r"(\d+\.\d+)%", mitigation.shown):
            assert re.search(rf"\b{re.escape(figure)}\b", table), f"{figure} of {mitigation.what}"


def test_an_alarm_fails_what_would_pass():
    assert audited(80).passed
    assert not audited(80, alarms=("certified and attacked",)).passed


def test_the_checklist_points_at_records_and_at_what_protects_the_model():
    found = audited(80)
    items = {it.what: it.evidence for it in found.items}
    assert items["robust to changed inputs, attacked"] == (found.findings[0].check.cell.id,)
    assert items["copying by queries"] == () and items["the model is signed"] == ()
    model, data = 'signed(sealed("m"), "k.pub")', 'verified(npz("d"), "m.json", "k.pub")'
    items = {it.what: it.evidence for it in checklist(found.policy, model, data, found.findings)}
    assert items["the model is signed"] and items["the model is encrypted at rest"]
    assert items["training data have a signed manifest"]
    assert "evasion" not in found.uncovered and "extraction" in found.uncovered


def test_names_are_escaped_on_the_page_and_the_same_audit_gives_the_same_bytes(tmp_path):
    found = audited(20, name="<script>alert(1)</script>")
    page = rendered(found, "audit.html.j2", escape=True)
    assert "<script>" not in page and "&lt;script&gt;" in page
    one, two = (write_report(found, tmp_path / name) for name in ("a", "b"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_the_plan_names_contacts_findings_and_steps():
    plan = rendered(audited(20), "incident_plan.md.j2", escape=False)
    assert "a@example.org" in plan and "**small changes**" in plan and "log report" in plan and "policy.toml" in plan
    assert "adversarial training" in plan


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"x_{split}": rng.integers(0, 256, (80, 6, 6, 1), np.uint8) for split in ("train", "test")}
    np.savez(tmp_path / "d.npz", **arrays, y_train=np.arange(80) % 2, y_test=np.arange(80) % 2, classes=["a", "b"])
    return f'npz("{tmp_path / "d.npz"}")'


def test_audit_exits_by_its_verdict_resumes_and_compares(images, tmp_path, capsys):
    text = CHECK.replace("at_least = 0.5", "at_least = 0.0").replace("100", "20")
    (tmp_path / "p.toml").write_text(text)
    given = ["audit", "--model", "mlp([4])", "--dataset", images, "--recipe", "sgd(epochs=1, batch_size=16)"]
    given += ["--policy", str(tmp_path / "p.toml"), "--out", str(tmp_path / "out"), "--json"]
    assert main(given) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["passed"] and said["findings"][0]["verdict"] == "holds" and said["findings"][0]["change"] == ""
    assert said == read_audit(tmp_path / "out" / "audit.json")
    stamps = [path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").iterdir()]
    (tmp_path / "p.toml").write_text(text.replace("at_least = 0.0", "at_least = 0.9"))
    assert main(given) == 1
    again = json.loads(capsys.readouterr().out)
    assert not again["passed"] and again["findings"][0]["change"] == "worse"
    assert stamps == [path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").iterdir()]


def test_what_is_no_audit_is_refused(tmp_path, capsys):
    (tmp_path / "last.json").write_text('{"findings": [{"name": "a"}]}')
    (tmp_path / "p.toml").write_text(CHECK)
    given = ["audit", "--model", "mlp", "--dataset", "fashion_mnist_mini", "--policy", str(tmp_path / "p.toml")]
    given += ["--out", str(tmp_path / "out"), "--against", str(tmp_path / "last.json")]
    assert main(given) == 2 and "is no audit" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs the browser chromium")
def test_the_page_opens_in_a_browser_without_any_outside_file(tmp_path):
    page = write_report(audited(20), tmp_path)[0]
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom"]
    shown = subprocess.run(["chromium", *flags, page.as_uri()], capture_output=True, text=True, timeout=120).stdout
    assert "small changes" in shown and "Failed" in shown
    assert not re.search(r'(src|href)="https?:', page.read_text())
    assert as_json(audited(20))["findings"][0]["verdict"] == "fails"
