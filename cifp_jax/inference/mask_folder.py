"""A folder of masks: which network's they are, and which of them are there already."""

import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from cifp_jax.files import write_json
from cifp_jax.scans.dicom import Series
from cifp_jax.scans.discovery import MASKS_MARK, files_of
from cifp_jax.scans.readers import Source, suffix

BESIDE = ("probabilities", "uncertainty", "preview")  # options, and folders beside the masks
DICOM_SEG = ".dcm"
ENDINGS = {
    "nifti": ".nii.gz",
    "nrrd": ".nrrd",
    "metaimage": ".mha",
    "mgz": ".mgz",
    "dicom-seg": DICOM_SEG,
}
# Formats whose masks are of the same kind; all others get NIfTI.
_KEPT = {".nrrd": ".nrrd", ".nhdr": ".nrrd", ".mha": ".mha", ".mhd": ".mha", ".mgz": ".mgz"}
_KEPT[".mgh"] = ".mgz"
_ALL_ENDINGS = tuple(ENDINGS.values())
_SCANS = "scans.json"
_SAMPLE = 2**16  # bytes


def _read_json(file: pathlib.Path) -> Any:
    """What a file of a mask folder holds; None where there is none."""
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{file}: this is no valid JSON ({error}). Name another folder for the masks."
        ) from error


def ending(source: Source, form: str | None = None) -> str:
    """What the file of a scan's mask ends in.

    Args:
      source: of the scan, or of its first channel.
      form: a key of `ENDINGS`; None for the format of the scan.
    """
    if form is not None:
        return ENDINGS[form]
    kind = "" if isinstance(source, Series) else suffix(source)
    return _KEPT.get(kind, ENDINGS["nifti"])


def scan_digest(sources: Sequence[Source]) -> str:
    """What tells a scan from others of its name: of its files' sizes, and of samples of them.

    "" where one may not be read, which is said when its turn comes.
    """
    found = hashlib.sha256()
    try:
        for source in sources:
            files = files_of(source)
            sizes = [file.stat().st_size for file in files]
            found.update(repr(sizes).encode())
            middle = len(files) // 2
            with files[middle].open("rb") as opened:
                for place in (0, 1, 2):
                    opened.seek(place * max(sizes[middle] - _SAMPLE, 0) // 2)
                    found.update(opened.read(_SAMPLE))
    except OSError:
        return ""
    return found.hexdigest()[:16]


class MaskFolder:
    """Where masks and what lies beside them are written to."""

    def __init__(
        self,
        path: pathlib.Path,
        endings: Mapping[str, str],
        digests: Mapping[str, str],
        beside: Sequence[str] = (),
    ) -> None:
        """Takes the folder, the masks that are to be in it, and what is written beside each.

        Args:
          path: of the folder; it need not exist.
          endings: of the files of the masks, by the names of their scans; see `ending`.
          digests: of the scans, by their names; see `scan_digest`.
          beside: folders of further files of each scan, with the name of the scan:
            probabilities, uncertainty, preview, ranking.
        """
        self.path, self._endings, self._beside = path, dict(endings), tuple(beside)
        self._digests = dict(digests)

    def mask(self, name: str) -> pathlib.Path:
        """The file of a scan's mask."""
        return self.path / f"{name}{self._endings[name]}"

    def is_dicom(self, name: str) -> bool:
        """Whether a scan's mask is a DICOM segmentation."""
        return self._endings[name] == DICOM_SEG

    def beside(self, kind: str, name: str) -> pathlib.Path:
        """A further file of a scan."""
        ending = {"preview": ".png", "ranking": ".npz", "measurements": ".csv"}
        return self.path / kind / f"{name}{ending.get(kind, '.nii.gz')}"

    def is_done(self, name: str) -> bool:
        """Whether a scan has its mask and all that is due beside it."""
        files = [self.mask(name), *(self.beside(kind, name) for kind in self._beside)]
        return all(file.exists() for file in files)

    def mark_done(self, name: str) -> None:
        """Keeps of which scan the mask of this name is."""
        write_json(self.path / _SCANS, self._scans() | {name: self._digests[name]})

    def measurements(self) -> list[pathlib.Path]:
        """The tables of all scans whose masks are there, of those too that are not given now."""
        named = sorted({*self._scans(), *self._endings})
        masked = [n for n in named if any((self.path / f"{n}{e}").exists() for e in _ALL_ENDINGS)]
        tables = [self.beside("measurements", name) for name in masked]
        return [table for table in tables if table.exists()]

    def _scans(self) -> dict[str, str]:
        """The digests of the scans whose masks are there."""
        return _read_json(self.path / _SCANS) or {}

    def _forget(self, name: str) -> None:
        """Removes all that was written for a scan."""
        kinds = (*BESIDE, "ranking", "measurements")
        for file in (self.mask(name), *(self.beside(kind, name) for kind in kinds)):
            file.unlink(missing_ok=True)

    def claim(self, network: Mapping[str, Any], *, overwrite: bool) -> None:
        """Makes the folder that of a network, and says so in it.

        What another network or another scan has left under the names of the scans is removed: a
        run that is stopped would leave it, and the next one take it for its own.

        Args:
          network: what the masks are made by, and the names of their values (`labels`).
          overwrite: the masks that are to be in it are made anew, so they may be another's.

        Raises:
          ValueError: it holds masks of another network that would stay, or the mask of another
            scan of the same name.
        """
        file = self.path / MASKS_MARK
        of_another = _read_json(file) != network
        there = sorted(p for ending in _ALL_ENDINGS for p in self.path.glob(f"[!.]*{ending}"))
        if there and of_another:
            if not overwrite:
                raise ValueError(
                    f"{there[0]}: this mask was made by another network or with other options. "
                    f"Name another folder, or give --overwrite."
                )
            made_anew = {self.mask(name) for name in self._endings}
            if kept := [path for path in there if path not in made_anew]:
                raise ValueError(
                    f"{kept[0]}: this mask was made by another network and is not made anew, as "
                    f"its scan is not given. Remove it, or name another folder."
                )
        known = self._scans()
        replaced = [n for n, now in self._digests.items() if now and known.get(n, now) != now]
        for name in replaced:
            if self.mask(name).exists() and not overwrite:
                raise ValueError(
                    f"{self.mask(name)}: this is the mask of another scan of the same name. Name "
                    f"another folder, or give --overwrite."
                )
        for name in self._endings if of_another else replaced:
            self._forget(name)
        write_json(self.path / "labels.json", network["labels"])
        write_json(file, network)
