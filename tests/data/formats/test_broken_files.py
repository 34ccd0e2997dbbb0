"""Files that are cut short, changed, or of another kind: one paragraph, or what they hold."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from equipoise.data.formats import open_path
from equipoise.data.formats.base import LONGEST_MESSAGE
from equipoise.data.pick import acquisitions_of, images_of, measurements_of
from equipoise.errors import UserError

from .make import SUFFIX, arrays, complex_array, make_itk, make_valid

#: Seconds of the processor. A file takes some milliseconds; what takes this long, hangs.
LONGEST = 5
CHECKS = {
    "deadline": None,
    "derandomize": True,
    "suppress_health_check": [HealthCheck.function_scoped_fixture],
}


def read_all(file: Path) -> list[np.ndarray]:
    """What a file holds; or the user's error, of one short paragraph."""
    start = time.process_time()
    values = _read_or_complain(file)
    assert time.process_time() - start < LONGEST
    return values


def check_message(error: UserError, file: Path) -> None:
    """One short paragraph that names the file, or the library that is not installed."""
    message = str(error)
    assert len(message) <= LONGEST_MESSAGE
    assert "\n" not in message
    assert file.stem in message or "install it with: pip install" in message


def _read_or_complain(file: Path) -> list[np.ndarray]:
    try:
        items = open_path(file)
        values = [item.array() for item in items]
        for item in items:
            if item.counts is not None and item.counts.white is not None:
                assert item.counts.white().shape == item.shape[-1:]
    except UserError as error:
        check_message(error, file)
        return []
    for item, value in zip(items, values, strict=True):
        assert value.shape == item.shape
        assert np.iscomplexobj(value) == item.complex
        assert np.isfinite(value).all()
    return values


@pytest.mark.parametrize("suffix", [*SUFFIX.values(), ".nii.gz", ".hdf5", ".ima", ".tiff"])
@settings(max_examples=15, **CHECKS)
@given(data=st.binary(max_size=400), header=st.booleans())
def test_random_bytes_are_an_error_of_the_user(tmp_path, suffix, data, header):
    """No reader crashes, hangs, or makes something of nothing."""
    marks = {
        ".npy": b"\x93NUMPY\x01\x00",
        ".npz": b"PK\x03\x04",
        ".h5": b"\x89HDF\r\n\x1a\n",
        ".tif": b"II*\x00",
        ".nii": b"\x5c\x01\0\0",
        ".png": b"\x89PNG\r\n\x1a\n",
        ".dcm": b"\0" * 128 + b"DICM",
        ".nii.gz": b"\x1f\x8b\x08",
        ".hdf": b"\x89HDF\r\n\x1a\n",
        ".mha": b"ObjectType = Image\nNDims = 3\n",
        ".nrrd": b"NRRD0004\ntype: float\n",
        ".mat": b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM",
    }
    file = tmp_path / f"x{suffix}"
    file.write_bytes((marks.get(suffix, b"") if header else b"") + data)
    if suffix == ".cfl":
        file.with_suffix(".hdr").write_bytes(b"# Dimensions\n" + data[:20])
    reads = (images_of, acquisitions_of, lambda items: measurements_of(items, (1, 4, 4), 1.0))
    for read in reads:
        with pytest.raises(UserError) as error:
            arrays(read(open_path(file)))
        check_message(error.value, file)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("kind", SUFFIX)
def test_files_that_are_cut_short(tmp_path, kind, share):
    file = make_valid(tmp_path, kind)
    assert len(arrays(open_path(file))) in (1, 3)
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match=r"x\.|x_0"):
        arrays(open_path(file))


def _dicom_rle(folder: Path) -> Path:
    pydicom = pytest.importorskip("pydicom")
    file = make_valid(folder, "dicom")
    data = pydicom.dcmread(file)
    data.compress(pydicom.uid.RLELossless)
    data.save_as(file)
    return file


def _nifti_gz(folder: Path) -> Path:
    nibabel = pytest.importorskip("nibabel")
    file = make_valid(folder, "nifti")
    nibabel.save(nibabel.load(file), file.with_suffix(".nii.gz"))
    return file.with_suffix(".nii.gz")


def _kspace_h5(folder: Path) -> Path:
    file = folder / "x.h5"
    with pytest.importorskip("h5py").File(file, "w") as stored:
        stored["kspace"] = complex_array(2, 3, 8, 8)
    return file


def _tiff_deflate(folder: Path) -> Path:
    file = folder / "x.tif"
    pixels = np.random.default_rng(0).integers(0, 255, (2, 24, 24)).astype(np.uint8)
    pytest.importorskip("tifffile").imwrite(
        file, pixels, photometric="minisblack", compression="zlib", byteorder=">"
    )
    return file


