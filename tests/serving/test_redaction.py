"""What the log keeps of inputs: nothing, a digest that only the key's owner can check, or all of it, to be replayed."""

import hashlib
import hmac
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from robustbench_jax.serving.audit_log import AuditLog, kept, requests
from robustbench_jax.serving.redaction import KEY, digest_key, restored
from robustbench_jax.types import UserError

SECRET = bytes(range(32))
X = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_nothing_is_kept_where_the_policy_is_none():
    assert kept(X, "none") == {"kept": "none"}


def test_a_digest_is_hmac_of_the_array_under_the_key():
    said = kept(X, "digest", SECRET)
    expected = hmac.new(SECRET, b"((3, 4), '<f4')" + X.tobytes(), hashlib.sha256).hexdigest()
    assert said == {"kept": "digest", "shape": [3, 4], "dtype": "<f4", "digest": expected}


def test_equal_inputs_have_equal_digests_under_one_key_alone():
    digest = [kept(x, "digest", key)["digest"] for x, key in ((X, SECRET), (X.copy(), SECRET), (X, b"x" * 32))]
    assert digest[0] == digest[1] != digest[2]
    others = [X + 1, X.reshape(4, 3), X.view(np.int32), X.T]
    assert len({digest[0], *(kept(x, "digest", SECRET)["digest"] for x in others)}) == 5


@given(
    st_numpy.arrays(
        st.sampled_from([np.uint8, np.int64, np.float32, np.float64, np.bool_, np.dtype(">f4")]),
        st_numpy.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    )
)
def test_what_is_kept_in_full_comes_back_bit_by_bit(x):
    """NaN and infinity among it, through JSON."""
    back = restored(json.loads(json.dumps(kept(x, "full"), allow_nan=False)))
    assert back.dtype == x.dtype and back.tobytes() == x.tobytes() and back.size == x.size


def test_a_log_gives_back_the_inputs_that_it_kept_in_their_order(tmp_path):
    path = tmp_path / "audit.jsonl"
    with AuditLog(path, durable=False) as log:
        log.append("request", account="a", input=kept(X, "full"))
        log.append("admin", act="reload")
        log.append("request", account="b", input=kept(X, "digest", SECRET))
        log.append("request", account="c", input=kept(X, "none"))
        log.append("request", account="d", input=kept(X + 1, "full"))
    found = list(requests(path))
    assert [r.account for r in found] == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(found[0].x, X)
    assert found[1].x is found[2].x is None
    np.testing.assert_array_equal(found[3].x, X + 1)


@pytest.mark.parametrize(
    "said",
    [
        {"kept": "full", "shape": [3], "dtype": "|O", "data": "AAAA"},
        {"kept": "full", "shape": [3], "dtype": "<f4", "data": "AAAA"},
        {"kept": "full", "shape": [3], "dtype": "<f4"},
        {"kept": "full", "shape": [1], "dtype": "|u1", "data": "!"},
        {"kept": "full", "shape": "x", "dtype": "|u1", "data": "AAAA"},
    ],
)
def test_an_input_that_kept_did_not_write_is_an_error_that_names_its_entry(tmp_path, said):
    with AuditLog(tmp_path / "a", durable=False) as log:
        log.append("request", input=said)
    with pytest.raises(UserError, match="entry 1"):
        list(requests(tmp_path / "a"))


def test_a_damaged_line_ends_the_replay(tmp_path):
    with AuditLog(tmp_path / "a", durable=False) as log:
        log.append("request", account="alice")
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes().replace(b"alice", b"alicf"))
    with pytest.raises(UserError, match="line 2: it was changed"):
        list(requests(tmp_path / "a"))


def test_wrong_policies_and_missing_keys_are_errors(monkeypatch):
    with pytest.raises(UserError, match="no policy 'ful' for logged inputs; did you mean 'full'"):
        kept(X, "ful")
    with pytest.raises(UserError, match="needs a key"):
        kept(X, "digest")
    for text in ("", "xyz", "00" * 15):
        monkeypatch.setenv(KEY, text)
        with pytest.raises(UserError, match="at least 32 hexadecimal digits") as error:
            digest_key()
        assert not text or text not in str(error.value)
    monkeypatch.setenv(KEY, SECRET.hex())
    assert digest_key() == SECRET
