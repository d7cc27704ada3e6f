"""The log: what was acknowledged is kept, wherever its process dies; threads leave no gap; a torn end is cut off."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from robustbench_jax import signing
from robustbench_jax.serving import audit_log, chain
from robustbench_jax.serving.audit_log import AuditLog, verify
from robustbench_jax.types import UserError


def kinds(path):
    return [entry.kind for entry in chain.entries(path)]


@pytest.fixture
def key(tmp_path):
    signing.new_key(tmp_path / "me")
    return tmp_path / "me"


def test_append_returns_the_number_of_an_entry_that_is_in_the_file_by_then(tmp_path):
    path = tmp_path / "deep" / "audit.jsonl"
    with AuditLog(path) as log:
        assert [log.append("request", account="a", images=np.int32(3)), log.append("admin", act="b")] == [1, 2]
        entries = list(chain.entries(path))
        assert [(e.number, e.kind, e.fields) for e in entries[1:]] == [
            (1, "request", {"account": "a", "images": 3}),
            (2, "admin", {"act": "b"}),
        ]
        assert log.head == verify(path).head
    assert kinds(path) == ["opened", "request", "admin", "closed"]
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("signed", [False, True], ids=["plain", "signed"])
def test_after_a_kill_at_any_byte_the_log_goes_on_and_has_lost_no_whole_line(tmp_path, signed):
    signing.new_key(tmp_path / "me")
    options = {"durable": False, "signing_key": tmp_path / "me" if signed else None, "sign_every": 2}
    path = tmp_path / "audit.jsonl"
    with AuditLog(path, **options) as log:
        for number in range(2):
            log.append("request", account=f"user {number}")
    whole = path.read_bytes()
    for at in range(len(whole) + 1):
        path.write_bytes(whole[:at])
        before, torn = whole[:at].splitlines(keepends=True), b""
        if before and not before[-1].endswith(b"\n"):
            torn = before.pop()
        full = at < len(whole) and whole[at : at + 1] == b"\n"  # only the end of the line is missing
        with AuditLog(path, **options) as log:
            number = log.append("request", account="later")
        now = path.read_bytes().splitlines(keepends=True)
        kept = [*before, torn + b"\n"] if full else before
        assert now[: len(kept)] == kept
        entries = [chain.entry_of(line[:-1]) for line in now[len(kept) :]]
        assert entries[0].kind == "opened" and entries[0].number == len(kept)
        assert [e.kind for e in entries].count("recovered") == bool(torn)
        if torn and not full:
            said = entries[1].fields
            assert (said["cut"], said["sha256"]) == (len(torn), hashlib.sha256(torn).hexdigest())
            assert (tmp_path / said["kept_in"]).read_bytes() == torn
        assert any(e.number == number and e.fields == {"account": "later"} for e in entries)
        assert verify(path, tmp_path / "me.pub" if signed else None), at


def test_a_kill_while_the_torn_end_is_cut_loses_nothing_either(tmp_path):
    """The entry about the cut is written over the torn end: each state in between is opened again."""
    path = tmp_path / "audit.jsonl"
    with AuditLog(path, durable=False) as log:
        log.append("request", account="x" * 1000)
    whole = path.read_bytes()
    kept = whole[: whole.index(b"\n") + 1]
    torn = whole[len(kept) :][:700]
    path.write_bytes(kept + torn)
    AuditLog(path, durable=False).close()
    new = path.read_bytes()[len(kept) :]
    for written in range(0, len(new), 7):
        path.write_bytes(kept + new[:written] + torn[written:])
        AuditLog(path, durable=False).close()
        assert path.read_bytes().startswith(kept) and verify(path) and "recovered" in kinds(path), written


def test_zeros_that_a_power_cut_left_at_the_end_are_cut(tmp_path):
    path = tmp_path / "audit.jsonl"
    AuditLog(path).close()
    with path.open("ab") as file:
        file.write(bytes(4096))
    AuditLog(path).close()
    assert verify(path) and kinds(path) == ["opened", "closed", "opened", "recovered", "closed"]


def test_a_log_that_does_not_verify_is_not_opened_and_the_place_is_named(tmp_path):
    path = tmp_path / "audit.jsonl"
    with AuditLog(path) as log:
        log.append("request", account="alice")
    path.write_bytes(edited := path.read_bytes().replace(b"alice", b"alicf"))
    with pytest.raises(UserError, match="line 2: it was changed: .*; move it away"):
        AuditLog(path)
    assert path.read_bytes() == edited


def test_threads_that_append_at_once_leave_no_gap_and_get_the_numbers_of_their_entries(tmp_path, key):
    path, got = tmp_path / "audit.jsonl", {}
    with AuditLog(path, signing_key=key, sign_every=7) as log:

        def work(thread):
            for turn in range(25):
                got[thread, turn] = log.append("request", thread=thread, turn=turn)

        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert verify(path, key.with_suffix(".pub"))
    found = {(e["thread"], e["turn"]): e.number for e in chain.entries(path) if e.kind == "request"}
    assert found == got and len(got) == 400
    signatures = [e.number for e in chain.entries(path) if e.kind == "signature"]
    assert len(signatures) == 1 + 400 // 7 + 1


def test_appends_that_wait_together_share_one_fsync(tmp_path, monkeypatch):
    """While the first fsync takes its time, 15 more entries come: the second one takes them all along."""
    synced, hold = [], threading.Event()

    def slow(file):
        synced.append(file)
        hold.wait(5)

    with AuditLog(tmp_path / "audit.jsonl") as log:
        monkeypatch.setattr(os, "fdatasync", slow)
        threads = [threading.Thread(target=log.append, args=("request",)) for _ in range(16)]
        threads[0].start()
        while not synced:
            time.sleep(0.001)
        for thread in threads[1:]:
            thread.start()
        while log.head.number < 16:
            time.sleep(0.001)
        hold.set()
        for thread in threads:
            thread.join()
        assert len(synced) == 2


WRITER = """
import sys, threading
from robustbench_jax.serving.audit_log import AuditLog
log = AuditLog(sys.argv[1])
def work(thread):
    turn = 0
    while True:
        number = log.append("request", thread=thread, turn=turn, filling="x" * 300)
        sys.stdout.write(f"{number} {thread} {turn}\\n")
        sys.stdout.flush()
        turn += 1
