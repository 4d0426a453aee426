"""Files that appear whole or not at all."""

import json
import pathlib

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
