"""DICOM as it comes: stacks that are whole are placed exactly, all others are refused by name."""

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import ExplicitVRBigEndian

from cifp_jax.scans import dicom, readers
from tests.support.dicom_files import AFFINE, STACK, STEP, multi_frame, series, shared_file


def straight(slices=6, step=STEP, shift=0.0):
    return [(-10, -20 + shift * z, 30 + step * z) for z in range(slices)]


@pytest.mark.parametrize("ending", [".dcm", "", ".IMA"])
def test_a_series_is_placed_exactly(tmp_path, ending):
    volume = readers.read(series(tmp_path / "scan", ending=ending))
    np.testing.assert_array_equal(volume.array, STACK)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-9)


def test_itk_sees_the_same_places(tmp_path):
    """Oblique slices, against a reader of its own geometry."""
    turn = [0.8, 0.6, 0, 0, 0, -1]  # rows to the left and back, columns downwards

    def oblique(image, z):
        image.ImageOrientationPatient = turn
        image.ImagePositionPatient = (
            np.array([5, 6, 7]) + STEP * z * np.array([-0.6, 0.8, 0])
        ).tolist()

    folder = series(tmp_path / "scan", change=oblique)
    volume = readers.read(folder)
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    image = sitk.ReadImage(names)
    for index in ((0, 0, 0), (3, 1, 5), (1, 4, 2)):
        place = (volume.affine @ (*index, 1))[:3] * (-1, -1, 1)
        there = image.TransformPhysicalPointToIndex(place.tolist())
        np.testing.assert_allclose(image.TransformIndexToPhysicalPoint(there), place, atol=1e-6)
        assert image[there] == volume.array[index]


def test_a_multi_frame_file_is_a_stack(tmp_path):
    order = [3, 0, 5, 1, 4, 2]
    depths = [30 + STEP * z for z in order]
    volume = readers.read(multi_frame(tmp_path / "scan.dcm", STACK[:, :, order], depths=depths))
    np.testing.assert_array_equal(volume.array, STACK)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-9)


def test_slopes_of_single_slices_are_kept(tmp_path):
    def scaled(image, z):
        image.RescaleSlope = 1 if z == 0 else 0.5

    volume = readers.read(series(tmp_path / "scan", change=scaled))
    np.testing.assert_allclose(volume.array[..., 0], STACK[..., 0])
    np.testing.assert_allclose(volume.array[..., 1:], STACK[..., 1:] / 2)


def test_big_endian(tmp_path):
    volume = readers.read(shared_file("MR_small_bigendian.dcm"))
    plain = pydicom.dcmread(shared_file("MR_small_bigendian.dcm"))
    assert plain.file_meta.TransferSyntaxUID == ExplicitVRBigEndian
    np.testing.assert_array_equal(volume.array[..., 0], plain.pixel_array.T)


@pytest.mark.parametrize(
    ("places", "answer"),
    [
        (straight(shift=0.7), r"shifted by 0\.7 mm each .* 13\.1 degrees.*dcm2niix"),
        (
            [p for p in straight(8) if p[2] not in (36, 42)],
            r"3 to 6 mm apart.*missing.*\[-10\.0, -20\.0, 33\.0\]",
        ),
        ([*straight(5), (-10, -20, 30)], r"1 of its 6 slices lie where another"),
        ([*straight(5), (-10, -18, 45)], r"do not lie in one line|gantry"),
        ([(-10, -20, 30 + z * (STEP + 0.2 * z)) for z in range(6)], "unevenly spaced"),
    ],
)
def test_stacks_that_are_no_grid(tmp_path, places, answer):
    folder = series(tmp_path / "scan", positions=places)
    with pytest.raises(ValueError, match=rf"scan: .*({answer})"):
        readers.read(folder)


def test_frames_that_are_no_grid(tmp_path):
    path = multi_frame(tmp_path / "scan.dcm", depths=[30, 33, 36, 39, 45, 48])
    with pytest.raises(ValueError, match=r"scan\.dcm: .*3 to 6 mm apart"):
        readers.read(path)


def test_a_rounded_place_is_put_up_with(tmp_path):
    places = [(x, y, z + 0.01 * (-1) ** i) for i, (x, y, z) in enumerate(straight())]
    assert readers.read(series(tmp_path / "scan", positions=places)).array.shape == STACK.shape


@pytest.mark.parametrize(
    ("name", "value", "answer"),
    [
        ("FrameOfReferenceUID", "1.2.3.10", "different frames of reference"),
        ("ImageOrientationPatient", [1, 0, 0, 0, 0, 1], "different orientations"),
        ("PixelSpacing", [2, 0.6], "different pixel spacings"),
        ("ImagePositionPatient", None, "1 of its 6 slices do not say where"),
    ],
)
def test_slices_that_differ(tmp_path, name, value, answer):
    def change(image, z):
        if z == 2:
            if value is None:
                delattr(image, name)
            else:
                setattr(image, name, value)

    with pytest.raises(ValueError, match=rf"scan: .*{answer}.*Export"):
        readers.read(series(tmp_path / "scan", change=change))


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("SC_rgb_rle.dcm", r"a colour image \(RGB\)"),
        ("examples_palette.dcm", r"a colour image \(PALETTE COLOR\)"),
        ("liver_1frame.dcm", "a DICOM segmentation"),
        ("rtdose.dcm", "a dose"),
        ("test-SR.dcm", r"without an image \(modality SR\)"),
    ],
)
def test_what_is_no_scan(name, answer):
    header = dicom.read_header(shared_file(name))
    assert header is not None
    with pytest.raises(ValueError, match=rf"{name}: it is .*{answer}"):
        readers.read(shared_file(name))


@pytest.mark.parametrize("make", [series, lambda path: multi_frame(path.with_suffix(".dcm"))])
def test_inverted_greys_are_no_guess(tmp_path, make):
    """ITK and highdicom turn the values over: 69 HU would become -70."""
    path = make(tmp_path / "scan")
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        image = pydicom.dcmread(file)
        image.PhotometricInterpretation = "MONOCHROME1"
        image.save_as(file)
    with pytest.raises(ValueError, match=r"scan.*: its greys are inverted .*MONOCHROME2"):
        readers.read(path)


def test_a_single_file_is_named(tmp_path):
    path = sorted(series(tmp_path / "scan").iterdir())[0]
    image = pydicom.dcmread(path)
    del image.ImagePositionPatient
    image.save_as(path)
    with pytest.raises(ValueError, match=rf"{path.name}: 1 of its 1 slices do not say where"):
        readers.read(path)


def test_a_cut_off_slice(tmp_path):
    folder = series(tmp_path / "scan")
    path = sorted(folder.iterdir())[2]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"scan: it cannot be read.*Copy it again"):
        readers.read(folder)


@pytest.mark.parametrize("intercepts", [(0, -1024), (-1024, -1024.5)])
def test_intercepts_of_single_slices_are_kept(tmp_path, intercepts):
    def shifted(image, z):
        image.PixelRepresentation = 0  # the first slice fits a type that the others do not
        image.RescaleIntercept = intercepts[min(z, 1)]

    stored = STACK - STACK.min()
    volume = readers.read(series(tmp_path / "scan", stored, change=shifted))
    np.testing.assert_allclose(volume.array[..., 0], stored[..., 0] + intercepts[0])
    np.testing.assert_allclose(volume.array[..., 1:], stored[..., 1:] + intercepts[1])
