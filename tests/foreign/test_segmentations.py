"""DICOM segmentations: written for a series, read by others, and back as masks."""

import json
import shutil
import subprocess

import h5py
import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from cifp_jax import predict, prepare
from cifp_jax.scans import dicom, discovery, readers, segmentations, volumes
from tests.support.dicom_files import AFFINE, STACK, multi_frame, series
from tests.support.intensity_run import VALUES, intensity_run
from tests.support.scans import nifti

NAMES = {0: "background", 2: "left ventricle", 7: "odd thing"}
CLASSES = np.random.default_rng(0).integers(0, 3, STACK.shape)
CLASSES[:, :, 4] = 0  # a slice that no segment reaches
CLASSES[0, 0, 4] = 2


def scan_of(path):
    (source,) = discovery.discover(path).scans.values()
    assert isinstance(source, dicom.Series)
    return source


def read_back(path, names=NAMES):
    found = discovery.discover(path)
    (segmentation,) = found.segmentations.values()
    assert not found.scans
    return segmentations.read(segmentation, {name: value for value, name in names.items()})


@pytest.mark.parametrize("make", [series, lambda path: multi_frame(path.with_suffix(".dcm"))])
def test_what_is_written_is_read(tmp_path, make):
    source = scan_of(make(tmp_path / "scan"))
    segmentations.write(tmp_path / "mask.dcm", VALUES[CLASSES], source, NAMES)
    mask = read_back(tmp_path / "mask.dcm")
    placed = volumes.on_grid_of(readers.read(source), mask, partial=True)
    np.testing.assert_array_equal(placed.array, VALUES[CLASSES])
    np.testing.assert_allclose(placed.affine, AFFINE, atol=1e-9)


def test_a_mask_of_the_middle_is_put_in_its_place(tmp_path):
    """Frames without a segment are not stored, so that the file covers a part of the scan."""
    source = scan_of(series(tmp_path / "scan"))
    label = np.zeros(STACK.shape, np.uint8)
    label[1, 2, 3] = label[3, 4, 4] = 7
    segmentations.write(tmp_path / "mask.dcm", label, source, NAMES)
    mask = read_back(tmp_path / "mask.dcm")
    assert mask.array.shape == (4, 5, 2)
    placed = volumes.on_grid_of(readers.read(source), mask, partial=True)
    np.testing.assert_array_equal(placed.array, label)


def test_it_refers_to_the_patient_and_the_slices(tmp_path):
    source = scan_of(series(tmp_path / "scan"))
    segmentations.write(tmp_path / "mask.dcm", VALUES[CLASSES], source, NAMES)
    file = pydicom.dcmread(tmp_path / "mask.dcm")
    slices = [pydicom.dcmread(path) for path in source.files]
    for name in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert file[name].value == slices[0][name].value
    assert file.SeriesInstanceUID != slices[0].SeriesInstanceUID
    (reference,) = file.ReferencedSeriesSequence
    assert reference.SeriesInstanceUID == source.uid
    instances = {item.ReferencedSOPInstanceUID for item in reference.ReferencedInstanceSequence}
    assert instances == {one.SOPInstanceUID for one in slices}
    first, second = file.SegmentSequence
    assert (first.SegmentLabel, first.SegmentAlgorithmType) == ("left ventricle", "AUTOMATIC")
    code = first.SegmentedPropertyTypeCodeSequence[0]
    assert (code.CodingSchemeDesignator, code.CodeValue) == ("SCT", "87878005")
    assert second.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Tissue"


def test_of_a_scan_without_a_name(tmp_path):
    """What was removed with the patient's name is empty in the segmentation."""

    def nameless(image, z):
        for word in ("PatientName", "PatientID", "PatientSex", "StudyDate", "AccessionNumber"):
            delattr(image, word)

    source = scan_of(series(tmp_path / "scan", change=nameless))
    segmentations.write(tmp_path / "mask.dcm", VALUES[CLASSES], source, NAMES)
    assert pydicom.dcmread(tmp_path / "mask.dcm").PatientID in (None, "")
    assert np.count_nonzero(read_back(tmp_path / "mask.dcm").array) == np.count_nonzero(CLASSES)


