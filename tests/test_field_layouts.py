"""The field's further data sets, on made-up files: lists, patients, batches, and no raw scans."""

import h5py
import numpy as np
import pytest

from cifp_jax.config import default_config
from cifp_jax.data.layouts import find_layout
from cifp_jax.data.splits import patient
from cifp_jax.inference import prediction
from cifp_jax.inference.scans import read_scan
from cifp_jax.training import build, checks
from tests.support.scans import nifti

# Names of the lists, of the training and of the validation files.
SETS = {
    "pancreas": ("train.list", "", [f"image{i:04}" for i in range(1, 6)], []),
    "brats2019": (
        "train.txt",
        "val.txt",
        [f"BraTS19_CBICA_A{i}_1" for i in range(4)],
        ["BraTS19_2013_0_1"],
    ),
    "prostate": (
        "train_slices.list",
        "val.list",
        [f"Case{i:02}_slice_{z}" for i in range(3) for z in range(2)],
        ["Case09"],
    ),
    "mnms": (
        "train_slices.list",
        "val.list",
        [f"A0S{i}V9_E{e}_slice_{z}" for i in range(3) for e in "DS" for z in range(2)],
        ["B9E0Q1_ED", "B9E0Q1_ES"],
    ),
}


def record(path, shape, classes):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["image"] = np.random.default_rng(0).random(shape, np.float32)
        file["label"] = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8) % classes


@pytest.fixture(params=SETS)
def config(request, tmp_path):
    name, layout = request.param, find_layout(request.param)
    train_list, validation_list, train, validation = SETS[name]
    classes = len(layout.label_names)
    shape = (20, 24) if layout.rank == 2 else (20, 24, 18)
    for case in train:
        record(tmp_path / layout.train_file.format(case), shape, classes)
    for case in validation:
        record(tmp_path / layout.volume_file.format(case), (3, 20, 24), classes)
    (tmp_path / train_list).write_text("\n".join(train))
    if validation_list:
        (tmp_path / validation_list).write_text("\n".join(validation))
    config = default_config()
    config.method.name, config.parallel = "supervised", "none"
    config.model.update(name="unet" if layout.rank == 2 else "vnet", classes=classes)
    config.data.update(name=name, root=str(tmp_path), patch_size=(16,) * layout.rank)
    config.data.update(batch_labeled=2, batch_unlabeled=2, labeled=2)
    config.evaluation.stride = (8,) * layout.rank
    config.data.validation = 0 if validation_list else 1
    return config


def test_lists_and_batches(config):
    checks.check_config(config)
    split = build.make_split(config)
    *_, train, validation = SETS[config.data.name]
    labeled, unlabeled = ({patient(c.name) for c in p} for p in (split.labeled, split.unlabeled))
    every = list(dict.fromkeys(map(patient, train)))
    held_out = 0 if validation else 1
    assert labeled == set(every[:2])
    assert unlabeled == set(every[2 : len(every) - held_out])
    assert [c.name for c in split.validation] == (validation or train[-1:])
    batch = next(build.make_iterator(config, split))
    sides = tuple(config.data.patch_size)
    assert batch["labeled"]["image"].shape == (2, *sides, 1)
    assert batch["labeled"]["label"].max() == config.model.classes - 1
    assert "label" not in batch["unlabeled"]


def test_masks_name_the_structure(config):
    names = prediction.named_values(config)
    assert names[1] in ("pancreas", "tumour", "prostate", "left ventricle")
    assert len(names) == config.model.classes


def test_scans_that_nobody_knows_how_to_prepare_are_refused(config, tmp_path):
    scan = nifti(tmp_path / "scan.nii.gz", np.random.default_rng(0).random((20, 24, 18)))
    with pytest.raises(ValueError, match=rf"scan\.nii\.gz: .*{config.data.name}.*HDF5 files"):
        read_scan([scan], config)
    record(tmp_path / "ready.h5", (18, 20, 24), 2)
    assert read_scan([tmp_path / "ready.h5"], config).image.shape == (18, 20, 24)


def test_two_frames_are_of_one_patient():
    assert patient("A0S9V9_ED_slice_3") == patient("A0S9V9_ES") == "A0S9V9"
    assert patient("RED") == "RED"
    assert patient("patient001_frame01_slice_2") == "patient001"
