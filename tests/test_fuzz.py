"""Damaged and hostile files: every reader answers, soon, with its own error or with what it read.

`make fuzz` tries some hundred thousand; the tests of every day a few of each kind.
"""

import faulthandler
import gc
import json
import pathlib
import resource
from collections.abc import Callable
from typing import Any

import h5py
import jax
import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cifp_jax.config import default_config
from cifp_jax.data import sources, splits
from cifp_jax.inference.weights import Weights, load_weights, save_weights
from cifp_jax.scans import readers
from cifp_jax.training import run_folder
from cifp_jax.training.checkpoint import Checkpoints, DamagedError
from tests.support.dicom_files import series
from tests.support.states import make_state

MEMORY = 6 * 2**30  # bytes of address space that a reader may add
HANGS = 60  # seconds after which everything ends with a trace
# Numbers at which readers trip, in the bytes of headers.
NUMBERS = [0, 1, 2, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1]
WORDS = [b"\0", b"\n", b"..", b"/", b"{}", b"[", b"NaN", b"-1", b"1e999", b"\xff\xfe", b"%s"]

ARRAY: Any = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)


@st.composite
def edits(draw: st.DrawFn) -> list[tuple[str, float, Any]]:
    """A few changes of a file: what, where (a share of its length, often of its start), by what."""
    place = st.floats(0, 1) | st.floats(0, 1).map(lambda share: share**4)
    kinds = {
        "flip": st.integers(1, 255),
        "number": st.tuples(st.sampled_from(NUMBERS), st.sampled_from([2, 4, 8]), st.booleans()),
        "word": st.sampled_from(WORDS),
        "cut": st.none(),
        "drop": st.integers(1, 64),
        "repeat": st.integers(1, 64),
    }
    chosen = draw(st.lists(st.sampled_from(sorted(kinds)), min_size=1, max_size=6))
    return [(kind, draw(place), draw(kinds[kind])) for kind in chosen]


def damaged(whole: bytes, changes: list[tuple[str, float, Any]]) -> bytes:
    """The file after these changes."""
    data = bytearray(whole)
    for kind, share, what in changes:
        at = min(int(share * len(data)), max(len(data) - 1, 0))
        if kind == "flip" and data:
            data[at] ^= what
        elif kind == "number":
            value, size, big = what
            value &= 2 ** (8 * size) - 1
            data[at : at + size] = value.to_bytes(size, "big" if big else "little")
        elif kind == "word":
            data[at : at + len(what)] = what
        elif kind == "cut":
            del data[at:]
        elif kind == "drop":
            del data[at : at + what]
        elif kind == "repeat":
            data[at:at] = data[at : at + what]
    return bytes(data)


