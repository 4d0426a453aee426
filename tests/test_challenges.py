"""The raw folders of ACDC and LA to the files that the field shares."""

import functools

import h5py
import nrrd
import numpy as np
import pytest

from cifp_jax import prepare
from cifp_jax.data import splits
from cifp_jax.scans import challenges
from tests.support.scans import nifti

save = functools.partial(nifti, affine=np.diag([1.4, 1.4, 10.0, 1.0]))


def stored(path):
    with h5py.File(path) as file:
        return np.asarray(file["image"]), np.asarray(file["label"])


def write_raw_acdc(raw, name, image, label):
    """Back to whole numbers in the axes (x, y, z) of the challenge's files."""
    levels = np.unique(image.astype(np.float64))
    whole = np.round(image.astype(np.float64) / np.diff(levels).min()).astype(np.int16)
    patient = name.split("_")[0]
    save(raw / f"{patient}/{name}.nii.gz", whole.T)
    save(raw / f"{patient}/{name}_gt.nii.gz", label.T)


def test_acdc_by_hand(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    image = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    for i in range(1, 11):
        for frame in (1, 12):
            save(raw / f"training/patient{i:03}/patient{i:03}_frame{frame:02}.nii.gz", image + i)
            gt = raw / f"training/patient{i:03}/patient{i:03}_frame{frame:02}_gt.nii.gz"
            save(gt, (image % 4).astype(np.uint8))
        save(raw / f"training/patient{i:03}/patient{i:03}_4d.nii.gz", np.stack([image] * 2, -1))
    assert prepare.main([str(raw), str(out)]) == 0
    volume, label = stored(out / "data/patient003_frame02.h5")
    assert volume.shape == (4, 3, 2)
    np.testing.assert_array_equal(volume, (image.T / 23).astype(np.float32))
    np.testing.assert_array_equal(label, image.T % 4)
    split = splits.load_split("acdc", out, labeled=3, test_list="test.list")
    assert (len(split.labeled), len(split.unlabeled)) == (3 * 2 * 4, 4 * 2 * 4)
    assert (len(split.validation), len(split.test)) == (2, 4)
    image, label = stored(out / f"data/slices/{split.labeled[0].name.rsplit('_', 1)[0]}_2.h5")
    np.testing.assert_array_equal(image, volume[1])


def test_acdc_as_the_field_has_it(data_dir, tmp_path):
    root = data_dir / "ACDC"
    name = (root / "train_slices.list").read_text().split()[0].split("_slice")[0]
    slices = sorted(root.glob(f"data/slices/{name}_slice_*.h5"))
    slices = [root / f"data/slices/{name}_slice_{z}.h5" for z in range(1, len(slices) + 1)]
    parts = [stored(path) for path in slices]
    write_raw_acdc(tmp_path / "raw", name, *(np.stack(p) for p in zip(*parts, strict=True)))
    volume = (root / "val.list").read_text().split()[0]
    write_raw_acdc(tmp_path / "raw", volume, *stored(root / f"data/{volume}.h5"))
    out = tmp_path / "out"
    assert prepare.main([str(tmp_path / "raw"), str(out), f"--lists={root}"]) == 0
    for path, (image, label) in zip(slices, parts, strict=True):
        # The only frame of its patient here, so its number is 1.
        own = stored(out / f"data/slices/{path.name}")
        np.testing.assert_array_equal(own[0], image)
        np.testing.assert_array_equal(own[1], label)
        assert (own[0].dtype, own[1].dtype) == (image.dtype, label.dtype)
    expected = stored(root / f"data/{volume}.h5")
    for ours, theirs in zip(stored(out / f"data/{volume}.h5"), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (out / "val.list").read_text() == (root / "val.list").read_text()


@pytest.fixture
def raw_la(tmp_path):
    rng = np.random.default_rng(0)
    for name in "abcde":
        image = np.zeros((200, 180, 6), np.uint8)
        image[20:190, 5:170] = rng.integers(1, 255, (170, 165, 6))
        label = np.zeros((200, 180, 6), np.uint8)
        label[60:90, 60:180, 2:4] = 255
        (tmp_path / "raw" / name).mkdir(parents=True)
        for file, array in (("lgemri", image), ("laendo", label)):
            header = {"space": "left-posterior-superior", "space origin": [0, 0, 0]}
            header["space directions"] = np.diag([0.625] * 3)
            nrrd.write(str(tmp_path / f"raw/{name}/{file}.nrrd"), array, header)
    return tmp_path / "raw"


def test_la_cut_around_the_truth(raw_la, tmp_path):
    assert prepare.main([str(raw_la), str(tmp_path / "out"), "--truth-crop"]) == 0
    image, label = stored(tmp_path / "out/b/mri_norm2.h5")
    whole, _ = nrrd.read(str(raw_la / "b/lgemri.nrrd"))
    scaled = ((whole - np.mean(whole)) / np.std(whole)).astype(np.float32)
    # In X the mask's 29 steps are widened by 41 on both sides, in Y its 119 not at all; then come
    # margins of 10 to 19, so the cut starts at 0 to 9 in X and at 41 to 50 in Y.
    corners = [(x, y) for x in range(10) for y in range(41, 51)]
    starts = [
        c
        for c in corners
        if np.array_equal(scaled[c[0] :, c[1] :][: image.shape[0], : image.shape[1]], image)
    ]
    assert len(starts) == 1
    (x, y) = starts[0]
    assert 89 + 41 + 10 <= x + image.shape[0] <= 89 + 41 + 19
    assert y + image.shape[1] == 180  # the mask reaches the end of the scan
    assert set(np.unique(label)) == {0, 1}
    assert label.sum() == 30 * 120 * 2
    again = challenges.write_la("b", raw_la / "b/lgemri.nrrd", tmp_path / "again", truth=True)
    np.testing.assert_array_equal(stored(tmp_path / f"again/{again[0]}/mri_norm2.h5")[0], image)


def test_la_masks_of_other_values_are_refused(raw_la, tmp_path):
    path = raw_la / "b/laendo.nrrd"
    array, header = nrrd.read(str(path))
    nrrd.write(str(path), (array > 0).astype(np.uint8), header)
    try:
        with pytest.raises(ValueError, match=r"laendo\.nrrd: LA's masks hold 0 and 255 alone"):
            challenges.write_la("b", raw_la / "b/lgemri.nrrd", tmp_path, truth=True)
    finally:
        nrrd.write(str(path), array, header)


def test_la_cut_without_the_truth(raw_la, tmp_path):
    out = tmp_path / "out"
    assert prepare.main([str(raw_la), str(out)]) == 0
    before = stored(out / "c/mri_norm2.h5")[0]
    assert before.shape == (170, 165, 6)
    other = np.zeros((200, 180, 6), np.uint8)
    other[100, 100, 3] = 255
    _, header = nrrd.read(str(raw_la / "c/laendo.nrrd"))
    nrrd.write(str(raw_la / "c/laendo.nrrd"), other, header)
    assert prepare.main([str(raw_la), str(out)]) == 0
    np.testing.assert_array_equal(stored(out / "c/mri_norm2.h5")[0], before)
    split = splits.load_split("la", out, labeled=2, test_list="test.list")
    assert (len(split.labeled), len(split.unlabeled), len(split.test)) == (2, 2, 1)


def test_the_rest_is_prepared(raw_la, tmp_path, capsys):
    (raw_la / "a/laendo.nrrd").unlink()
    (raw_la / "b/lgemri.nrrd").write_bytes(b"NRRD0004")
    assert prepare.main([str(raw_la), str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().out
    assert "2 case(s) were left out" in printed
    assert "a/laendo.nrrd: this file is missing" in printed
    assert "b/lgemri.nrrd: it cannot be read" in printed


def test_acdc_in_two_formats_and_without_masks(tmp_path, capsys):
    raw, out = tmp_path / "raw", tmp_path / "out"
    image = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    for ending in (".nii", ".nii.gz"):
        for frame in ("01", "12"):
            save(raw / f"patient001/patient001_frame{frame}{ending}", image)
    assert sorted(challenges.find_acdc(raw)) == ["patient001_frame01", "patient001_frame02"]
    out.mkdir()
    (out / "train_slices.list").write_text("before")
    assert prepare.main([str(raw), str(out)]) == 1
    printed = capsys.readouterr().out
    assert "none of the scans can be prepared" in printed
    assert "patient001_frame12_gt.nii" in printed
    assert (out / "train_slices.list").read_text() == "before"