@pytest.mark.parametrize(
    ("word", "value", "answer"),
    [
        ("FrameOfReferenceUID", "", "lacks FrameOfReferenceUID"),
        ("StudyInstanceUID", "", "lacks StudyInstanceUID"),
        ("SOPInstanceUID", "1.2.3.4.1", "several of its slices have one SOPInstanceUID"),
    ],
)
def test_of_a_scan_that_cannot_be_referred_to(tmp_path, word, value, answer):
    def change(image, z):
        setattr(image, word, value)

    source = scan_of(series(tmp_path / "scan", change=change))
    with pytest.raises(ValueError, match=rf"scan: .*{answer}.*leave --format=dicom-seg out"):
        segmentations.write(tmp_path / "mask.dcm", VALUES[CLASSES], source, NAMES)
    assert not (tmp_path / "mask.dcm").exists()


def test_others_see_it_on_the_scan(tmp_path):
    """ITK decodes the frames by itself; each must lie where ITK places the slice of its label."""
    classes = np.random.default_rng(1).integers(0, 3, (8, 4, 6))  # ITK reads whole bytes of bits
    source = scan_of(series(tmp_path / "scan", classes.astype(np.int16)))
    segmentations.write(tmp_path / "mask.dcm", VALUES[classes], source, NAMES)
    frames = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "mask.dcm")))
    file = highdicom.seg.segread(tmp_path / "mask.dcm")
    scan = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "scan")))
    seen = np.zeros(classes.shape, np.uint8)
    for frame, groups in zip(frames, file.PerFrameFunctionalGroupsSequence, strict=True):
        place = list(groups.PlanePositionSequence[0].ImagePositionPatient)
        z = scan.TransformPhysicalPointToIndex(place)[2]
        number = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        seen[:, :, z][frame.T > 0] = list(NAMES)[number]
    np.testing.assert_array_equal(seen, VALUES[classes])


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="needs dciodvfy of dicom3tools")
@pytest.mark.parametrize("make", [series, lambda path: multi_frame(path.with_suffix(".dcm"))])
def test_a_validator_finds_no_error(tmp_path, make):
    source = scan_of(make(tmp_path / "scan"))
    segmentations.write(tmp_path / "mask.dcm", VALUES[CLASSES], source, NAMES)
    result = subprocess.run(
        ["dciodvfy", str(tmp_path / "mask.dcm")], capture_output=True, text=True, timeout=60
    )
    said = (result.stdout + result.stderr).splitlines()
    assert any("Segmentation" in line for line in said)
    assert not [line for line in said if line.startswith("Error")]


def test_an_empty_mask(tmp_path):
    source = scan_of(series(tmp_path / "scan"))
    segmentations.write(tmp_path / "mask.dcm", np.zeros(STACK.shape, np.uint8), source, NAMES)
    assert not read_back(tmp_path / "mask.dcm").array.any()


def test_segments_go_by_name(tmp_path):
    """Two tools number the same structures in another order."""
    source = scan_of(series(tmp_path / "scan"))
    other = {0: "background", 1: "odd thing", 2: "left ventricle"}
    segmentations.write(tmp_path / "mask.dcm", np.array([0, 2, 1])[CLASSES], source, other)
    placed = volumes.on_grid_of(
        readers.read(source), read_back(tmp_path / "mask.dcm"), partial=True
    )
    np.testing.assert_array_equal(placed.array, VALUES[CLASSES])
    with pytest.raises(ValueError, match=r"mask\.dcm: its segments \['odd thing'\] are none of"):
        read_back(tmp_path / "mask.dcm", {2: "left ventricle"})


def test_segments_that_overlap_are_refused(tmp_path):
    source = scan_of(series(tmp_path / "scan"))
    path = tmp_path / "mask.dcm"
    segmentations.write(path, VALUES[CLASSES], source, NAMES)
    file = pydicom.dcmread(path)
    file.PixelData = b"\xff" * len(file.PixelData)
    file.save_as(path)
    with pytest.raises(ValueError, match=r"mask\.dcm: its segments overlap"):
        read_back(path)


