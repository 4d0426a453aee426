"""DICOM files as scanners write them, and as they should not be."""

import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

STEP = 3.0  # mm between slices
# (x, y, z): 4 x 5 pixels of 0.5 x 2 mm, six slices.
STACK = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6) - 50
AFFINE = np.diag([-0.5, -2.0, STEP, 1.0])  # RAS: the patient's left and back have the low indices
AFFINE[:3, 3] = (10, 20, 30)


def _image(path: pathlib.Path, instance: str, series: str, storage: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(storage)
    meta.MediaStorageSOPInstanceUID = UID(instance)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    image.SOPClassUID, image.SOPInstanceUID = storage, instance
    image.StudyInstanceUID, image.SeriesInstanceUID = "1.2.3", series
    image.FrameOfReferenceUID, image.Modality = "1.2.3.9", "CT"
    image.PatientName, image.PatientID = "Made^Up", "P1"
    image.PatientBirthDate, image.PatientSex = "", "O"
    image.StudyID, image.StudyDate, image.StudyTime = "S1", "20200102", "030405"
    image.AccessionNumber, image.ReferringPhysicianName = "", ""
    image.SeriesNumber, image.InstanceNumber = 4, 1
    image.Manufacturer, image.ImageType = "", ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
    image.PixelRepresentation = 1
    return image


def series(
    folder: pathlib.Path,
    array: np.ndarray = STACK,
    *,
    positions: Sequence[Sequence[float]] | None = None,
    uid: str = "1.2.3.4",
    change: Callable[[Dataset, int], object] = lambda image, z: None,
    ending: str = ".dcm",
) -> pathlib.Path:
    """Writes the slices of (x, y, z); `change` sees each before it is written.

    `positions` are LPS mm, those of `AFFINE` if they are not given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for z in range(array.shape[2]):
        # Named against their order, which is that of their places.
        path = folder / f"{uid.replace('.', '')}_{99 - z}{ending}"
        image = _image(path, f"{uid}.{z + 1}", uid, CTImageStorage)
        image.InstanceNumber = z + 1
        image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        place = (-10, -20, 30 + STEP * z) if positions is None else positions[z]
        image.ImagePositionPatient = list(place)
        image.PixelSpacing, image.SliceThickness = [2, 0.5], STEP
        image.RescaleSlope, image.RescaleIntercept = 1, 0
        image.Rows, image.Columns = array.shape[1], array.shape[0]
        image.PixelData = array[:, :, z].T.astype("<i2").tobytes()
        change(image, z)
        image.save_as(path, enforce_file_format=True)
    return folder


def multi_frame(
    path: pathlib.Path,
    array: np.ndarray = STACK,
    *,
    depths: Sequence[float] | None = None,
    uid: str = "1.2.3.5",
) -> pathlib.Path:
    """Writes an enhanced CT whose frames lie at these `depths`, mm along z."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = _image(path, f"{uid}.1", uid, EnhancedCTImageStorage)
    image.NumberOfFrames = array.shape[2]
    image.Rows, image.Columns = array.shape[1], array.shape[0]
    shared, measures, orientation, values = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [2, 0.5], STEP
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1, 0, "HU"
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [orientation]
    shared.PixelValueTransformationSequence = [values]
    image.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for z in range(array.shape[2]):
        frame, position = Dataset(), Dataset()
        depth = 30 + STEP * z if depths is None else depths[z]
        position.ImagePositionPatient = [-10, -20, depth]
        frame.PlanePositionSequence = [position]
        frames.append(frame)
    image.PerFrameFunctionalGroupsSequence = frames
    image.PixelData = array.T.astype("<i2").tobytes()
    image.save_as(path, enforce_file_format=True)
    return path


def shared_file(name: str) -> pathlib.Path:
    """A test file that pydicom brings along."""
    return pathlib.Path(pydicom.__file__).parent / "data" / "test_files" / name
