"""Accounts: keys are shown once and kept as hashes; a key that does not count is nobody's; changes are whole."""

import hashlib
import json
import threading
from datetime import UTC, datetime

import pytest

from robustbench_jax.cli import main
from robustbench_jax.serving import accounts as module
from robustbench_jax.serving.accounts import Account, Accounts
from robustbench_jax.types import UserError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "accounts.json"


def test_a_key_finds_its_account_and_nothing_else_does(path):
    accounts = Accounts.load(path, new=True)
    tokens = {name: accounts.add(name, rate=2, scopes=("predict", "metrics")) for name in ("alice", "bob")}
    again = Accounts.load(path)
    for name, token in tokens.items():
        assert again.find(token).name == name and accounts.find(token) == again.find(token)
        for wrong in (token[:-1], token + "A", token.lower(), token[4:], "", "\udcff", "rbj_" + "A" * 43):
            assert again.find(wrong) is None


def test_the_file_has_the_sha256_of_a_key_and_never_the_key(path):
    token = Accounts.load(path, new=True).add("alice")
    text = path.read_text()
    assert token not in text and token[4:] not in text
    assert json.loads(text)["accounts"][0]["key_hash"] == hashlib.sha256(token.encode()).hexdigest()
    assert path.stat().st_mode & 0o777 == 0o600


def test_keys_have_a_prefix_and_256_random_bits():
    tokens = {module.new_token() for _ in range(100)}
    assert len(tokens) == 100 and all(t.startswith("rbj_") and len(t) == 4 + 43 for t in tokens)


def test_every_hash_is_compared_whichever_one_it_is(path, monkeypatch):
    accounts = Accounts.load(path, new=True)
    tokens = [accounts.add(f"user{number}") for number in range(5)]
    compared, real = [], module.hmac.compare_digest
    monkeypatch.setattr(module.hmac, "compare_digest", lambda a, b: compared.append(a) or real(a, b))
    for token in (tokens[0], tokens[4], "rbj_nobody"):
        compared.clear()
        accounts.find(token)
        assert len(compared) == 5


def test_a_disabled_account_is_nobodys_but_its_owner_is_known(path):
    accounts = Accounts.load(path, new=True)
    token = accounts.add("alice")
    accounts.disable("alice")
    assert accounts.find(token) is None and accounts.owner(token).name == "alice"
    assert Accounts.load(path).find(token) is None


def test_an_expired_account_is_nobodys(path):
    accounts = Accounts.load(path, new=True)
    past, future = (accounts.add(name, expires=t) for name, t in (("a", "2020-01-01"), ("b", "2999-01-01T00:00:00Z")))
    assert accounts.find(past) is None and accounts.find(future).name == "b"
    account = Account("a", "0" * 64, expires="2027-01-01T00:00:00+01:00")
    assert account.active(datetime(2026, 12, 31, 22, 59, 59, tzinfo=UTC))
    assert not account.active(datetime(2026, 12, 31, 23, tzinfo=UTC))


def test_a_rotated_key_replaces_the_old_one_and_keeps_the_limits(path):
    accounts = Accounts.load(path, new=True)
    old = accounts.add("alice", rate=3.5, budget=7)
    accounts.disable("alice")
    new = accounts.rotate("alice")
    assert accounts.find(old) is None and accounts.owner(old) is None
    assert (accounts.find(new).rate, accounts.find(new).budget) == (3.5, 7)


def test_admin_has_every_scope_and_others_have_their_own():
    assert Account("a", "0" * 64, scopes=("admin",)).may("predict")
    assert not Account("a", "0" * 64, scopes=("predict",)).may("metrics")


def test_a_server_sees_what_others_changed_in_the_file(path):
    accounts = Accounts.load(path, new=True)
    token = accounts.add("alice")
    assert not accounts.refresh()
    Accounts.load(path).disable("alice")
    assert accounts.find(token) is not None
    assert accounts.refresh() == ("alice: disabled",) and accounts.find(token) is None
    path.write_text("{}")
    with pytest.raises(UserError, match="is no file of accounts"):
        accounts.refresh()
    path.unlink()
    with pytest.raises(UserError, match="cannot read"):
        accounts.refresh()


def test_what_changed_in_the_file_is_told_without_hashes(path):
    accounts, other = Accounts.load(path, new=True), Accounts.load(path, new=True)
    accounts.add("alice")
    other.add("bob", rate=3)
    other.rotate("alice")
    assert accounts.refresh() == ("alice: new key", "bob: added")
    content = json.loads(path.read_text())
    content["accounts"] = [content["accounts"][1] | {"rate": 4, "expires": "2030-01-01"}]
    path.write_text(json.dumps(content))
    assert accounts.refresh() == ("alice: removed", "bob: rate = 4.0, expires = '2030-01-01'")
    assert accounts.refresh() == ()


