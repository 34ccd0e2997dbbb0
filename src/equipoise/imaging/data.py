"""Files in, files out: images and measurements in the formats people have.

Images become (N, 1, H, W) in model units, where [0, 1] is the range that matters, and remember how to go back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError

HU_OFFSET, HU_RANGE = 1000.0, 2000.0  # model units: (HU + 1000) / 2000, so that water is 0.5


@dataclass
class Images:
    """Slices in model units, and what is needed to write others in the same kind of file."""

    values: Tensor  #: (N, 1, H, W)
    names: list[str]
    patients: list[str]
    kind: str  #: "dicom", "nifti", "hdf5", "npy"
    path: Path
    scale: float = 1.0  #: native = values · scale + offset
    offset: float = 0.0
    native_shape: tuple[int, ...] = ()
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.values)


@dataclass
class Measurements:
    """Measurements as they are in the files."""

    values: Tensor  #: (N, 1, views, detectors) or (N, 2, H, W)
    names: list[str]
    path: Path
    kind: str = "npy"


def _need(module: str, extra: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"reading this file needs {module}; install it with: pip install 'equipoise[{extra}]'") from error


def _resize(image: np.ndarray, size: int | None, where: str) -> np.ndarray:
    """To size × size by averaging over pixels (exact block means where the size divides)."""
    if image.ndim != 2:
        raise UserError(f"{where}: expected a two-dimensional image, got shape {image.shape}")
    if size is None or image.shape == (size, size):
        return image
    if min(image.shape) < size:
        raise UserError(f"{where}: the image has {image.shape[0]}×{image.shape[1]} pixels, fewer than size={size}; lower data.size")
    t = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[None, None]
    return torch.nn.functional.adaptive_avg_pool2d(t, size)[0, 0].numpy()


def _finite(array: np.ndarray, where: str) -> np.ndarray:
    bad = int(np.size(array) - np.isfinite(array).sum())
    if bad:
        first = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise UserError(
            f"{where}: {bad} of {array.size} values are NaN or infinite, the first at index {first}; "
            "replace them (interpolate dead detectors) or leave the file out"
        )
    return array


def _files(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    found = sorted(p for p in path.iterdir() if p.is_file() and p.name.lower().endswith(suffixes) and not p.name.startswith("."))
    return found


def kind_of(path: Path) -> str:
    """Which reader a path wants: "dicom", "nifti", "hdf5" or "npy"."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.is_file():
        name = path.name.lower()
        for kind, suffixes in SUFFIXES.items():
            if name.endswith(suffixes):
                return kind
        if _has_dicom_mark(path):
            return "dicom"
        raise UserError(f"{path}: unknown kind of file; known are {', '.join(s for v in SUFFIXES.values() for s in v)}")
    for kind, suffixes in SUFFIXES.items():
        if _files(path, suffixes):
            return kind
    if _dicom_files(path):
        return "dicom"
    raise UserError(
        f"{path}: no file in this folder can be read; expected some of {', '.join(s for v in SUFFIXES.values() for s in v)}"
    )


SUFFIXES = {"dicom": (".dcm", ".ima"), "nifti": (".nii", ".nii.gz"), "hdf5": (".h5", ".hdf5"), "npy": (".npy",)}


def read_images(path: str | Path, size: int | None = None) -> Images:
    """Slices of a DICOM folder or file, a NIfTI volume, an HDF5 file with ``hu``, or ``.npy`` images.

    Args:
        size: pixels each way; larger images are averaged down. None: as they are.

    Raises:
        UserError: a file cannot be read, holds NaN, or the slices differ in size.
    """
    path = Path(path)
    images = READERS[kind_of(path)](path, size)
    digest: dict[str, str] = {}
    for name, value in zip(images.names, images.values):
        key = hashlib.sha256(value.numpy().tobytes()).hexdigest()
        if key in digest:
            images.notes.append(f"{name} is identical to {digest[key]}")
        digest.setdefault(key, name)
    return images


def _hu_to_model(hu: np.ndarray) -> np.ndarray:
    return np.clip((hu + HU_OFFSET) / HU_RANGE, 0, 1)


def _dicom_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = _files(path, SUFFIXES["dicom"])
    return files or sorted(p for p in path.iterdir() if p.is_file() and p.name != "DICOMDIR" and _has_dicom_mark(p))


def _has_dicom_mark(path: Path) -> bool:
    with path.open("rb") as f:
        return f.read(132)[128:] == b"DICM"


