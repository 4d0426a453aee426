"""What `prepare` makes of odd scans, and that it makes all of a data set or nothing."""

import json

import h5py
import nibabel
import numpy as np
import pytest

from cifp_jax import files, prepare
from cifp_jax.config import default_config
from cifp_jax.data import sources
from cifp_jax.scans import volumes
from cifp_jax.scans.volumes import Volume
from cifp_jax.training import build, scoring
from tests.support.scans import ANISOTROPIC, config_of, mask, nifti, scan


def save(path, array, affine=ANISOTROPIC):
    return nifti(path, array, affine)


def plain(root, count=3):
    """A folder of labelled scans and their masks."""
    for i in range(count):
        save(root / f"p{i}.nii.gz", scan(i))
        save(root / f"p{i}_seg.nii.gz", mask(i))
    return root


def run(root, out, *flags):
    return prepare.main([str(root), str(out), f"--masks={root}", "--memory=1", *flags])


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def damaged(value):
    array = scan(9).astype(np.float64)
    array[3, 2, 1] = value
    return array


@pytest.mark.parametrize(
    ("array", "answer"),
    [
        (damaged(np.nan), "NaN or infinite"),
        (damaged(np.inf), "NaN or infinite"),
        (damaged(1e300), "which no scanner gives"),
        (damaged(-1e30), "which no scanner gives"),
        (np.zeros((20, 18, 4)), "all its voxels have the value 0"),
        (np.zeros((20, 18, 4), [(c, "u1") for c in "RGB"]), "not numbers"),
        (np.ones((20, 18, 4), np.complex64), "not numbers"),
    ],
)
def test_a_rejected_scan_leaves_the_plan_of_the_others(tmp_path, array, answer, capsys):
    root = plain(tmp_path / "in")
    assert run(root, tmp_path / "alone") == 0
    save(root / "a.nii.gz", array)
    save(root / "a_seg.nii.gz", mask(7, values=9))
    assert run(root, tmp_path / "out") == 1
    assert "in/a.nii.gz: " in (printed := capsys.readouterr().out)
    assert answer in printed
    alone, out = content(tmp_path / "alone"), content(tmp_path / "out")
    alone = {path.relative_to(tmp_path / "alone"): data for path, data in alone.items()}
    out = {path.relative_to(tmp_path / "out"): data for path, data in out.items()}
    told = (tmp_path / "out/files.csv").read_text()
    assert "a.nii.gz,refused,a,image," in told
    assert "a_seg.nii.gz,refused,a,mask," in told
    for folder in (alone, out):
        folder.pop(next(path for path in folder if path.name == "files.csv"))
    assert out == alone


def test_an_interrupted_command_leaves_no_mixture(tmp_path, monkeypatch):
    """Prepared in 2D, then stopped in 3D after the first record: the 2D data set is whole."""
    root, out = plain(tmp_path / "in"), tmp_path / "out"
    assert run(root, out, "--dimension=2") == 0
    before, write = content(out), files.write_record

    def interrupted(path, *arguments, **more):
        if path.name == "p1.h5":
            raise KeyboardInterrupt
        write(path, *arguments, **more)

    monkeypatch.setattr(files, "write_record", interrupted)
    assert run(root, out, "--dimension=3") == 130
    assert content(out) == before
    assert run(root, tmp_path / "new") == 130
    assert not (tmp_path / "new").exists()
    monkeypatch.undo()
    assert run(root, out, "--dimension=3") == 0
    assert config_of(out).data.name == "volumes"
    assert not (out / ".partial").exists()


def test_arrays_of_another_plan_are_refused(tmp_path):
    root = plain(tmp_path / "in")
    for dimension in (2, 3):
        assert run(root, tmp_path / f"{dimension}d", f"--dimension={dimension}") == 0
    config = config_of(tmp_path / "3d")
    assert len(build.make_split(config).labeled) == 3
    (tmp_path / "2d/volumes/p1.h5").replace(tmp_path / "3d/volumes/p1.h5")
    with pytest.raises(ValueError, match=r"p1\.h5: it was prepared by another plan.*Prepare"):
        build.make_split(config)
    case = sources.Case("p1", tmp_path / "3d/volumes/p1.h5")
    assert "image" in sources.read_case(case, classes=3, rank=3)  # where nothing is asked


