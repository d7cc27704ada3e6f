"""A log in several files: one chain through all of them, and a kill while one begins loses nothing."""

import errno
import os
import shutil
import threading
from datetime import UTC, datetime

import pytest

from robustbench_jax import signing
from robustbench_jax.cli import main
from robustbench_jax.serving import audit_log, chain
from robustbench_jax.serving.audit_log import AuditLog, report, requests, verify
from robustbench_jax.serving.past import past
from robustbench_jax.serving.segments import named, segments
from robustbench_jax.types import UserError

SMALL = {"durable": False, "rotate_bytes": 900}


@pytest.fixture
def key(tmp_path):
    signing.new_key(tmp_path / "me")
    return tmp_path / "me"


@pytest.fixture
def log(tmp_path):
    """Twelve requests in four files or more."""
    path = tmp_path / "audit.jsonl"
    with AuditLog(path, **SMALL) as log:
        for number in range(12):
            log.append("request", account=f"user {number}", images=1)
    assert len(segments(path)) >= 4
    return path


def files(path):
    return [segment.path for segment in segments(path)]


def lines(path):
    return path.read_bytes().splitlines(keepends=True)


def said(path, **given):
    return [(problem.file.rpartition("/")[2], problem.line, problem.what) for problem in verify(path, **given).problems]


def accounts(path):
    return [entry["account"] for entry in chain.entries(path) if entry.kind == "request"]


def test_a_log_goes_on_in_another_file_at_its_size_and_reads_as_one(log):
    *full, last = files(log)
    assert all(900 <= file.stat().st_size < 1400 for file in full) and log == full[0]
    assert [file.name for file in files(log)[1:3]] == ["audit.jsonl.000002", "audit.jsonl.000003"]
    heads = [chain.entry_of(lines(file)[-1][:-1]) for file in full]
    for number, (head, file) in enumerate(zip(heads, files(log)[1:], strict=True), 2):
        first = chain.entry_of(lines(file)[0][:-1])
        assert (first.kind, first["segment"]) == ("continued", number)
        assert (first.number, first.before) == (head.number + 1, head.hash)
        assert file.stat().st_mode & 0o777 == 0o600
    verdict = verify(log)
    assert verdict and verdict.files == len(full) + 1 and f"in {len(full) + 1} files verify" in str(verdict)
    assert verdict.entries == sum(len(lines(file)) for file in files(log)) == verdict.head.number + 1
    assert accounts(log) == [f"user {number}" for number in range(12)] == [it.account for it in requests(log)]
    assert past(log).images == 12 and report(log).accounts.keys() == set(accounts(log)) and last.exists()


def test_a_log_goes_on_in_another_file_with_each_day(tmp_path, monkeypatch):
    path, now = tmp_path / "audit.jsonl", datetime(2026, 11, 27, 23, 59, tzinfo=UTC)
    monkeypatch.setattr(audit_log, "_now", lambda: now)
    options = {"durable": False, "rotate_daily": True}
    with AuditLog(path, **options) as log:
        log.append("request", account="a")
        now = now.replace(day=28)
        log.append("request", account="b")
        log.append("request", account="c")
    now = now.replace(day=29)
    with AuditLog(path, **options) as log:  # that it was opened still stands in the file of the day before
        log.append("request", account="d")
    assert [[chain.entry_of(line[:-1]).kind for line in lines(file)] for file in files(path)] == [
        ["opened", "request"],
        ["continued", "request", "request", "closed", "opened"],
        ["continued", "request", "closed"],
    ]  # fmt: skip
    assert verify(path) and accounts(path) == list("abcd")


def test_each_file_but_the_last_ends_signed(tmp_path, key):
    path = tmp_path / "audit.jsonl"
    with AuditLog(path, signing_key=key, sign_every=100, **SMALL) as log:
        for number in range(12):
            log.append("request", account=f"user {number}")
    public = key.with_suffix(".pub")
    assert verify(path, public) and len(files(path)) > 2
    assert all(chain.entry_of(lines(file)[-1][:-1]).kind == "signature" for file in files(path))
    edited = files(path)[1]
    edited.write_bytes(edited.read_bytes().replace(b"user", b"uzer", 1))
    assert said(path, public_key=public)[0][0] == edited.name


def test_a_missing_file_is_found_wherever_it_is_and_the_last_one_by_a_head(log):
    head, every = verify(log).head, files(log)
    for gone in every:
        moved = gone.with_name("elsewhere")
        shutil.move(gone, moved)
        problems = said(log, expected=head)
        if gone == every[-1]:
            assert verify(log) and "the end was cut off" in problems[0][2]
        else:
            after = every[every.index(gone) + 1]
            number = every.index(gone) + 1
            assert problems[0] == (after.name, 1, f"file {number} is missing before it")
        shutil.move(moved, gone)
    assert verify(log, expected=head)


def test_two_files_that_changed_names_are_found(log):
    first, *later = files(log)
    a, b = later[0], later[1]
    both = a.read_bytes(), b.read_bytes()
    b.write_bytes(both[0])
    a.write_bytes(both[1])
    assert (a.name, 1, "this is file 3 of the log, under the name of file 2") in said(log)
    assert (b.name, 1, "this is file 2 of the log, under the name of file 3") in said(log)
    b.write_bytes(first.read_bytes())
    assert (b.name, 1, "a later file of a log begins with an entry 'continued', not 'opened'") in said(log)