def _read_dicom(path: Path, size: int | None) -> Images:
    pydicom = _need("pydicom", "dicom")
    slices = []
    for file in _dicom_files(path):
        try:
            d = pydicom.dcmread(file)
            raw = d.pixel_array.astype(np.float32)
        except Exception as error:
            raise UserError(
                f"{file}: cannot be read as DICOM ({type(error).__name__}: {str(error) or 'no detail'}); "
                "the file may be cut short, or compressed with a codec that is not installed (pip install 'pydicom[pixeldata]', "
                "pylibjpeg); repair it or take it out of the folder"
            ) from error
        hu = raw * float(getattr(d, "RescaleSlope", 1) or 1) + float(getattr(d, "RescaleIntercept", 0) or 0)
        position = getattr(d, "ImagePositionPatient", None)
        z = float(position[2]) if position is not None else float(getattr(d, "InstanceNumber", 0) or 0)
        slices.append((str(getattr(d, "PatientID", "") or file.stem), str(getattr(d, "SeriesInstanceUID", "")), z, file, hu))
    shapes = {s[4].shape for s in slices}
    if len(shapes) > 1:
        by_shape = {shape: next(s[3].name for s in slices if s[4].shape == shape) for shape in sorted(shapes)}
        raise UserError(
            f"{path}: slices of different sizes: {', '.join(f'{f} is {s[0]}×{s[1]}' for s, f in by_shape.items())}; "
            "put each size in a folder of its own"
        )
    slices.sort(key=lambda s: (s[0], s[1], s[2], s[3].name))
    values = [_hu_to_model(_resize(_finite(s[4], str(s[3])), size, str(s[3]))) for s in slices]
    return Images(
        torch.from_numpy(np.stack(values)).float()[:, None],
        [s[3].name for s in slices],
        [s[0] for s in slices],
        "dicom",
        path,
        HU_RANGE,
        -HU_OFFSET,
        slices[0][4].shape,
    )


def _read_hdf5(path: Path, size: int | None) -> Images:
    h5py = _need("h5py", "hdf5")
    files = [path] if path.is_file() else _files(path, SUFFIXES["hdf5"])
    values, names, patients, shape = [], [], [], ()
    for file in files:
        try:
            with h5py.File(file) as f:
                if "hu" not in f:
                    raise UserError(
                        f"{file}: no dataset 'hu' (Hounsfield units, slices × rows × columns); it has {sorted(f) or 'nothing'}"
                    )
                if not isinstance(f["hu"], h5py.Dataset):
                    raise UserError(f"{file}: 'hu' is a group, not a dataset of slices × rows × columns")
                hu = f["hu"][()].astype(np.float32)
                who = (
                    [p.decode() if isinstance(p, bytes) else str(p) for p in f["patient"][()]]
                    if "patient" in f
                    else [file.stem] * len(hu)
                )
        except OSError as error:
            raise UserError(f"{file}: cannot be read as HDF5 ({error}); the file may be cut short: copy it again") from error
        if hu.ndim == 3 and len(who) != len(hu):
            raise UserError(f"{file}: {len(hu)} slices, but 'patient' names {len(who)}; it needs one for each slice")
        if hu.ndim != 3:
            raise UserError(f"{file}: 'hu' must be slices × rows × columns, got shape {hu.shape}")
        if shape and hu.shape[1:] != shape:
            raise UserError(
                f"{file}: slices of {hu.shape[1:]} pixels beside {shape} in {files[0]}; put each size in a folder of its own"
            )
        shape = hu.shape[1:]
        for i, one in enumerate(_finite(hu, str(file))):
            values.append(_hu_to_model(_resize(one, size, str(file))))
            names.append(f"{file.stem}_{i:03d}")
            patients.append(who[i])
    if not values:
        raise UserError(f"{path}: 'hu' holds no slice")
    return Images(torch.from_numpy(np.stack(values)).float()[:, None], names, patients, "hdf5", path, HU_RANGE, -HU_OFFSET, shape)


