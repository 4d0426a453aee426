"""HDF5 records to arrays: one reader for training slices, scans and evaluation volumes."""

import pathlib
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import h5py
import numpy as np

from cifp_jax.data import transforms
from cifp_jax.data.transforms import Arrays
from cifp_jax.data.whole_slices import SliceFrame, limited_shape
from cifp_jax.files import check_dataset

# What h5py raises where a file is cut off or damaged.
_BROKEN = (OSError, KeyError, RuntimeError, TypeError, MemoryError)


class Case(NamedTuple):
    """A case of a list: its name there, its file, and the slice of it where one is meant."""

    name: str
    path: pathlib.Path
    slice: int | None = None


def _refuse(case: Case, what: str) -> NoReturn:
    raise ValueError(
        f"{case.path}: {what} Prepare this file again, or take {case.name!r} off its list."
    )


def image_shape(case: Case) -> tuple[int, ...]:
    """Shape of the image in a case's file, channels included, without decoding it.

    Raises:
      ValueError: the file is no HDF5 file with an image.
    """
    try:
        with h5py.File(case.path) as file:
            return file["image"].shape  # pyright: ignore[reportAttributeAccessIssue]
    except _BROKEN as error:
        _refuse(case, f"it cannot be read as HDF5; it may be cut off ({error}).")


def spacing(case: Case) -> tuple[float, ...] | None:
    """Distance between neighbouring voxels along each axis, mm; None where the file has no affine.

    Raises:
      ValueError: the file cannot be read as HDF5.
    """
    try:
        with h5py.File(case.path) as file:
            affine = file.attrs.get("affine")
    except OSError as error:
        _refuse(case, f"it cannot be read as HDF5; it may be cut off ({error}).")
    if affine is None:
        return None
    return tuple(np.linalg.norm(np.asarray(affine)[:3, :3], axis=0).tolist())