def _matlab_struct(folder: Path) -> Path:
    parameters = {"angles": np.arange(6.0), "distanceSourceOrigin": 40.0, "pixelSizePost": 0.2}
    scan = {"sinogram": np.random.default_rng(0).random((6, 9)), "parameters": parameters}
    scipy.io.savemat(folder / "x.mat", {"CtDataFull": scan})
    return folder / "x.mat"


def _matlab_7_3(folder: Path) -> Path:
    file = folder / "x.mat"
    with pytest.importorskip("h5py").File(file, "w", userblock_size=512) as stored:
        stored["x"] = np.random.default_rng(0).random((24, 20))
    with file.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return file


VARIANTS = {kind: (lambda folder, kind=kind: make_valid(folder, kind)) for kind in SUFFIX}


def _in_two_files(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        make_itk(folder / f"x{suffix}", np.random.default_rng(0).random((3, 24, 24)))
        return folder / f"x{suffix}"

    return make


VARIANTS |= {
    "metaimage, values beside it": _in_two_files(".mhd"),
    "nrrd, values beside it": _in_two_files(".nhdr"),
    "dicom, run lengths": _dicom_rle,
    "nifti, zipped": _nifti_gz,
    "hdf5, k-space": _kspace_h5,
    "tiff, deflated": _tiff_deflate,
    "mat, a struct": _matlab_struct,
    "mat, version 7.3": _matlab_7_3,
}


@pytest.fixture(scope="module", params=VARIANTS)
def original(request, tmp_path_factory):
    """A readable file of each variant, beside what belongs to it; skipped without its library."""
    name = request.param.replace(", ", "_").replace(" ", "_")
    return VARIANTS[request.param](tmp_path_factory.mktemp(name))


@settings(max_examples=60, **CHECKS)
@given(
    cut=st.one_of(st.just(1.0), st.floats(0, 1)),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), max_size=6),
    at_the_start=st.booleans(),
)
def test_bits_that_flip_and_ends_that_are_missing(tmp_path, original, cut, flips, at_the_start):
    """Where headers stand, at the start, as well as anywhere."""
    for beside in original.parent.iterdir():
        shutil.copy(beside, tmp_path / beside.name)
    file = tmp_path / original.name
    data = bytearray(original.read_bytes())
    span = min(len(data), 600) if at_the_start else len(data)
    for place, bit in flips:
        data[int(place * span)] ^= 1 << bit
    file.write_bytes(data[: round(cut * len(data))])
    read_all(file)
    if original.suffix == ".cfl":
        file.write_bytes(original.read_bytes())
        header = bytearray(original.with_suffix(".hdr").read_bytes())
        for place, bit in flips:
            header[int(place * len(header))] ^= 1 << bit
        file.with_suffix(".hdr").write_bytes(header[: round(cut * len(header))])
        read_all(file)


def test_files_of_another_kind(tmp_path, original):
    """Whatever the suffix says, the content counts; or it is an error."""
    for suffix in (*SUFFIX.values(), ".nii.gz", ".txt"):
        file = tmp_path / f"x{suffix}"
        file.write_bytes(original.read_bytes())
        read_all(file)
        file.unlink()


DTYPES = ["bool", "u1", "i2", ">i4", "u8", "f2", ">f8", "c8", "c16", "U3", "M8[s]", "O", "V4"]


#: Suffix → the library that writes it.
LIBRARIES = {".h5": "h5py", ".tif": "tifffile", ".nii": "nibabel"}


def _write(file: Path, values: np.ndarray, library: Any) -> None:
    """By the library of the suffix, which may refuse."""
    if file.suffix == ".npy":
        np.save(file, values)
    elif file.suffix == ".npz":
        np.savez(file, values)
    elif file.suffix == ".h5":
        with library.File(file, "w") as stored:
            stored["kspace" if values.ndim == 4 else "hu"] = values
    elif file.suffix == ".tif":
        library.imwrite(file, values, photometric="minisblack")
    else:
        library.save(library.Nifti1Image(values, np.eye(4)), file)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5", ".tif", ".nii"])
@settings(max_examples=60, **CHECKS)
@given(
    shape=st.lists(st.sampled_from([0, 1, 2, 3, 8]), max_size=5),
    dtype=st.sampled_from(DTYPES),
)
def test_other_shapes_and_types(tmp_path, suffix, shape, dtype):
    library = pytest.importorskip(LIBRARIES.get(suffix, "numpy"))
    file = tmp_path / f"x{suffix}"
    values = np.ones(shape, dtype) if dtype[0] not in "UMOV" else np.zeros(shape, dtype)
    try:
        _write(file, values, library)
    except Exception:
        return  # the library writes no such file
    read = read_all(file)
    if read:
        assert sum(array.size for array in read) == values.size
        assert all((array == 1).all() for array in read)