def test_accounts_that_are_added_at_once_are_all_there(path):
    def add(number):
        Accounts.load(path, new=True).add(f"user{number}")

    threads = [threading.Thread(target=add, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {account.name for account in Accounts.load(path)} == {f"user{number}" for number in range(12)}


def test_names_that_are_there_or_not_there_are_errors(path):
    accounts = Accounts.load(path, new=True)
    accounts.add("alice")
    with pytest.raises(UserError, match="'alice' is there already"):
        accounts.add("alice")
    for change in (accounts.disable, accounts.rotate, accounts.__getitem__):
        with pytest.raises(UserError, match="no account 'alcie'; did you mean 'alice'"):
            change("alcie")


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"name": "a b"}, "a name has 1 to 64"),
        ({"name": ""}, "a name has 1 to 64"),
        ({"name": 3}, "a name has 1 to 64"),
        ({"scopes": ["predct"]}, "no scope 'predct'; did you mean 'predict'"),
        ({"scopes": []}, "scopes must be some of predict, metrics, admin"),
        ({"scopes": "predict"}, "scopes must be some of"),
        ({"rate": 0}, "rate = 0 must be greater than 0"),
        ({"rate": float("inf")}, "rate = inf"),
        ({"rate": True}, "rate = True"),
        ({"burst": 0}, "burst = 0 must be a whole number from 1"),
        ({"burst": 1.5}, "burst = 1.5"),
        ({"budget": -1}, "budget = -1"),
        ({"expires": "soon"}, "expires = 'soon' is no time"),
        ({"expires": ""}, "expires = '' is no time"),
        ({"disabled": 1}, "disabled = 1 must be true or false"),
        ({"key_hash": "x"}, "key_hash is no SHA-256"),
        ({"rat": 1}, "has no 'rat'; did you mean 'rate'"),
    ],
)
def test_wrong_fields_are_named_with_their_account(path, wrong, message):
    path.write_text(json.dumps({"version": 1, "accounts": [{"name": "a", "key_hash": "0" * 64} | wrong]}))
    path.chmod(0o600)
    with pytest.raises(UserError, match=message):
        Accounts.load(path)


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "no JSON"),
        ("[]", "no file of accounts of version 1"),
        ('{"version": 2, "accounts": []}', "no file of accounts of version 1"),
        ('{"version": 1}', "no file of accounts of version 1"),
        ('{"version": 1, "accounts": [3]}', "3 is no account"),
        ('{"version": 1, "accounts": [{"name": "a"}]}', "account 'a' has no key_hash"),
        (json.dumps({"version": 1, "accounts": [{"name": "a", "key_hash": c * 64} for c in "01"]}), "has the name of"),
        (json.dumps({"version": 1, "accounts": [{"name": n, "key_hash": "0" * 64} for n in "ab"]}), "has the key_hash"),
    ],
)
def test_a_file_that_is_none_of_accounts_is_an_error(path, content, message):
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(UserError, match=message):
        Accounts.load(path)


def test_a_file_that_others_may_write_is_refused(path):
    Accounts.load(path, new=True).add("alice")
    path.chmod(0o620)
    with pytest.raises(UserError, match="can be written by others, who could make keys: chmod go-w"):
        Accounts.load(path)


def test_the_verbs_make_list_disable_and_rotate(path, capsys):
    def run(*arguments):
        code = main(["keys", *arguments, "--accounts", str(path)])
        return code, capsys.readouterr()

    code, said = run("new", "--name", "alice", "--rate", "2.5", "--burst", "5", "--budget", "1000", "--scopes", "admin")
    token = said.out.strip()
    assert code == 0 and token.startswith("rbj_") and token not in said.err
    assert Accounts.load(path).find(token).scopes == ("admin",)
    code, said = run("list")
    assert said.out.strip() == "alice  active  admin  2.5/s, 5 at once, 1,000 in all  for ever"
    code, said = run("list", "--json")
    assert "key_hash" not in json.loads(said.out) and json.loads(said.out)["budget"] == 1000
    assert run("disable", "--name", "alice")[0] == 0 and Accounts.load(path).find(token) is None
    assert "alice  disabled" in run("list")[1].out
    fresh = run("rotate", "--name", "alice")[1].out.strip()
    assert fresh != token and Accounts.load(path).find(fresh).name == "alice"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("list", "--accounts", "no.json"), "cannot read no.json"),
        (("new", "--accounts", "a.json"), "arguments are required: --name"),
        (("new", "--accounts", "a.json", "--name", "a", "--expires", "soon"), "expires = 'soon' is no time"),
        (("disable", "--accounts", "no.json", "--name", "a"), "cannot read no.json"),
        (("revoke",), "no keys verb 'revoke'"),
    ],
)
def test_wrong_input_is_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["keys", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1
    assert not list(tmp_path.glob("a.json"))
