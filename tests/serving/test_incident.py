"""The report of an incident: counted by hand, chosen by account, time and kind, not bent by what clients wrote."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from robustbench_jax.cli import main
from robustbench_jax.serving import audit_log
from robustbench_jax.serving.audit_log import AuditLog, report
from robustbench_jax.types import UserError


@pytest.fixture
def log(tmp_path, monkeypatch):
    """From noon on, one entry every ten seconds: alice asks 9 times and is warned about, bob asks twice."""
    clock = [datetime(2026, 11, 27, 12, tzinfo=UTC)]

    class Clock(datetime):
        @classmethod
        def now(cls, zone):
            clock[0] += timedelta(seconds=10)
            return clock[0]

    monkeypatch.setattr(audit_log, "datetime", Clock)
    path = tmp_path / "audit.jsonl"
    with AuditLog(path, durable=False) as log:  # 12:00:10
        for _ in range(9):  # 12:00:20 to 12:01:40
            log.append("request", account="alice", images=4, input={"kept": "none"})
        log.append("verdict", account="alice", verdict="block", evidence={"distance": 0.25})
        log.append("verdict", account="alice", verdict="allow")
        log.append("alert", account="alice", monitor="prada", p=0.001)  # 12:02:10
        log.append("request", account="bob")
        log.append("request", account="bob")
        log.append("admin", account="root", act="disable", name="alice")  # 12:02:40
    return path


def test_who_what_when_and_how_many_are_counted(log):
    found = report(log).as_dict()
    assert found["kinds"] == {"request": 11, "verdict": 2, "opened": 1, "alert": 1, "admin": 1, "closed": 1}
    assert found["accounts"]["alice"] == {
        "requests": 9,
        "images": 36,
        "verdicts": {"block": 1, "allow": 1},
        "alerts": 1,
        "first": "2026-11-27T12:00:20.000000Z",
        "last": "2026-11-27T12:02:10.000000Z",
        "busiest_minute": "2026-11-27T12:01",
        "requests_in_it": 5,
    }
    assert (found["accounts"]["bob"]["requests"], found["accounts"]["bob"]["images"]) == (2, 2)
    assert [(e["kind"], e["fields"].get("p")) for e in found["evidence"]] == [("verdict", None), ("alert", 0.001)]
    assert [e["kind"] for e in found["acts"]] == ["opened", "admin", "closed"]
    assert found["log"]["verifies"]


@pytest.mark.parametrize(
    "chosen, kinds",
    [
        ({"account": "bob"}, {"request": 2}),
        ({"account": "root"}, {"admin": 1}),
        ({"account": "nobody"}, {}),
        ({"since": "2026-11-27T12:02:10"}, {"request": 2, "alert": 1, "admin": 1, "closed": 1}),
        ({"until": "2026-11-27T12:00:20"}, {"opened": 1}),
        ({"since": "2026-11-27T13:00:20+01:00", "until": "2026-11-27T12:00:40Z"}, {"request": 2}),
        ({"since": "2026-11-28"}, {}),
        ({"kinds": ["alert", "admin"]}, {"alert": 1, "admin": 1}),
    ],
)
def test_an_account_a_time_and_a_kind_choose(log, chosen, kinds):
    assert report(log, **chosen).as_dict()["kinds"] == kinds


def test_the_page_has_the_evidence_and_says_that_the_log_verifies(log):
    page = report(log, account="alice").markdown()
    assert "The log verifies: 17 entries" in page
    assert "| `alice` | 9 | 36 | `block` 1, `allow` 1 | 1 |" in page
    assert 'alert `{"monitor": "prada", "p": 0.001}` |' in page


def test_what_clients_wrote_cannot_change_the_page(tmp_path):
    with AuditLog(tmp_path / "a", durable=False) as log:
        log.append("alert", account="x` | y\n# Heading", note="\x1b[2J|`\n")
    page = report(tmp_path / "a").markdown()
    assert "\n# Heading" not in page and "\x1b" not in page
    (row,) = [line for line in page.splitlines() if "alert `{" in line]
    assert row.replace("\\|", "").count("|") == 5 and row.count("`") == 4


def test_a_damaged_log_is_reported_as_such_and_read_all_the_same(log, capsys):
    log.write_bytes(log.read_bytes().replace(b'"images":4', b'"images":5', 1))
    found = report(log)
    assert found.accounts["alice"].requests == 8 and not found.verdict
    assert (
        "**The log does not verify**" in found.markdown()
        and "- `audit.jsonl`, line 2: it was changed" in found.markdown()
    )
    assert main(["log", "report", str(log)]) == 1


def test_the_verb_prints_markdown_or_json(log, capsys):
    assert main(["log", "report", str(log), "--account", "alice", "--kind", "alert", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kinds"] == {"alert": 1}
    assert main(["log", "report", str(log), "--since", "2026-11-27"]) == 0
    assert capsys.readouterr().out.startswith("# Incident report: `audit.jsonl`")


def test_a_time_that_is_none_is_an_error(log):
    with pytest.raises(UserError, match="'noon' is no time"):
        report(log, since="noon")


def test_a_kind_that_no_server_writes_and_the_log_has_not_is_an_error(log):
    with pytest.raises(UserError, match="has no entry of kind 'alrt'; did you mean 'alert'"):
        report(log, kinds=["alrt"])
    assert report(log, kinds=["recovered"]).as_dict()["kinds"] == {}