def _read_nifti(path: Path, size: int | None) -> Images:
    nibabel = _need("nibabel", "nifti")
    files = [path] if path.is_file() else _files(path, SUFFIXES["nifti"])
    if len(files) > 1:
        raise UserError(f"{path}: {len(files)} volumes; name one of them, such as {files[0]}")
    try:
        volume = np.asarray(nibabel.load(files[0]).get_fdata(dtype=np.float32))
    except Exception as error:
        raise UserError(
            f"{files[0]}: cannot be read as NIfTI ({type(error).__name__}: {error}); the file may be cut short"
        ) from error
    if volume.ndim != 3:
        raise UserError(f"{files[0]}: expected a volume with three axes, got shape {volume.shape}")
    _finite(volume, str(files[0]))
    scale = float(np.percentile(np.abs(volume), 99.9)) or 1.0
    values = [_resize(volume[:, :, k], size, str(files[0])) / scale for k in range(volume.shape[2])]
    stem = files[0].name.split(".")[0]
    return Images(
        torch.from_numpy(np.stack(values)).float()[:, None],
        [f"{stem}_{k:03d}" for k in range(len(values))],
        [stem] * len(values),
        "nifti",
        files[0],
        scale,
        0.0,
        volume.shape,
    )


def _load_npy(file: Path) -> np.ndarray:
    try:
        array = np.load(file, allow_pickle=False)
    except Exception as error:
        raise UserError(f"{file}: cannot be read as .npy ({error}); save it again with numpy.save") from error
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
        raise UserError(f"{file}: holds {array.dtype}, not numbers")
    return _finite(array, str(file))


def _read_npy(path: Path, size: int | None) -> Images:
    values, names = [], []
    for file in [path] if path.is_file() else _files(path, SUFFIXES["npy"]):
        array = _load_npy(file).astype(np.float32)
        stack = array[None] if array.ndim == 2 else array
        for i, one in enumerate(stack):
            values.append(_resize(one, size, str(file)))
            names.append(file.stem if array.ndim == 2 else f"{file.stem}_{i:03d}")
    shapes = {v.shape for v in values}
    if not values:
        raise UserError(f"{path}: holds no image (an empty array)")
    if len(shapes) > 1:
        raise UserError(f"{path}: images of different sizes: {sorted(shapes)}; put each size in a folder of its own")
    return Images(
        torch.from_numpy(np.stack(values)).float()[:, None], names, list(names), "npy", path, native_shape=values[0].shape
    )


READERS: dict[str, Callable[[Path, int | None], Images]] = {
    "dicom": _read_dicom,
    "hdf5": _read_hdf5,
    "nifti": _read_nifti,
    "npy": _read_npy,
}


