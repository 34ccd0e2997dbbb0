"""Files to read, made as scanners and programs write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from equipoise.data.formats import open_path
from equipoise.data.item import Item

DATA = Path(__file__).parents[4] / "shared" / "data"
real_data = pytest.mark.skipif(not DATA.exists(), reason=f"no real data at {DATA}")


def arrays(items: Sequence[Item]) -> np.ndarray:
    """All arrays, in the units of the files."""
    return np.stack([item.array() for item in items])


def read(path: Path) -> np.ndarray:
    return arrays(open_path(path))


def hounsfield(seed: int = 0, size: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(-900, 900, (size, size))


def complex_array(*shape: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def transform(x: np.ndarray, axis: int) -> np.ndarray:
    """The centred orthonormal Fourier transform."""
    shifted = np.fft.ifftshift(x, axes=axis)
    return np.fft.fftshift(np.fft.fft(shifted, axis=axis, norm="ortho"), axes=axis)


def make_dicom(
    path: Path,
    pixels: np.ndarray,
    patient: str = "P1",
    z: float = 0.0,
    slope: float | None = 1.0,
    intercept: float | None = -1024.0,
    **fields: Any,
) -> Any:
    """One slice of CT; ``fields`` are set last, and those that are None are left out."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID = CTImageStorage
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    data.PatientID = patient
    data.SeriesInstanceUID = "1.2.3"
    data.Rows, data.Columns = pixels.shape[-2:]
    data.PixelSpacing = [0.7, 0.7]
    data.ImagePositionPatient = [-10, -20, z]
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.Modality = "CT"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit = 15
    data.PixelRepresentation = 0
    if slope is not None:
        data.RescaleSlope = slope
    if intercept is not None:
        data.RescaleIntercept = intercept
    data.PixelData = pixels.astype("<u2").tobytes()
    data["PixelData"].VR = "OW"
    for key, value in fields.items():
        if value is None:
            delattr(data, key)
        else:
            setattr(data, key, value)
    data.save_as(path, enforce_file_format=True)
    return pydicom


def make_nifti(path: Path, volume: np.ndarray, affine: np.ndarray | None = None) -> Any:
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4) if affine is None else affine), path)
    return nibabel


def make_bart(stem: Path, kspace: np.ndarray) -> None:
    """(coils, rows, columns) as BART lays it out: read, phase 1, phase 2, coils."""
    coils, rows, columns = kspace.shape
    header = f"# Dimensions\n{rows} {columns} 1 {coils} 1\n# Command\nmade up\n"
    stem.with_suffix(".hdr").write_text(header)
    kspace.transpose(1, 2, 0).astype(np.complex64).ravel(order="F").tofile(stem.with_suffix(".cfl"))


SPACE = (
    "<{0}><matrixSize><x>{1}</x><y>{2}</y><z>1</z></matrixSize><fieldOfView_mm><x>{3}</x>"
    "<y>{4}</y><z>1</z></fieldOfView_mm></{0}>"
)


def ismrmrd_header(
    columns: int,
    rows: int,
    encoded: tuple[float, float] = (1, 1),
    recon: tuple[float, float] | None = (1, 1),
    more: str = "",
) -> str:
    """The XML header of a scan, with its fields of view in millimetres."""
    spaces = SPACE.format("encodedSpace", columns, rows, *encoded)
    if recon is not None:
        spaces += SPACE.format("reconSpace", columns, rows, *recon)
    return (
        '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">'
        "<experimentalConditions><H1resonanceFrequency_Hz>1</H1resonanceFrequency_Hz>"
        f"</experimentalConditions><encoding>{spaces}<encodingLimits/>"
        f"<trajectory>cartesian</trajectory>{more}</encoding></ismrmrdHeader>"
    )