for thread in range(4):
    threading.Thread(target=work, args=(thread,)).start()
"""


def test_what_a_killed_process_had_acknowledged_is_there(tmp_path):
    """SIGKILL in the middle of appending, three times over the same log."""
    path, told = tmp_path / "audit.jsonl", []
    for _ in range(3):
        run = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True)
        told += [run.stdout.readline() for _ in range(40)]
        run.send_signal(signal.SIGKILL)
        told += run.stdout.read().splitlines(keepends=True)
        run.wait()
    AuditLog(path).close()
    assert verify(path) and kinds(path).count("opened") == 4
    there = {(e.number, e["thread"], e["turn"]) for e in chain.entries(path) if e.kind == "request"}
    acknowledged = {tuple(map(int, line.split())) for line in told if line.endswith("\n")}
    assert len(acknowledged) >= 120 and acknowledged <= there


def test_a_log_that_is_being_written_verifies(tmp_path):
    """Whoever reads in the middle of a write waits for the end of the line."""
    path, stop = tmp_path / "audit.jsonl", threading.Event()
    with AuditLog(path, durable=False) as log:

        def work():
            while not stop.is_set():
                log.append("request", filling="x" * 20_000)
                time.sleep(0.002)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            verdicts = [verify(path) for _ in range(20)]
        finally:
            stop.set()
            thread.join()
    assert all(verdicts), next(str(verdict) for verdict in verdicts if not verdict)


def test_a_torn_end_that_a_writer_leaves_as_it_is_is_told(tmp_path, monkeypatch):
    path = tmp_path / "audit.jsonl"
    monkeypatch.setattr(chain, "PATIENCE", 3)
    with AuditLog(path):
        with path.open("ab") as file:
            file.write(b"half a line")
        assert [p.what[:9] for p in verify(path).problems] == ["cut short"]


def test_a_disk_that_takes_no_entry_is_an_error_and_the_log_takes_none_after_it(tmp_path, monkeypatch):
    """Half a line is written before the disk is full: the file ends with the last whole one all the same."""
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    log.append("request", number=1)
    real = os.pwrite

    def full(file, data, at):
        if len(data) < 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data[:100], at)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UserError, match="takes no entry: it could not be written .the disk is full.; open it anew"):
        log.append("request", number=2)
    monkeypatch.undo()
    with pytest.raises(UserError, match="takes no entry"):
        log.append("request", number=3)
    log.close()
    assert verify(path) and kinds(path) == ["opened", "request"]
    with AuditLog(path) as log:
        log.append("request", number=4)
    assert verify(path) and [e["number"] for e in chain.entries(path) if e.kind == "request"] == [1, 4]


def test_after_an_interrupted_write_the_log_takes_nothing_until_it_is_opened_anew(tmp_path, monkeypatch):
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)

    def interrupted(file):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fdatasync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        log.append("request")
    monkeypatch.undo()
    with pytest.raises(UserError, match="a write was interrupted; open it anew"):
        log.append("request")
    log.close()
    AuditLog(path).close()
    assert verify(path)


def test_what_is_appended_while_the_log_is_closed_is_kept_or_refused(tmp_path):
    for turn in range(10):
        path, kept = tmp_path / f"{turn}.jsonl", []
        log = AuditLog(path, durable=turn % 2 == 0)

        def work(log=log, kept=kept):
            try:
                while True:
                    kept.append(log.append("request"))
            except UserError as error:
                assert "it was closed" in str(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        while len(kept) < 10:
            time.sleep(0.001)
        log.close()
        for thread in threads:
            thread.join()
        assert verify(path)
        assert sorted(kept) == [entry.number for entry in chain.entries(path) if entry.kind == "request"]


def test_a_log_is_written_by_one_process_at_a_time(tmp_path):
    path = tmp_path / "audit.jsonl"
    with AuditLog(path), pytest.raises(UserError, match="is written by another process"):
        AuditLog(path)
    AuditLog(path).close()


def test_a_closed_log_takes_nothing_and_closes_twice(tmp_path):
    log = AuditLog(tmp_path / "audit.jsonl")
    log.close()
    log.close()
    with pytest.raises(UserError, match="it was closed"):
        log.append("request")


def test_a_signed_log_is_gone_on_with_by_its_own_key_alone(tmp_path, key):
    path = tmp_path / "audit.jsonl"
    AuditLog(path, signing_key=key).close()
    with pytest.raises(UserError, match="is signed; give the key"):
        AuditLog(path)
    signing.new_key(tmp_path / "other")
    with pytest.raises(UserError, match="line 2: the signature in entry 1 is not of this key"):
        AuditLog(path, signing_key=tmp_path / "other")
    with AuditLog(path, signing_key=key) as log:
        log.append("request")
        log.sign()
    assert verify(path, key.with_suffix(".pub")).signed == 8


def test_a_log_can_be_signed_from_some_day_on(tmp_path, key):
    path = tmp_path / "audit.jsonl"
    AuditLog(path).close()
    AuditLog(path, signing_key=key).close()
    assert verify(path, key.with_suffix(".pub"))


@pytest.mark.parametrize(
    "kind, fields, message",
    [
        ("signature", {}, "are the log's own"),
        ("request", {"x": float("nan")}, "cannot be kept as JSON"),
        ("request", {"x": np.zeros(3)}, "ndarray is not JSON"),
        ("request", {"x": object()}, "object is not JSON"),
    ],
)
def test_what_cannot_be_kept_is_refused_and_leaves_the_log_as_it_was(tmp_path, kind, fields, message):
    path = tmp_path / "audit.jsonl"
    with AuditLog(path) as log:
        with pytest.raises(UserError, match=message):
            log.append(kind, **fields)
        assert log.append("request", kind="a field may be called kind") == 1
    assert verify(path)


def test_a_place_where_nothing_can_be_written_and_a_wrong_number_are_errors(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot open"):
        AuditLog(tmp_path / "file" / "audit.jsonl")
    with pytest.raises(UserError, match="sign_every = 0 must be at least 1"):
        AuditLog(tmp_path / "audit.jsonl", sign_every=0)


def test_the_names_that_servers_use_are_in_one_place():
    assert {"AuditLog", "kept", "report", "requests", "verify"} <= set(audit_log.__all__)
