"""Files written whole: a write that fails or is interrupted leaves what was there."""

import errno
import stat

import pytest

from robustbench_jax.types import UserError
from robustbench_jax.whole_files import write_whole


@pytest.mark.parametrize(
    "code, said", [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "Permission denied")], ids=["full", "forbidden"]
)
def test_a_write_that_fails_leaves_what_was_there(tmp_path, code, said):
    path = tmp_path / "a.json"
    path.write_text("before")

    def fill(file):
        file.write(b"half of ")
        raise OSError(code, "Permission denied")

    with pytest.raises(UserError, match=said):
        write_whole(path, fill)
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def fill(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "new" / "a.json", fill)
    assert list((tmp_path / "new").iterdir()) == []


def test_a_secret_is_readable_by_its_owner_alone(tmp_path):
    write_whole(tmp_path / "s", lambda file: file.write(b"x"), mode=0o600)
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