def test_the_same_scans_give_the_same_data_set(tmp_path):
    root = plain(tmp_path / "in")
    assert run(root, tmp_path / "a") == 0
    assert run(root, tmp_path / "b", "--jobs=3") == 0
    one, two = (config_of(tmp_path / name).data.identity for name in "ab")
    assert one == two != ""
    for name in ("labelled.list", "fingerprint.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_another_command_at_work_in_the_folder(tmp_path, capsys):
    root, out = plain(tmp_path / "in"), tmp_path / "out"
    (out / ".partial").mkdir(parents=True)
    assert run(root, out) == 1
    assert "another command is writing to" in capsys.readouterr().out
    assert [path.name for path in out.iterdir()] == [".partial"]


def test_doubtful_masks_are_named(tmp_path, capsys):
    root = plain(tmp_path / "in")
    save(root / "p1_seg.nii.gz", np.zeros((20, 18, 4), np.uint8))
    one = mask(2, values=2)
    one[5, 5, 2] = 2
    save(root / "p2_seg.nii.gz", one)
    assert run(root, tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "look at p1: its mask is empty" in printed
    assert "look at p2: label 2 fills one voxel" in printed
    assert "p0:" not in printed
    assert "label 2 fills one voxel" in (tmp_path / "out/files.csv").read_text()


def test_masks_with_other_axes_are_turned(tmp_path):
    """What dcm2niix and ITK write of one place differs in the order of the axes."""
    label = mask(0)
    affine = ANISOTROPIC @ np.array([[0, -1, 0, 19], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    # Voxel (i, j) of the scan is (j, 19 - i) of the mask; both lie in one place.
    image = Volume(scan(0), ANISOTROPIC, tmp_path / "scan.nii")
    turned = np.empty((18, 20, 4), np.uint8)
    inverse = np.linalg.inv(affine) @ ANISOTROPIC
    for index in np.ndindex(label.shape):
        own = np.rint(inverse @ (*index, 1)).astype(int)[:3]
        turned[tuple(own)] = label[index]
    other = Volume(turned, affine, tmp_path / "mask.nii")
    np.testing.assert_array_equal(volumes.on_grid_of(image, other).array, label)
    save(tmp_path / "in/p.nii.gz", scan(0))
    save(tmp_path / "in/p_seg.nii.gz", turned, affine)
    assert run(tmp_path / "in", tmp_path / "out") == 0
    save(tmp_path / "in/p_seg.nii.gz", label)
    assert run(tmp_path / "in", tmp_path / "straight") == 0
    records = []
    for name in ("out", "straight"):
        with h5py.File(tmp_path / name / "volumes/p.h5") as file:
            records.append(np.asarray(file["label"]))
    np.testing.assert_array_equal(*records)


def test_a_mask_without_an_orientation_is_refused(tmp_path, capsys):
    root = plain(tmp_path / "in", count=2)
    image = nibabel.Nifti1Image(mask(1), ANISOTROPIC)
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    nibabel.save(image, root / "p1_seg.nii.gz")
    assert run(root, tmp_path / "out") == 1
    assert "p1_seg.nii.gz: it does not say how its axes lie" in capsys.readouterr().out
    assert json.loads((tmp_path / "out/fingerprint.json").read_text())["cases"] == 1


def test_scans_in_the_place_of_masks_are_refused(tmp_path, capsys):
    root = plain(tmp_path / "in")
    save(root / "p1_seg.nii.gz", scan(1))
    save(root / "p2_seg.nii.gz", scan(9))
    assert run(root, tmp_path / "out") == 1
    printed = capsys.readouterr().out
    assert "p1_seg.nii.gz: this mask is the scan itself" in printed
    assert "p2_seg.nii.gz: a mask holds at most 256 values" in printed
    assert json.loads((tmp_path / "out/fingerprint.json").read_text())["labeled"] == 1


def test_more_values_than_a_record_can_hold(tmp_path, capsys):
    """Each mask numbers objects of its own: as 8 bits, label 256 would be the background."""
    root = plain(tmp_path / "in")
    for i in range(3):
        label = np.arange(20 * 18 * 4).reshape(20, 18, 4) % 100 + 100 * i
        save(root / f"p{i}_seg.nii.gz", label.astype(np.uint16))
    assert run(root, tmp_path / "out") == 1
    assert "hold 300 values together; 256 are the most" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_the_data_set_does_not_go_among_the_scans(tmp_path, capsys):
    root = plain(tmp_path / "in")
    before = content(root)
    assert run(root, root) == 1
    assert f"{root}: the data would lie among the scans" in capsys.readouterr().out
    assert content(root) == before


def test_paths_are_printed_as_they_are(tmp_path, capsys):
    """Brackets are no markup, and a command can be copied."""
    root, out = plain(tmp_path / "in [red]"), tmp_path / "my [bold] data"
    assert run(root, out) == 0
    printed = capsys.readouterr().out
    assert f"'--config={out}/config.py' '--workdir=runs/my [bold] data'" in printed


def test_a_folder_that_may_not_be_written(tmp_path, capsys):
    root = plain(tmp_path / "in")
    (tmp_path / "file").touch()
    assert run(root, tmp_path / "file/out") == 1
    printed = capsys.readouterr().out
    assert "file/out: a file stands where a folder is needed" in printed


def test_figures_name_the_values_of_masks(tmp_path):
    root = plain(tmp_path / "in", count=1)
    save(root / "p0_seg.nii.gz", 100 * mask(0))
    assert run(root, tmp_path / "out") == 0
    names = {"0": "background (0)", "1": "label 100 (100)", "2": "label 200 (200)"}
    assert scoring.class_names(config_of(tmp_path / "out")) == {"names": names}
    assert scoring.class_names(default_acdc()) == {}


def default_acdc():
    config = default_config()
    config.data.name = "acdc"
    return config