def read_measurements(path: str | Path, shape: tuple[int, ...]) -> Measurements:
    """Measurements from ``.npy`` files: each holds one of ``shape`` (without leading ones) or a stack of them.

    Complex k-space becomes two channels, real and imaginary.

    Raises:
        UserError: a file cannot be read, holds NaN, or does not fit ``shape``.
    """
    path = Path(path)
    if kind_of(path) != "npy":
        raise UserError(f"{path}: measurements are read from .npy files; save one array of shape {_bare(shape)} per measurement")
    values, names = [], []
    for file in [path] if path.is_file() else _files(path, SUFFIXES["npy"]):
        array = _load_npy(file)
        if np.iscomplexobj(array):
            if shape[0] != 2:
                raise UserError(f"{file}: holds complex numbers, but this geometry measures real ones; save the real part")
            if array.ndim > 2 and len(array) > 1:
                raise UserError(
                    f"{file}: shape {array.shape} looks like several coils; complex k-space is one coil here, rows × columns: "
                    "combine the coils, or save each measurement as a file of its own"
                )
            array = np.stack([array.real, array.imag], axis=-3)
        bare = _bare(shape)
        one = array.reshape(bare) if _bare(array.shape) == bare else array
        one = one.reshape(-1, *bare) if one.ndim > len(bare) and _bare(one.shape[1:]) == bare else one
        stack = one[None] if one.shape == bare else one
        if stack.shape[1:] != bare:
            raise UserError(
                f"{file}: shape {array.shape} does not fit the geometry, which measures {bare} "
                f"({'views × detectors' if len(bare) == 2 else 'channels × rows × columns'}); "
                "set physics.angles, physics.detectors and data.size to what the scanner did"
            )
        for i, y in enumerate(stack):
            values.append(np.asarray(y, dtype=np.float32).reshape(shape))
            names.append(file.stem if len(stack) == 1 else f"{file.stem}_{i:03d}")
    if not values:
        raise UserError(f"{path}: holds no measurement (an empty array)")
    return Measurements(torch.from_numpy(np.stack(values)), names, path)


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without its leading ones."""
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    return tuple(shape)


def write_images(source: Images | Measurements, values: Tensor, out: str | Path) -> list[Path]:
    """Writes ``values`` (N, C, H, W), in model units, in the kind of file that ``source`` was read from.

    DICOM: one file a slice, in HU, geometry adapted to the new pixel size, marked as derived. NIfTI: one volume with the
    affine of the original (scaled if the size changed). HDF5: ``hu`` int16. Anything else: one ``.npy`` each.

    Raises:
        UserError: ``out`` exists and is not empty; nothing is overwritten.
    """
    out = Path(out)
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise UserError(f"{out}: exists and is not empty; nothing was written. Name a new folder, or empty this one")
    out.mkdir(parents=True, exist_ok=True)
    if values.shape[1] == 2:
        values = values.square().sum(1, keepdim=True).sqrt()
    array = values[:, 0].double().cpu().numpy()
    if isinstance(source, Images):
        array = array * source.scale + source.offset
        if source.kind in WRITERS:
            return WRITERS[source.kind](source, array, out)
    paths = [out / f"{name}.npy" for name in source.names]
    for p, a in zip(paths, array):
        np.save(p, a.astype(np.float32))
    return paths


def _write_dicom(source: Images, array: np.ndarray, out: Path) -> list[Path]:
    pydicom = _need("pydicom", "dicom")
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    by_name = {p.name: p for p in _dicom_files(source.path)}
    series: dict[str, str] = {}
    paths = []
    for name, hu in zip(source.names, array):
        d = pydicom.dcmread(by_name[name])
        factor = d.Rows / hu.shape[0]
        stored = np.clip(np.rint(hu), -32768, 32767).astype("<i2")
        d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        d.PixelData = stored.tobytes()
        d["PixelData"].VR = "OW"
        d.Rows, d.Columns = stored.shape
        d.BitsAllocated = d.BitsStored = 16
        d.HighBit, d.PixelRepresentation = 15, 1
        d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
        d.RescaleSlope, d.RescaleIntercept, d.RescaleType = 1, 0, "HU"
        for key in ("SmallestImagePixelValue", "LargestImagePixelValue", "PixelPaddingValue", "PixelPaddingRangeLimit"):
            if key in d:
                delattr(d, key)
        spacing = getattr(d, "PixelSpacing", None)
        if spacing is not None and factor != 1:
            old = [float(s) for s in spacing]
            d.PixelSpacing = [f"{s * factor:.10g}"[:16] for s in old]
            # The first pixel's centre moves inwards by half of what a pixel grew.
            position, axes = getattr(d, "ImagePositionPatient", None), getattr(d, "ImageOrientationPatient", None)
            if position is not None and axes is not None:
                p, a = np.array(position, dtype=float), np.array(axes, dtype=float)
                p = p + (factor - 1) / 2 * (old[1] * a[:3] + old[0] * a[3:])
                d.ImagePositionPatient = [f"{v:.10g}"[:16] for v in p]
        d.ImageType = ["DERIVED", "SECONDARY", *list(getattr(d, "ImageType", []))[2:]]
        d.DerivationDescription = "Reconstructed with Equipoise; not for clinical use"
        d.SeriesInstanceUID = series.setdefault(str(getattr(d, "SeriesInstanceUID", "")), generate_uid())
        d.SOPInstanceUID = generate_uid()
        d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID
        path = out / (name if name.lower().endswith(SUFFIXES["dicom"]) else name + ".dcm")
        d.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _write_nifti(source: Images, array: np.ndarray, out: Path) -> list[Path]:
    nibabel = _need("nibabel", "nifti")
    original = nibabel.load(source.path)
    volume = np.moveaxis(array, 0, -1).astype(np.float32)
    affine = np.array(original.affine)
    factor = np.array(original.shape[:3]) / np.array(volume.shape)
    if (factor != 1).any():
        affine[:3, 3] += affine[:3, :3] @ ((factor - 1) / 2)
        affine[:3, :3] *= factor
    path = out / source.path.name
    header = original.header.copy()
    header.set_data_dtype(np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, affine, header), path)
    return [path]


def _write_hdf5(source: Images, array: np.ndarray, out: Path) -> list[Path]:
    h5py = _need("h5py", "hdf5")
    path = out / (source.path.name if source.path.is_file() else "images.h5")
    with h5py.File(path, "w") as f:
        f["hu"] = np.clip(np.rint(array), -32768, 32767).astype(np.int16)
        f["patient"] = [p.encode() for p in source.patients]
    return [path]


WRITERS: dict[str, Callable[[Images, np.ndarray, Path], list[Path]]] = {
    "dicom": _write_dicom,
    "nifti": _write_nifti,
    "hdf5": _write_hdf5,
}
