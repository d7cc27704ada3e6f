"""Policies: the example is whole, and what is wrong in one is a line that names it."""

import re
from pathlib import Path

import pytest

from robustbench_jax.serving import policy
from robustbench_jax.types import UserError

EXAMPLE = Path(__file__).parents[2] / "configs" / "policy.toml"
LEAST = {"accounts": "a.json", "log": {"path": "l"}}


def test_the_example_has_every_key_with_its_default():
    found = policy.load(EXAMPLE)
    assert found.accounts == str(EXAMPLE.parent / "accounts.json") and found.log.path.endswith("configs/audit.jsonl")
    for table in ("limits", "batching", "metrics", "responses"):
        assert getattr(found, table) == getattr(policy.parsed(LEAST), table)
    text = EXAMPLE.read_text()
    for name, field in policy.Policy.model_fields.items():
        keys = getattr(field.annotation, "model_fields", {}) if name != "monitor" else policy.Monitor.model_fields
        for key in (name, *keys):
            assert re.search(rf"^(# |\[+)?{key}(\]+| = )", text, re.M), key


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"acounts": "x"}, "no key 'acounts'; did you mean 'accounts'?"),
        ({"limits": {"bdy": 3}}, "no key 'bdy' in [limits]; did you mean 'body'?"),
        ({"log": {"path": "l", "input": "none"}}, "no key 'input' in [log]; did you mean 'inputs'?"),
        ({"log": {}}, "log.path is missing"),
        ({"log": {"path": "l", "inputs": "digst"}}, "log.inputs = 'digst'; did you mean 'digest'?"),
        ({"answers": "label"}, "answers = 'label'; did you mean 'labels'?"),
        ({"limits": {"images": 0}}, "limits.images = 0: "),
        ({"limits": {"body_seconds": float("nan")}}, "limits.body_seconds = nan: "),
        ({"batching": {"room": 8}}, "limits.images = 256 is more than may wait"),
        ({"monitor": [{"call": "blacklght"}]}, "no monitor 'blacklght'; did you mean 'blacklight'?"),
        ({"monitor": [{"call": "blacklight", "responses": ["pge"]}]}, "did you mean 'page'?"),
        ({"monitor": [{"call": "blacklight", "response": ["page"]}]}, "no key 'response' in [monitor]"),
        ({"monitor": [{"call": "blacklight", "responses": ["page"]}]}, "say in [page] whom"),
        ({"responses": {"poison": "jpg(75)"}}, "no model_defence 'jpg'; did you mean 'jpeg'?"),
        ({"responses": {"throttle": 1.5}}, "responses.throttle = 1.5: "),
        ({"log": {"path": "l", "inputs": "digest"}}, "ROBUSTBENCH_LOG_KEY"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:20],
)
def test_what_is_wrong_is_one_line(changes, said, monkeypatch):
    monkeypatch.delenv("ROBUSTBENCH_LOG_KEY", raising=False)
    with pytest.raises(UserError) as caught:
        policy.parsed(LEAST | changes)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_none_is_named(tmp_path):
    for name, content in (("missing", None), ("cut", b"a = ["), ("binary", b"\xff\xfe")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            policy.load(tmp_path / name)
