"""A folder has one owner at a time, of one process or of many, and no trace of it."""

import fcntl
import io
import os
import pathlib
import subprocess
import sys

import pytest

from ddpm_jax import ownership
from ddpm_jax.ownership import OWNER, claimed


def test_a_second_owner_is_refused_by_name(tmp_path):
    with claimed(tmp_path, "--out"):
        with pytest.raises(OSError) as error, claimed(tmp_path, "--out"):
            raise AssertionError("two owners")
        assert str(error.value).startswith(
            f"--out {tmp_path} is in use by process {os.getpid()} on "
        )
        assert "\n" not in str(error.value)
    with claimed(tmp_path):  # it was let go
        pass
    assert not list(tmp_path.iterdir())


def test_a_program_that_dies_lets_go(tmp_path):
    code = (
        "import os, pathlib, sys\n"
        "from ddpm_jax.ownership import claimed\n"
        "with claimed(pathlib.Path(sys.argv[1])):\n"
        "    os._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path])
    assert done.returncode == 9 and (tmp_path / OWNER).exists()
    with claimed(tmp_path):
        assert f"process {os.getpid()} on" in (tmp_path / OWNER).read_text()


def test_a_folder_that_was_made_for_nothing_is_removed(tmp_path):
    place = tmp_path / "some" / "where"
    with pytest.raises(RuntimeError), claimed(place):
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with claimed(place):
        (place / "result").touch()
    assert [path.name for path in place.iterdir()] == ["result"]
    (tmp_path / "empty").mkdir()
    with claimed(tmp_path / "empty"):  # it was there before
        pass
    assert (tmp_path / "empty").exists()


def test_what_is_locked_is_what_is_there(tmp_path, monkeypatch):
    """The last owner removes its note between our opening it and our locking it."""
    opened = pathlib.Path.open
    stale = [True]

    def open_first(path, *arguments, **options):
        file = opened(path, *arguments, **options)
        if stale.pop() if stale else False:
            path.unlink()
        return file

    monkeypatch.setattr(pathlib.Path, "open", open_first)
    with claimed(tmp_path):
        monkeypatch.undo()
        with pytest.raises(BlockingIOError), claimed(tmp_path):
            raise AssertionError("two owners")


def test_a_place_that_is_no_folder_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        rule = f"workdir {place} must be a folder that can be written"
        with pytest.raises(OSError, match=rule), claimed(place, "workdir"):
            raise AssertionError


class Full(io.FileIO):
    """A file on a disk without room."""

    def write(self, content):
        raise OSError(ownership.errno.ENOSPC, "No space left on device")


def test_a_disk_that_is_full_is_found_out_first(tmp_path, monkeypatch):
    monkeypatch.setattr(pathlib.Path, "open", lambda path, **_: Full(path, "a+"))
    rule = f"--out {tmp_path} must be a folder that can be written; got No space"
    with pytest.raises(OSError, match=rule), claimed(tmp_path):
        raise AssertionError


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    def no_locks(file, how):
        raise OSError(ownership.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.warns(UserWarning, match="has no locks"), claimed(tmp_path):
        pass


@pytest.mark.parametrize("main", [True, False])
def test_a_refusal_reaches_all_processes(tmp_path, monkeypatch, main):
    """Or the others would wait for a main process that is gone."""
    agreed = []
    monkeypatch.setattr(ownership.processes, "is_main", lambda: main)
    monkeypatch.setattr(ownership.jax, "process_count", lambda: 2)
    monkeypatch.setattr(ownership.processes, "agree", lambda x: agreed.append(x) or -1)
    (tmp_path / "file").touch()
    line = "must be a folder" if main else "was refused to process 0"
    with pytest.raises(OSError, match=line), claimed(tmp_path / "file"):
        raise AssertionError
    assert agreed == [-1] if main else agreed[0] >= 0