def _hdf5(path: pathlib.Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("image", data=ARRAY.astype(np.float32), compression="gzip")
        file.create_dataset("label", data=(ARRAY % 2).astype(np.uint8))
        file.attrs["affine"] = np.eye(4)


def _nifti(path: pathlib.Path) -> None:
    nibabel.save(nibabel.Nifti1Image(ARRAY, np.eye(4)), path)


def _mgh(path: pathlib.Path) -> None:
    nibabel.save(nibabel.MGHImage(ARRAY.astype(np.int32), np.eye(4)), path)


def _nrrd(path: pathlib.Path) -> None:
    header = {"space": "left-posterior-superior", "space directions": np.eye(3)}
    nrrd.write(str(path), ARRAY, header | {"encoding": "raw"})


def _metaimage(path: pathlib.Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(ARRAY), str(path))


def _dicom(path: pathlib.Path) -> None:
    made = series(path.parent / "series", ARRAY[:, :, :1])
    next(made.iterdir()).rename(path)


def _list(path: pathlib.Path) -> None:
    path.write_text("case_1\ncase_2\n")


def _config(path: pathlib.Path) -> None:
    path.write_text(default_config().to_json())


def _weights(path: pathlib.Path) -> None:
    facts = {
        "network": {"name": "unet", "classes": 2, "filters": [1, 1, 1, 1, 1]},
        "data": {"name": "acdc", "patch_size": [16, 16], "downsample": 1, "channels": 1},
        "preparation": {},
        "evaluation": {"largest_component": ""},
        "method": "cifp",
        "step": 1,
        "training_list": {"labelled": ["a"], "unlabelled": []},
    }
    save_weights(path, Weights({"params": {"a": np.ones(3)}, "batch_stats": {}}, facts))


def _record(path: pathlib.Path) -> object:
    return sources.read_case(sources.Case("case", path), classes=2, rank=3)


def _listed(path: pathlib.Path) -> object:
    cases = splits.read_list(path.parent, path.name, "{}.h5")
    assert all(case.path.resolve().is_relative_to(path.parent.resolve()) for case in cases)
    return cases


# Of each kind a name, and functions that write such a file and read it.
KINDS: dict[str, tuple[str, Callable[[pathlib.Path], None], Callable[[pathlib.Path], object]]] = {
    "record": ("case.h5", _hdf5, _record),
    "hdf5": ("scan.h5", _hdf5, readers.read),
    "nifti": ("scan.nii", _nifti, readers.read),
    "nifti_gz": ("scan.nii.gz", _nifti, readers.read),
    "mgh": ("scan.mgh", _mgh, readers.read),
    "nrrd": ("scan.nrrd", _nrrd, readers.read),
    "metaimage": ("scan.mha", _metaimage, readers.read),
    "dicom": ("slice.dcm", _dicom, readers.read),
    "list": ("train.list", _list, _listed),
    "weights": ("weights.safetensors", _weights, load_weights),
    "config": ("config.json", _config, lambda path: run_folder.load_config(path.parent)),
}


@pytest.fixture(autouse=True)
def _bounds():
    """Bounds of memory and time for what is read."""
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
    gc.collect()  # Orbax leaves coroutines behind where a reading fails


def attempts(request: pytest.FixtureRequest, share: float = 1.0) -> Any:
    """How many files are tried, `--fuzz` of them, a `share` of it where each takes long."""
    files: Any = request.config.getoption("--fuzz")
    return settings(
        max_examples=max(int(files * share), 1),
        deadline=10_000,
        database=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_read_or_refused(kind, tmp_path, request):
    name, write, read = KINDS[kind]
    path = tmp_path / name
    write(path)
    for case in ("case_1", "case_2"):
        (tmp_path / f"{case}.h5").touch()
    read(path)
    whole = path.read_bytes()

    @attempts(request)
    @given(edits())
    def attempt(changes):
        path.write_bytes(damaged(whole, changes))
        # A slice is named by its series.
        answer = named = str(path if kind != "dicom" else path.parent)
        faulthandler.dump_traceback_later(HANGS, exit=True)
        try:
            read(path)
        except (ValueError, FileNotFoundError) as error:
            answer = str(error)
        finally:
            faulthandler.cancel_dump_traceback_later()
        assert named in answer

    attempt()


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_checkpoint_is_passed_over_or_named(tmp_path, request):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(make_state(1), {"next": 1})
    files = sorted(p for p in (tmp_path / "checkpoints" / "1").rglob("*") if p.is_file())

    @attempts(request, 0.03)
    @given(st.sampled_from(files), edits())
    def attempt(file, changes):
        whole = file.read_bytes()
        file.write_bytes(damaged(whole, changes))
        answer = remedy = "Remove that folder"
        try:
            with Checkpoints(tmp_path / "checkpoints") as checkpoints:
                state, progress, _ = checkpoints.resume(make_state(0))
            jax.tree.map(np.testing.assert_array_equal, state.params, make_state(1).params)
            assert progress["next"] == 1
        except DamagedError as error:
            answer = str(error)
        finally:
            file.write_bytes(whole)
        assert remedy in answer

    attempt()


def test_names_of_a_list_stay_in_its_folder(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "outside.h5").touch()
    for name in ("../outside", str(tmp_path / "outside"), "a/../../outside"):
        (folder / "train.list").write_text(f"{name}\n")
        with pytest.raises(ValueError, match=r"train.list, line 1: .* outside of"):
            splits.read_list(folder, "train.list", "{}.h5")


def test_a_header_that_names_more_than_the_file_can_hold_is_refused(tmp_path):
    side = 4000  # 64 GB of int8, of which nothing is written
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file.create_dataset("image", (side, side, side), np.int8, chunks=(64, 64, 64))
    for read in (readers.read, _record):
        with pytest.raises(ValueError, match=r"names 64\.0 GB"):
            read(tmp_path / "scan.h5")


def test_configurations_are_data_and_never_code(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"method": "__import__('os').abort()"}))
    with pytest.raises(ValueError, match=r"config\.json"):
        run_folder.load_config(tmp_path)
