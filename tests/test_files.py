"""Files that appear whole or not at all."""

import errno
import json
import pathlib

import numpy as np
import pytest

from cifp_jax import files
from cifp_jax.files import write_json


def test_a_write_that_fails_leaves_the_old_file(tmp_path: pathlib.Path):
    path = tmp_path / "summary.json"
    write_json(path, {"dice": 1})
    with pytest.raises(TypeError):
        write_json(path, {"dice": object()})
    assert json.loads(path.read_text()) == {"dice": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "a").touch()
    for make in (
        lambda: files.make_folder(tmp_path / "a"),
        lambda: files.write_text(tmp_path / "a/b.txt", "text"),
        lambda: files.write_text(tmp_path, "text"),
    ):
        with pytest.raises(OSError, match=r"a file stands where a folder is needed.*Remove it, or"):
            make()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file/run: a file stands where a folder is needed"):
        files.make_folder(tmp_path / "file/run")
    files.make_folder(tmp_path / "a/b")
    assert not list((tmp_path / "a/b").iterdir())


@pytest.mark.parametrize("at", range(6))
def test_entries_go_back_where_their_exchange_is_stopped(tmp_path, monkeypatch, at):
    """Two old ones are moved away and three new ones come; stopped at each of these moves."""
    folder = tmp_path / "data"
    for name in ("config.py", "a.h5"):
        files.write_text(folder / name, "old")
    rename, moves = pathlib.Path.rename, []

    def stopped(path, target):
        moves.append(target)
        if len(moves) == at + 1:
            raise KeyboardInterrupt
        return rename(path, target)

    def exchange():
        with files.staged(folder, "config.py") as stage:
            for name in ("config.py", "a.h5", "b.h5"):
                (stage / name).write_text("new")
            monkeypatch.setattr(pathlib.Path, "rename", stopped)

    if at == 5:
        exchange()
        assert {path.name for path in folder.iterdir()} == {"config.py", "a.h5", "b.h5"}
        assert (folder / "config.py").read_text() == "new"
        return
    with pytest.raises(KeyboardInterrupt):
        exchange()
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "config.py": "old",
        "a.h5": "old",
    }


def test_a_record_on_a_full_disk(tmp_path, monkeypatch):
    """HDF5 itself would fail anew as it closes the file, and end the interpreter."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"a\.h5: no room is left on the disk"):
        files.write_record(tmp_path / "a.h5", {"image": np.zeros((3, 4))})
    assert not list(tmp_path.iterdir())
