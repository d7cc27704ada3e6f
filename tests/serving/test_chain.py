"""The chain: whatever is done to a log after it was written is found, and where it was done is said."""

import hashlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from robustbench_jax import signing
from robustbench_jax.cli import main
from robustbench_jax.serving import chain
from robustbench_jax.serving.audit_log import AuditLog, Head, verify
from robustbench_jax.types import UserError


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A directory with two key pairs, me and other."""
    place = tmp_path_factory.mktemp("keys")
    signing.new_key(place / "me")
    signing.new_key(place / "other")
    return place


@pytest.fixture
def log(tmp_path, keys):
    """Twelve entries: opened, signature, three requests, signature, three requests, signature, closed, signature."""
    path = tmp_path / "audit.jsonl"
    with AuditLog(path, signing_key=keys / "me", sign_every=3, durable=False) as log:
        for number in range(6):
            log.append("request", account=f"user {number}")
    return path


@pytest.fixture
def short(tmp_path):
    """Four entries: opened, two requests, closed."""
    path = tmp_path / "short.jsonl"
    with AuditLog(path, durable=False) as log:
        log.append("request", account="a")
        log.append("request", x=[1, 2.5, "é"])
    return path


def lines(path):
    return path.read_bytes().splitlines(keepends=True)


def found(path, changed, **given):
    """What is wrong with a log of these lines, as (line, what)."""
    path.write_bytes(b"".join(changed))
    return [(problem.line, problem.what) for problem in verify(path, **given).problems]


def anew(changed, start):
    """The lines, hashed anew from line `start` on, as a forger without the key would."""
    out, before = changed[:start], chain.entry_of(changed[start - 1][:-1]).hash
    for raw in changed[start:]:
        content = json.loads(raw)
        line, before = chain.line_of(content["number"], content["time"], content["kind"], content["fields"], before)
        out.append(line)
    return out


def test_a_log_that_nobody_touched_verifies(log, keys):
    verdict = verify(log, keys / "me.pub")
    assert verdict and (verdict.entries, verdict.signatures, verdict.signed) == (12, 4, 10)
    assert [entry.kind for entry in chain.entries(log)] == [
        "opened", "signature", *["request"] * 3, "signature", *["request"] * 3, "signature", "closed", "signature",
    ]  # fmt: skip


def test_a_line_is_what_a_program_of_ten_lines_can_check(log, keys):
    """SHA-256 and Ed25519 by themselves, over the bytes that the documentation names."""
    key, before = signing.public_key(keys / "me.pub"), "0" * 64
    for number, line in enumerate(log.read_text().splitlines()):
        entry = json.loads(line)
        body = line[: line.rindex(',"hash":')] + "}"
        assert entry["hash"] == hashlib.sha256(body.encode()).hexdigest()
        assert (entry["number"], entry["before"]) == (number, before)
        if entry["kind"] == "signature":
            said = f'{{"head":"{before}","log":"robustbench-jax audit log","of":{number - 1}}}'
            key.verify(bytes.fromhex(entry["fields"]["signature"]), said.encode())
        before = entry["hash"]


def test_every_changed_byte_is_found_on_its_line(short):
    """Each byte of the file, replaced by another one; also its lowest bit flipped."""
    whole = short.read_bytes()
    for at in range(len(whole)):
        line = whole[:at].count(b"\n") + 1
        for other in {whole[at] ^ 1, ord("\n") if whole[at] != ord("\n") else ord(" ")}:
            short.write_bytes(whole[:at] + bytes([other]) + whole[at + 1 :])
            problems = verify(short).problems
            assert problems and problems[0].line == line, (at, other)


def test_every_byte_taken_out_or_put_in_is_found_on_its_line(short):
    whole = short.read_bytes()
    for at in range(len(whole)):
        line = whole[:at].count(b"\n") + 1
        for changed in (whole[:at] + whole[at + 1 :], whole[:at] + b"0" + whole[at:]):
            if changed == whole:
                continue
            short.write_bytes(changed)
            problems = verify(short).problems
            assert problems and problems[0].line in (line, line + 1), at


def test_every_deleted_line_but_the_last_is_found_where_it_was(log):
    all_lines = lines(log)
    for gone in range(len(all_lines) - 1):
        problems = found(log, all_lines[:gone] + all_lines[gone + 1 :])
        assert problems[0] == (gone + 1, f"entry {gone} is missing before entry {gone + 1}"), gone


def test_several_deleted_lines_are_counted(log):
    all_lines = lines(log)
    assert found(log, all_lines[:2] + all_lines[5:]) == [(3, "entries 2 to 4 are missing before entry 5")]


def test_every_two_lines_that_changed_places_are_found(log):
    all_lines = lines(log)
    for a in range(len(all_lines)):
        for b in range(a + 1, len(all_lines)):
            changed = list(all_lines)
            changed[a], changed[b] = changed[b], changed[a]
            problems = found(log, changed)
            assert problems[0][0] == a + 1 and any("out of its place" in what for _, what in problems)


def test_a_line_that_is_there_twice_is_found_wherever_it_is_put(log):
    all_lines = lines(log)
    for copied in range(len(all_lines)):
        for at in range(copied + 1, len(all_lines) + 1):
            problems = found(log, all_lines[:at] + [all_lines[copied]] + all_lines[at:])
            assert problems == [
                (at + 1, f"entry {copied} is out of its place, or there twice: this line or one before it")
            ]


def test_an_entry_that_is_put_in_with_a_right_hash_is_found(log):
    all_lines = lines(log)
    before = chain.entry_of(all_lines[3][:-1]).hash
    forged, _ = chain.line_of(4, "2026-01-01T00:00:00.000000Z", "request", {"account": "eve"}, before)
    assert found(log, all_lines[:4] + [forged] + all_lines[4:])[0][0] == 6  # the real entry 4 comes too late
    assert found(log, all_lines[:4] + [forged] + all_lines[5:])[0][0] == 6  # entry 5 does not follow it


def test_an_edit_that_is_hashed_anew_to_the_end_fails_at_the_first_signature_after_it(log, keys):
    all_lines = lines(log)
    for edited in (2, 3, 4):
        changed = list(all_lines)
        changed[edited] = changed[edited].replace(b'"account":"user', b'"account":"nobody')
        assert changed != all_lines
        assert found(log, anew(changed, edited), public_key=keys / "me.pub")[0][0] == 6
    forged = anew([*all_lines[:3], all_lines[3].replace(b"user", b"eve"), *all_lines[4:]], 3)
    problems = found(log, forged)
    assert all("signs another entry" in what for _, what in problems)  # it stands against the chain even without a key


def test_signatures_of_another_key_do_not_help_a_forger(log, keys):
    """Everything from an edit on, hashed and signed anew with a key that is not the right one."""
    eve, out = Ed25519PrivateKey.generate(), lines(log)[:3]
    before = chain.entry_of(out[-1][:-1]).hash
    for raw in lines(log)[3:]:
        content = json.loads(raw)
        fields = {"account": "eve"} if content["kind"] == "request" else content["fields"]
        if content["kind"] == "signature":
            fields = chain.signature(Head(content["number"] - 1, before), eve)
        line, before = chain.line_of(content["number"], content["time"], content["kind"], fields, before)
        out.append(line)
    assert not found(log, out)  # the chain alone holds
    assert found(log, out, public_key=keys / "me.pub")[0] == (6, "the signature in entry 5 is not of this key")


def test_a_log_without_signatures_fails_where_a_key_is_given(tmp_path, keys):
    with AuditLog(tmp_path / "a", durable=False) as log:
        log.append("request")
    assert verify(tmp_path / "a")
    assert found(tmp_path / "a", lines(tmp_path / "a"), public_key=keys / "me.pub") == [(1, "no entry is signed")]


def test_a_forger_cannot_go_on_for_longer_without_signatures_than_was_promised(log, keys):
    kept = lines(log)[:6]
    before = chain.entry_of(kept[-1][:-1]).hash
    for number in range(6, 11):
        line, before = chain.line_of(number, "2026-01-01T00:00:00.000000Z", "request", {}, before)
        kept.append(line)
    assert not found(log, kept[:9], public_key=keys / "me.pub")  # three entries: a signature may be about to come
    problems = found(log, kept, public_key=keys / "me.pub")
    assert problems == [(10, "there should be a signature before entry 9: one every 3 was promised")]


def test_every_truncation_is_found_with_a_head_and_without_one_unless_at_the_end_of_a_line(short):
    whole, head = short.read_bytes(), verify(short).head
    for at in range(len(whole)):
        short.write_bytes(whole[:at])
        ends = at > 0 and whole[at - 1 : at] == b"\n"
        assert bool(verify(short)) == ends  # what the file alone cannot tell
        problems = verify(short, expected=head).problems
        assert problems and problems[-1].what.endswith("the end was cut off")
        assert problems[-1].line == max(whole[:at].count(b"\n"), 1)


def test_a_head_of_earlier_holds_for_a_log_that_went_on_and_not_for_one_written_anew(log, keys):
    head = verify(log).head
    with AuditLog(log, signing_key=keys / "me", durable=False) as more:
        more.append("request")
    assert verify(log, expected=head)
    other = log.with_name("other")
    with AuditLog(other, durable=False) as fresh:
        for _ in range(20):
            fresh.append("request")
    assert [p.what for p in verify(other, expected=head).problems] == [
        "entry 11 is not the one whose hash was kept: the log was written anew"
    ]


def test_several_places_are_named_at_once(log):
    all_lines = lines(log)
    all_lines[2] = all_lines[2].replace(b"user 0", b"user 9")
    all_lines[7] = all_lines[7].replace(b"user 4", b"user 9")
    del all_lines[10]
    assert [line for line, _ in found(log, all_lines)] == [3, 8, 11]


@settings(max_examples=300, deadline=None)
@given(
    cuts=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 40), st.binary(max_size=12)), min_size=1, max_size=3)
)
def test_whatever_bytes_are_replaced_no_changed_log_verifies_against_its_head(made, cuts):
    path, whole, head = made
    changed = whole
    for at, length, instead in cuts:
        changed = changed[:at] + instead + changed[at + length :]
    path.write_bytes(changed)
    assert bool(verify(path, expected=head)) == (changed == whole)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "audit.jsonl"
    with AuditLog(path, durable=False) as log:
        for number in range(12):
            log.append("request", account=f"user {number}")
    return path, path.read_bytes(), verify(path).head


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(fields=st.dictionaries(st.text(), JSON, max_size=4))
def test_any_fields_come_back_as_they_were(fields):
    """Line ends, quotes, lone surrogates and the text of a hash among them."""
    line, digest = chain.line_of(7, "t", "request", fields, "0" * 64)
    assert line.count(b"\n") == 1 and line.isascii()
    entry = chain.entry_of(line[:-1])
    assert (entry.number, entry.fields, entry.hash) == (7, fields, digest)


def test_right_hashes_around_what_is_no_entry_are_refused(log):
    first = lines(log)[0]
    for body in (
        b"[1]",
        b"{}",
        b"{]",
        b'{"number":true,"time":"","kind":"","fields":{},"before":""}',
        b"[" * 9999 + b"}",
    ):
        body = body if body.endswith(b"}") else body + b"}"
        line = body[:-1] + b',"hash":"' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'
        assert found(log, [first, line])[0][0] == 2


def test_verify_as_a_verb_says_where_and_ends_with_one(log, keys, capsys):
    public = str(keys / "me.pub")
    assert main(["log", "verify", str(log), "--public-key", public]) == 0
    said = capsys.readouterr().out
    assert "all 12 entries verify; 4 signatures, up to entry 10, 0 entries after the last one" in said
    head = said.split("head ")[1].strip()
    assert main(["log", "verify", str(log), "--head", head, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["head"] == head
    log.write_bytes(b"".join(lines(log)[:-3]))
    assert main(["log", "verify", str(log), "--head", head]) == 1
    assert "line 9: the log ends with entry 8, and the head that was kept is entry 11" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("log", "verify", "no.jsonl"), "cannot read no.jsonl"),
        (("log", "verify", "no.jsonl", "--head", "12"), "'12' is no head"),
        (("log", "verify", "no.jsonl", "--haed", "12"), "did you mean '--head'?"),
        (("log", "verfy"), "did you mean 'verify'?"),
        (("log",), "the following arguments are required: VERB"),
    ],
)
def test_wrong_input_is_one_line(capsys, arguments, message):
    assert main(list(arguments)) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1


def test_a_public_key_that_is_none_is_an_error(log):
    with pytest.raises(UserError, match="is no public key"):
        verify(log, log)
