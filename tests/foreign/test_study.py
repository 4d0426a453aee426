"""The whole way on DICOM studies: series and segmentations in, segmentations out."""

import os
import pathlib
import subprocess
import sys

import highdicom
import numpy as np
import pydicom
import pytest

from cifp_jax.scans import dicom, readers, segmentations, volumes
from tests.support.dicom_files import series

ROOT = pathlib.Path(__file__).parents[2]
NAMES = {0: "background", 1: "left ventricle"}
SHAPE = (48, 48, 6)


def patient(seed):
    """A scan of noise with a bright ellipsoid somewhere, and where that is."""
    rng = np.random.default_rng(seed)
    place = [rng.integers(16, 32), rng.integers(16, 32), 2.5]
    axes = np.ogrid[tuple(map(slice, SHAPE))]
    apart = [((a - p) / r) ** 2 for a, p, r in zip(axes, place, (10, 8, 4), strict=True)]
    inside = np.asarray(apart[0] + apart[1] + apart[2] < 1)
    return (rng.normal(100, 10, SHAPE) + 80 * inside).astype(np.int16), inside.astype(np.uint8)


def square_pixels(image, _):
    image.PixelSpacing = [1, 1]
    image.Modality = "MR"


def written(folder, seed):
    """A series, found again; and its mask."""
    image, mask = patient(seed)
    series(folder, image, uid=f"1.2.3.{seed + 10}", change=square_pixels)
    headers = {f: h for f in folder.iterdir() if (h := dicom.read_header(f)) is not None}
    (found,), _ = dicom.group(headers)
    return found, mask


@pytest.mark.slow
def test_a_study_from_scanner_to_segmentation(tmp_path):
    def call(module, *arguments):
        env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-m", f"cifp_jax.{module}", *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    for seed in range(6):
        found, mask = written(tmp_path / f"study/p{seed}/cine", seed)
        if seed < 4:  # the other two are unlabelled
            segmentations.write(tmp_path / f"drawn/p{seed}.dcm", mask, found, NAMES)
    call("prepare", "study", "data", "--masks=drawn", "--memory=1", "--dimension=2")
    small = ("model.filters=(4,4,8,8,8)", "data.patch_size=(32,32)", "parallel=none")
    steps = ("training.steps=120", "training.log_every=40", "training.supervised_steps=0")
    pace = ("method.name=supervised", "optimizer.learning_rate=0.01", "ema.decay=0.9")
    flags = [f"--config.{setting}" for setting in (*small, *steps, *pace)]
    call("main", "--config=data/config.py", "--workdir=run", *flags)

    new, truth = written(tmp_path / "new/p9/cine", 9)
    call("predict", "--weights=run", "new", "masks", "--format=dicom-seg", "--preview")
    assert (tmp_path / "masks/preview/p9_cine.png").is_file()
    path = tmp_path / "masks/p9_cine.dcm"
    file = highdicom.seg.segread(path)
    (segment,) = file.SegmentSequence
    assert segment.SegmentLabel == "left ventricle"
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "87878005"  # SNOMED CT's
    first = pydicom.dcmread(new.files[0], stop_before_pixels=True)
    assert (file.PatientID, file.StudyInstanceUID) == (first.PatientID, first.StudyInstanceUID)
    referred = file.ReferencedSeriesSequence[0]
    assert referred.SeriesInstanceUID == new.uid
    said = segmentations.described(path, pydicom.dcmread(path, stop_before_pixels=True))
    mask = segmentations.read(said, {"left ventricle": 1})
    placed = volumes.on_grid_of(readers.read(new), mask, partial=True).array
    dice = 2 * (placed * truth).sum() / (placed.sum() + truth.sum())
    assert dice > 0.8
