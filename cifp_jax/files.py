"""Files that appear whole or not at all: HDF5 records, lists and other text."""

import contextlib
import errno
import fcntl
import io
import json
import pathlib
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import h5py
import numpy as np

_REASONS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "no room is left on the disk. Free some"),
    **dict.fromkeys((errno.EACCES, errno.EROFS, errno.EPERM), "it may not be written"),
    **dict.fromkeys(
        (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY),
        "a file stands where a folder is needed, or a folder in the place of a file. Remove it",
    ),
}


class Unwritable(OSError):
    """An error that says which file could not be written, and the remedy; without its number."""

    def __str__(self) -> str:
        return str(self.strerror)


@contextlib.contextmanager
def explained(path: pathlib.Path) -> Iterator[None]:
    """Says of an OSError which file could not be written, and the remedy."""
    try:
        yield
    except OSError as error:
        # HDF5 says it in its message only.
        full = error.errno == errno.ENOSPC or "No space left" in str(error)
        code = errno.ENOSPC if full else error.errno
        if why := _REASONS.get(code or 0):
            raise Unwritable(code, f"{path}: {why}, or name another folder.") from error
        raise


@contextlib.contextmanager
def whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a path to write to, and moves it to `path` once the writing has succeeded.

    The path given starts with a dot and ends as `path` does, for writers that look at the ending.
    It is no other process's.

    Raises:
      OSError: naming the file and the remedy where the disk is full or may not be written.
    """
    partial = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def staged(folder: pathlib.Path, key: str) -> Iterator[pathlib.Path]:
    """Gives a folder to write to, whose entries take the place of those of `folder` at the end.

    Where that is not reached, `folder` is left as it was.

    Args:
      folder: made where it is missing.
      key: the entry without which nobody uses the folder: it goes first and comes last.

    Raises:
      OSError: naming the folder and the remedy; also where another process is writing to it.
    """
    stage, made = folder / ".partial", not folder.exists()
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            stage.mkdir()
        except FileExistsError as error:
            raise FileExistsError(
                f"{stage}: another command is writing to {folder}, or was killed. Once none does, "
                f"remove this folder."
            ) from error
        try:
            yield stage
            names = sorted((path.name for path in stage.iterdir()), key=lambda name: name != key)
            _exchange(stage, folder, names)
        finally:
            shutil.rmtree(stage)
            if made:
                with contextlib.suppress(OSError):
                    folder.rmdir()  # where nothing was written


def _exchange(stage: pathlib.Path, folder: pathlib.Path, names: Sequence[str]) -> None:
    """Moves entries of `stage` to `folder`; whatever stops it, all of them go back first."""
    before = stage / ".before"
    before.mkdir()
    moves = [(folder / name, before / name) for name in names if (folder / name).exists()]
    moves += [(stage / name, folder / name) for name in reversed(names)]
    done: list[tuple[pathlib.Path, pathlib.Path]] = []
    try:
        for source, target in moves:
            done.append((source, target))
            source.rename(target)
    except BaseException:
        for source, target in reversed(done):
            if not source.exists():
                target.rename(source)
        raise


def make_folder(path: pathlib.Path) -> None:
    """Makes a folder where it is missing.

    Raises:
      OSError: it may not be written, or the disk is full, with the remedy.
    """
    with explained(path):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path) as probe:
            probe.write(bytes(4096))


@contextlib.contextmanager
def locked(folder: pathlib.Path, holder: str) -> Iterator[None]:
    """Holds `folder` for this process, as long as it lives; the folder is made where it is missing.

    Args:
      folder: in which a file `lock` is held.
      holder: who else may hold it, for the message.

    Raises:
      BlockingIOError: another process holds it.
      OSError: as `make_folder`.
    """
    make_folder(folder)
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
    # In memory first: where the disk is full, HDF5 fails anew as it closes, and brings Python down.
    made = io.BytesIO()
    with h5py.File(made, "w") as file:
        for key, array in arrays.items():
            if sliced:
                chunks = (1, *array.shape[1:])
                file.create_dataset(key, data=array, chunks=chunks, compression="lzf")
            else:
                file.create_dataset(key, data=array)
        for name, value in (attributes or {}).items():
            file.attrs[name] = value
    with whole(path) as partial:
        partial.write_bytes(made.getbuffer())


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes `content` as indented JSON."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def check_dataset(path: pathlib.Path, record: h5py.Dataset) -> None:
    """Raises ValueError where an HDF5 record names more voxels than its bytes can make.

    HDF5 fills up what was never written, so a file of some bytes can ask for all of the memory.
    """
    large, densest = 2**30, 1100  # a byte of deflate makes at most 1,032
    if record.nbytes > large and record.nbytes > densest * record.id.get_storage_size():
        raise ValueError(
            f"{path}: {record.name} names {record.nbytes / 1e9:.1f} GB of voxels and holds nearly "
            f"none of them; the file is damaged. Copy it again, or leave it out."
        )
