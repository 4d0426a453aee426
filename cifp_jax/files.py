"""Files that appear whole or not at all: HDF5 records, lists and other text."""

import contextlib
import errno
import fcntl
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import h5py
import numpy as np


@contextlib.contextmanager
def whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a path to write to, and moves it to `path` once the writing has succeeded.

    The path given starts with a dot and ends as `path` does, for writers that look at the ending.

    Raises:
      OSError: naming the file and the remedy where the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial.{path.name}")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        # HDF5 says it in its message only.
        if error.errno != errno.ENOSPC and "No space left" not in str(error):
            raise
        raise OSError(
            errno.ENOSPC, f"{path}: no room is left on the disk. Free some, or name another folder."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: pathlib.Path, holder: str) -> Iterator[None]:
    """Holds `folder` for this process, as long as it lives; the folder is made where it is missing.

    Args:
      folder: in which a file `lock` is held.
      holder: who else may hold it, for the message.

    Raises:
      BlockingIOError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(
                f"{folder} is in use by another {holder}: wait for it, or name another folder."
            ) from error
        yield


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_list(path: pathlib.Path, lines: Iterable[str]) -> None:
    """Writes a text file of these lines: a list of cases has one name on each."""
    write_text(path, "".join(f"{line}\n" for line in lines))


def write_record(
    path: pathlib.Path,
    arrays: Mapping[str, np.ndarray],
    *,
    attributes: Mapping[str, Any] | None = None,
    sliced: bool = False,
) -> None:
    """Writes an HDF5 record.

    Args:
      path: the file; its folder is made where it is missing.
      arrays: what it holds.
      attributes: of the file.
      sliced: compress each slice of the first axis by itself, so that one is read without the rest.
    """
    with whole(path) as partial, h5py.File(partial, "w") as file:
        for key, array in arrays.items():
            if sliced:
                chunks = (1, *array.shape[1:])
                file.create_dataset(key, data=array, chunks=chunks, compression="lzf")
            else:
                file.create_dataset(key, data=array)
        for name, value in (attributes or {}).items():
            file.attrs[name] = value


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes `content` as indented JSON."""
    write_text(path, json.dumps(content, indent=2) + "\n")