def make_ismrmrd(
    path: Path,
    kspace: np.ndarray,
    rows: Sequence[int] | None = None,
    header: str | None = None,
    flags: dict[int, int] | None = None,
    contrasts: Sequence[int] = (0,),
    center: int | None = None,
) -> None:
    """The rows of k-space (coils, rows, columns), line by line, as the ISMRMRD library writes it.

    Args:
        flags: the bit that is set, by the row it is set for.
        center: the sample at frequency zero; None: that in the middle.
    """
    ismrmrd = pytest.importorskip("ismrmrd")
    _, count, columns = kspace.shape
    dataset = ismrmrd.Dataset(str(path), "dataset")
    dataset.write_xml_header((header or ismrmrd_header(columns, count)).encode())
    for contrast in contrasts:
        for row in range(count) if rows is None else rows:
            line = ismrmrd.Acquisition.from_array(kspace[:, row])
            line.idx.kspace_encode_step_1 = row
            line.idx.contrast = contrast
            line.center_sample = columns // 2 if center is None else center
            if flags and row in flags:
                line.setFlag(flags[row])
            dataset.append_acquisition(line)
    dataset.close()


def make_exchange(path: Path, views: int = 12, rows: int = 3, detectors: int = 20) -> None:
    """Raw counts of a beamline, with white, dark and angles."""
    rng = np.random.default_rng(0)
    with pytest.importorskip("h5py").File(path, "w") as stored:
        counts = rng.integers(200, 20_000, (views, rows, detectors)).astype(np.uint16)
        stored["exchange/data"] = counts
        stored["exchange/data_white"] = np.full((2, rows, detectors), 20_000, np.uint16)
        stored["exchange/data_dark"] = np.full((2, rows, detectors), 100, np.uint16)
        stored["exchange/theta"] = np.arange(views) * 15.0


def make_itk(path: Path, volume: np.ndarray) -> None:
    """MetaImage or NRRD, (slices, rows, columns)."""
    library = pytest.importorskip("SimpleITK")
    library.WriteImage(library.GetImageFromArray(volume), str(path))


def make_mrc(path: Path, volume: np.ndarray) -> None:
    with pytest.importorskip("mrcfile").new(path) as stored:
        stored.set_data(volume)


def make_valid(folder: Path, kind: str) -> Path:
    """One readable file of a format."""
    pixels = hounsfield(3, 24) + 1024
    file = folder / f"x{SUFFIX[kind]}"
    if kind == "dicom":
        make_dicom(file, pixels)
    elif kind == "nifti":
        make_nifti(file, np.random.default_rng(0).random((24, 24, 3)))
    elif kind == "hdf5":
        with pytest.importorskip("h5py").File(file, "w") as stored:
            stored.create_dataset("hu", data=np.stack([pixels] * 3), compression="gzip")
    elif kind == "ismrmrd":
        make_ismrmrd(file, complex_array(2, 12, 16))
    elif kind == "exchange":
        make_exchange(file)
    elif kind in ("metaimage", "nrrd"):
        make_itk(file, np.random.default_rng(0).random((3, 24, 24)).astype(np.float32))
    elif kind == "mrc":
        make_mrc(file, np.random.default_rng(0).random((3, 24, 24)).astype(np.float32))
    elif kind == "npy":
        np.save(file, pixels)
    elif kind == "npz":
        np.savez(file, pixels)
    elif kind == "mat":
        scipy.io.savemat(file, {"x": pixels}, do_compression=True)
    elif kind == "tiff":
        pytest.importorskip("tifffile").imwrite(file, pixels.astype(np.uint16))
    elif kind == "png":
        from PIL import Image

        grey = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
        Image.fromarray(grey).save(file)
    else:
        make_bart(file.with_suffix(""), complex_array(2, 24, 24))
    return file


#: One suffix of each format.
SUFFIX = {
    "dicom": ".dcm",
    "nifti": ".nii",
    "hdf5": ".h5",
    "ismrmrd": ".mrd",
    "exchange": ".hdf",
    "metaimage": ".mha",
    "nrrd": ".nrrd",
    "mrc": ".mrc",
    "npy": ".npy",
    "npz": ".npz",
    "mat": ".mat",
    "tiff": ".tif",
    "png": ".png",
    "bart": ".cfl",
}