def test_a_study_goes_all_the_way(tmp_path, monkeypatch, capsys):
    """Series in, masks out as DICOM, and these prepared: the labels are those that were written."""
    run = intensity_run(tmp_path / "run", monkeypatch)
    for i in range(2):
        array = (100 * np.roll(CLASSES, i, axis=0)).astype(np.int16)
        series(tmp_path / f"study/p{i}/ct", array, uid=f"1.2.3.{i + 4}")
    nifti(tmp_path / "study/p2.nii.gz", (100 * CLASSES).astype(np.int16))
    flags = [f"--weights={run}", "--format=dicom-seg", "--uncertainty"]
    assert predict.main([*flags, str(tmp_path / "study"), str(tmp_path / "masks")]) == 1
    assert "p2.nii.gz: a DICOM segmentation refers to a DICOM scan" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "masks").glob("*.dcm")) == ["p0_ct.dcm", "p1_ct.dcm"]
    assert (tmp_path / "masks/uncertainty/p0_ct.nii.gz").is_file()
    # Under whatever name: the series that a segmentation refers to is its scan.
    (tmp_path / "masks/p0_ct.dcm").rename(tmp_path / "masks/zero.dcm")
    out = tmp_path / "out"
    given = [str(tmp_path / "study"), str(out), f"--masks={tmp_path / 'masks'}", "--memory=1"]
    assert prepare.main(given) == 0
    assert (out / "labelled.list").read_text().split() == ["p0_ct", "p1_ct"]
    found = json.loads((out / "fingerprint.json").read_text())
    counts = np.bincount(CLASSES.ravel())
    assert [found["by_case"]["p1_ct"]["values"][str(k)] for k in range(3)] == counts.tolist()
    assert "'rim', 'core'" in (out / "config.py").read_text()
    with h5py.File(out / "volumes/p0_ct.h5") as file:
        label = np.asarray(file["label"])
    assert np.bincount(label.ravel()).tolist() == counts.tolist()


def test_names_and_values_do_not_mix(tmp_path, capsys):
    source = scan_of(series(tmp_path / "scans/a"))
    segmentations.write(tmp_path / "masks/a.dcm", VALUES[CLASSES], source, NAMES)
    series(tmp_path / "scans/b", uid="1.2.3.9")
    nifti(tmp_path / "masks/b.nii.gz", VALUES[CLASSES], AFFINE)
    flags = [f"--masks={tmp_path / 'masks'}", "--memory=1"]
    assert prepare.main([str(tmp_path / "scans"), str(tmp_path / "out"), *flags]) == 1
    assert "Save all masks in one of these ways" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_names_in_any_script_come_back(tmp_path):
    names = {0: "background", 2: "左心房", 7: "правый желудочек"}
    source = scan_of(series(tmp_path / "scan"))
    segmentations.write(tmp_path / "mask.dcm", VALUES[CLASSES], source, names)
    mask = read_back(tmp_path / "mask.dcm", names)
    assert set(np.unique(mask.array)) == {0, 2, 7}
    assert pydicom.dcmread(tmp_path / "mask.dcm").PatientName == "Made^Up"


@pytest.mark.parametrize(
    "word", ["PixelData", "DimensionIndexSequence", "PerFrameFunctionalGroupsSequence"]
)
def test_a_segmentation_that_lacks_a_part_is_named(tmp_path, word):
    source = scan_of(series(tmp_path / "scan"))
    segmentations.write(tmp_path / "mask.dcm", VALUES[CLASSES], source, NAMES)
    file = pydicom.dcmread(tmp_path / "mask.dcm")
    delattr(file, word)
    file.save_as(tmp_path / "mask.dcm")
    with pytest.raises(ValueError, match=r"mask\.dcm: .*Save it again"):
        read_back(tmp_path / "mask.dcm")


def test_segments_without_a_name_or_a_series_are_found(tmp_path):
    source = scan_of(series(tmp_path / "scan"))
    segmentations.write(tmp_path / "mask.dcm", VALUES[CLASSES], source, NAMES)
    file = pydicom.dcmread(tmp_path / "mask.dcm")
    for segment in file.SegmentSequence:
        del segment.SegmentLabel
    del file.ReferencedSeriesSequence[0].SeriesInstanceUID
    file.save_as(tmp_path / "mask.dcm")
    (found,) = discovery.discover(tmp_path / "mask.dcm").segmentations.values()
    assert found.names == ((1, "segment 1"), (2, "segment 2"))
