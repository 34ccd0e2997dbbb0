"""Files out: reconstructions in the kind of file that their source was read from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import Tensor

from ..errors import UserError, need
from .data import Images, Stack
from .readers import SUFFIXES, dicom_files


def new_folder(out: str | Path) -> Path:
    """The path, if nothing can be lost there.

    Raises:
        UserError: it exists and is not empty.
    """
    out = Path(out)
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise UserError(f"{out}: exists and is not empty; nothing was written. Name a new folder, or empty this one")
    return out


def write_images(source: Stack, values: Tensor, out: str | Path) -> list[Path]:
    """Writes ``values`` (N, C, H, W), in model units, in the kind of file that ``source`` was read from.

    DICOM: one file a slice, in HU, geometry adapted to the new pixel size, marked as derived. NIfTI: one volume with the
    affine of the original (scaled if the size changed). HDF5: ``hu`` int16. TIFF and PNG: one file an image, PNG in 16 bits.
    Anything else: one ``.npy`` each.

    Raises:
        UserError: ``out`` exists and is not empty; nothing is overwritten.
    """
    out = new_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    if values.shape[1] == 2:  # complex
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
    pydicom = need("pydicom", "dicom")
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    by_name = {p.name: p for p in dicom_files(source.path)}
    series: dict[str, str] = {}
    paths = []
    for name, hu in zip(source.names, array):
        d = pydicom.dcmread(by_name.get(name) or by_name[name.removesuffix("_")])  # a file named as one of ours
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
    nibabel = need("nibabel", "nifti")
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
    h5py = need("h5py", "hdf5")
    path = out / (source.path.name if source.path.is_file() else "images.h5")
    with h5py.File(path, "w") as f:
        f["hu"] = np.clip(np.rint(array), -32768, 32767).astype(np.int16)
        f["patient"] = [p.encode() for p in source.patients]
    return [path]


def _write_tiff(source: Images, array: np.ndarray, out: Path) -> list[Path]:
    tifffile = need("tifffile", "images")
    paths = [out / f"{name}.tif" for name in source.names]
    for path, image in zip(paths, array):
        tifffile.imwrite(path, image.astype(np.float32))
    return paths


def _write_png(source: Images, array: np.ndarray, out: Path) -> list[Path]:
    from PIL import Image

    paths = [out / f"{name}.png" for name in source.names]
    for path, image in zip(paths, array):
        Image.fromarray(np.rint(np.clip(image / source.scale, 0, 1) * 65535).astype(np.uint16)).save(path)
    return paths


WRITERS: dict[str, Callable[[Images, np.ndarray, Path], list[Path]]] = {
    "dicom": _write_dicom,
    "nifti": _write_nifti,
    "hdf5": _write_hdf5,
    "tiff": _write_tiff,
    "png": _write_png,
}