def test_every_line_of_every_file_that_is_cut_edited_or_empty_is_found(log):
    head = verify(log).head
    for file in files(log):
        whole, rows = file.read_bytes(), lines(file)
        for at in range(len(rows)):
            for changed in (
                rows[:at] + rows[at + 1 :],
                rows[:at] + [rows[at].replace(b'"time":"2', b'"time":"3')] + rows[at + 1 :],
            ):
                file.write_bytes(b"".join(changed))
                assert not verify(log, expected=head), (file.name, at)
        for at in range(len(whole)):
            file.write_bytes(whole[:at])
            assert not verify(log, expected=head), (file.name, at)
        file.write_bytes(whole)
    assert verify(log, expected=head)


def test_after_a_kill_at_any_byte_of_the_last_file_the_log_goes_on(log):
    """What a kill leaves: whole files, of which the last has its first entry and may end anywhere after it."""
    *_, last = files(log)
    whole = last.read_bytes()
    before = [file.read_bytes() for file in files(log)[:-1]]
    for at in range(whole.index(b"\n") + 1, len(whole) + 1, 3):
        last.write_bytes(whole[:at])
        kept = [
            entry["account"]
            for entry in map(chain.entry_of, (it[:-1] for it in lines(last) if it.endswith(b"\n")))
            if entry.kind == "request"
        ]
        with AuditLog(log, **SMALL) as opened:
            opened.append("request", account="later")
        assert verify(log), at
        found = accounts(log)
        assert found[-1] == "later" and found[len(found) - 1 - len(kept) : -1][: len(kept)] == kept
        assert [file.read_bytes() for file in files(log)[: len(before)]] == before
        for file in files(log)[len(before) + 1 :]:
            file.unlink()


@pytest.mark.parametrize("step", ["write", "rename", "open"])
def test_a_kill_while_a_file_begins_leaves_the_log_without_it_or_with_it_whole(tmp_path, monkeypatch, step):
    """Killed while the new file is written under another name, before it gets its own, and right after that."""
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path, **SMALL)
    told = []

    class Killed(BaseException):
        pass

    def killed(*arguments):
        if step == "open":
            os.replace, replace = replace_as_it_is, os.replace
            replace_as_it_is(*arguments)
            os.replace = replace
        raise Killed

    replace_as_it_is = os.replace
    monkeypatch.setattr(os, "fsync" if step == "write" else "replace", killed)
    with pytest.raises(Killed):
        for number in range(12):
            log.append("request", account=f"user {number}")
            told.append(f"user {number}")
    monkeypatch.undo()
    log._unlock()  # as the end of a process does
    assert verify(path)
    with AuditLog(path, **SMALL) as again:
        again.append("request", account="later")
    found = accounts(path)
    assert verify(path) and found[: len(told)] == told and found[-1] == "later"
    assert len(found) - len(told) == (2 if step == "open" else 1)  # the request of the kill may be there, or not


def test_a_disk_that_has_no_room_for_another_file_is_an_error_and_loses_nothing(tmp_path, monkeypatch):
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path, **SMALL)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="could not go on in another file .*the disk is full.*open it anew"):
        for number in range(12):
            log.append("request", account=f"user {number}")
    monkeypatch.undo()
    log.close()
    with AuditLog(path, **SMALL) as again:
        again.append("request", account="later")
    assert verify(path) and accounts(path)[-1] == "later" and len(files(path)) == 2


def test_a_file_that_nobody_wrote_is_not_written_over(tmp_path):
    path = tmp_path / "audit.jsonl"
    with AuditLog(path, **SMALL) as log:
        named(path, 2).write_text("mine")
        with pytest.raises(UserError, match="audit.jsonl.000002 is there already"):
            for number in range(12):
                log.append("request", account=f"user {number}")
    assert named(path, 2).read_text() == "mine"


def test_threads_that_append_at_once_cross_files_without_a_gap(tmp_path):
    path, got = tmp_path / "audit.jsonl", {}
    with AuditLog(path, durable=False, rotate_bytes=5000) as log:

        def work(thread):
            for turn in range(40):
                got[thread, turn] = log.append("request", thread=thread, turn=turn)

        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert verify(path)  # while it is open
        with pytest.raises(UserError, match="written by another process"):
            AuditLog(path)
    found = {(e["thread"], e["turn"]): e.number for e in chain.entries(path) if e.kind == "request"}
    assert verify(path) and found == got and len(files(path)) > 8


def test_a_later_file_is_verified_by_itself_and_not_written_to(log, capsys):
    """As where the earlier ones were moved to an archive."""
    third = files(log)[2]
    verdict = verify(third)
    assert verdict and verdict.files == len(files(log)) - 2
    assert verdict.entries == sum(len(lines(file)) for file in files(log)[2:]) and verdict.head == verify(log).head
    with pytest.raises(UserError, match="is a later file of a log; name its first one"):
        AuditLog(third)
    log.unlink()
    with pytest.raises(UserError, match="000002, line 1: file 1 is missing before it; move it away"):
        AuditLog(log)
    assert main(["log", "verify", str(log)]) == 1
    assert "audit.jsonl.000002, line 1: file 1 is missing before it" in capsys.readouterr().out
    third.write_bytes(b"")
    with pytest.raises(UserError, match="rotate_bytes = 0 must be at least 1"):
        AuditLog(log, rotate_bytes=0)


def test_names_with_signs_of_a_pattern_are_names(tmp_path):
    path = tmp_path / "audit[1].jsonl"
    with AuditLog(path, **SMALL) as log:
        for number in range(12):
            log.append("request", account=f"user {number}")
    (tmp_path / "audit1.jsonl.000002").write_text("another")
    assert len(files(path)) >= 4 and verify(path)