def scan_shape(case: Case, downsample: int = 1) -> tuple[int, ...]:
    """Shape of a scan as `read_case` gives it, from its file's header.

    Raises:
      ValueError: the file is no HDF5 file with an image.
    """
    return tuple(n // downsample for n in image_shape(case))


def count_smaller(cases: Sequence[Case], frame: SliceFrame) -> int:
    """How many slices are smaller than the middle that is seen of them, and are padded.

    Raises:
      ValueError: a file is no HDF5 file with an image.
    """
    shapes = (limited_shape(image_shape(case)[-2:], frame.largest_side) for case in cases)
    return sum(min(shape) < frame.center_crop for shape in shapes)


def slices_of(case: Case) -> tuple[Case, ...]:
    """The slices of a volume, along its first axis, as cases of their own.

    Raises:
      ValueError: the file is no HDF5 file with an image.
    """
    count = image_shape(case)[0]
    return tuple(Case(f"{case.name}_slice_{z}", case.path, z) for z in range(count))


def read_case(
    case: Case,
    *,
    classes: int,
    rank: int,
    labels: bool = True,
    downsample: int = 1,
    channels: int = 1,
    identity: str = "",
) -> Arrays:
    """Reads and validates one record.

    Args:
      case: the record; its file holds `image` and, if `labels`, `label` of the same shape.
      classes: number of classes, background included; labels lie in 0 .. classes - 1.
      rank: number of axes: 2 for slices (H, W), 3 for volumes, (X, Y, Z) or (Z, H, W).
      labels: whether the label is read; an unlabelled record needs none.
      downsample: whole-number factor by which every side is averaged down.
      channels: of the image; more than one stand along a last axis of its own.
      identity: of the data set that the record must belong to; "" for any.

    Returns:
      `{"image": float32 (*spatial,) or (*spatial, channels), "label": uint8 (*spatial,)}`, without
      `label` if not `labels`.

    Raises:
      FileNotFoundError: the file is missing.
      ValueError: it is no HDF5 file or is cut off, lacks a key, has another rank, an image and a
        label of different shapes, voxels that are not finite, labels that are no class, or
        another identity.
    """
    if not case.path.is_file():
        raise FileNotFoundError(
            f"{case.path}: this file is missing. Put it there, or take {case.name!r} off its list."
        )
    keys = ("image", "label") if labels else ("image",)
    stored: Arrays = {}
    try:
        with h5py.File(case.path) as file:
            if identity and file.attrs.get("identity") != identity:
                _refuse(case, "it was prepared by another plan than its configuration.")
            for key in keys:
                record = file.get(key)
                if not isinstance(record, h5py.Dataset):
                    _refuse(case, f"it has no array {key!r} (it has: {', '.join(file) or '-'}).")
                check_dataset(case.path, record)
                stored[key] = record[() if case.slice is None else case.slice]
    except _BROKEN as error:
        _refuse(case, f"it cannot be read as HDF5; it may be cut off ({error}).")

    arrays: Arrays = {"image": stored["image"].astype(np.float32, copy=False)}
    shape, extra = arrays["image"].shape, () if channels == 1 else (channels,)
    if len(shape) != rank + len(extra) or shape[rank:] != extra or 0 in shape:
        also = f" and one of {channels} channels" if extra else ""
        _refuse(case, f"its image has shape {shape}, where {rank} axes{also} are due.")
    if not np.isfinite(arrays["image"]).all():
        _refuse(case, "its image holds voxels that are NaN or infinite.")
    if labels:
        with np.errstate(invalid="ignore"):
            arrays["label"] = stored["label"].astype(np.uint8, copy=False)
        if stored["label"].shape != stored["image"].shape[:rank]:
            shapes = f"{stored['image'].shape} and {stored['label'].shape}"
            _refuse(case, f"its image and label have different shapes, {shapes}.")
        # A cast that changes a value (300, -1, 0.5) is as wrong as a value that is no class.
        if not np.array_equal(arrays["label"], stored["label"]) or arrays["label"].max() >= classes:
            found = np.unique(stored["label"])[:10].tolist()
            _refuse(case, f"its labels {found} are not all among the classes 0 .. {classes - 1}.")
    return arrays if downsample == 1 else transforms.average_down(arrays, downsample)


def check_cases(
    cases: Sequence[Case],
    *,
    classes: int,
    rank: int,
    labels: bool = True,
    channels: int = 1,
    identity: str = "",
) -> None:
    """Reads every record once, so that a bad file is named before training rather than during it.

    Takes the time of decoding all of them: about three seconds for the 80 scans of LA or the 1,312
    slices of ACDC. HDF5 decodes one file at a time in a process, so threads would not help.

    Raises:
      FileNotFoundError, ValueError: of the first bad record, as `read_case`.
    """
    for case in cases:
        read_case(
            case, classes=classes, rank=rank, labels=labels, channels=channels, identity=identity
        )


class ScanCache:
    """Decoded records kept in memory up to a limit; what does not fit is read again each time.

    Nothing is ever put out: with every record drawn once an epoch, replacing one by another gains
    nothing. A copy that goes to a worker process starts empty there.
    """

    def __init__(self, limit: int) -> None:
        """Keeps at most `limit` bytes of arrays."""
        self._limit = limit
        self._start()

    def _start(self) -> None:
        self._scans: dict[tuple[Case, Callable[[Case], Arrays]], Arrays] = {}
        self._lock = threading.Lock()
        self.nbytes = 0

    def get(self, case: Case, read: Callable[[Case], Arrays]) -> Arrays:
        """What `read` makes of the record, perhaps from memory; the arrays are read-only."""
        key = (case, read)
        arrays = self._scans.get(key)
        if arrays is None:
            arrays = read(case)
            size = sum(array.nbytes for array in arrays.values())
            for array in arrays.values():
                array.flags.writeable = False
            with self._lock:
                if key not in self._scans and self.nbytes + size <= self._limit:
                    self._scans[key] = arrays
                    self.nbytes += size
        return arrays

    def __getstate__(self) -> dict[str, Any]:
        return {"_limit": self._limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._limit = state["_limit"]
        self._start()


class CaseSource:
    """Random-access source for Grain: record i of a list of cases, by way of a cache."""

    def __init__(
        self, cases: Sequence[Case], read: Callable[[Case], Arrays], cache: ScanCache
    ) -> None:
        self._cases = tuple(cases)
        self._read = read
        self._cache = cache

    def __len__(self) -> int:
        return len(self._cases)

    def __getitem__(self, index: int) -> Arrays:
        return self._cache.get(self._cases[index], self._read)

    def __repr__(self) -> str:
        return f"CaseSource({len(self)} cases)"
