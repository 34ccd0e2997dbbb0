"""Files in: every format as a list of entries that are read when they are asked for.

A reader looks at headers alone and answers with :class:`Found`; what is wrong with a file is said when it is met, as a
UserError with the file, what was expected, and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError, need

HU_OFFSET, HU_RANGE = 1000.0, 2000.0  # model units: (HU + 1000) / 2000, so that water is 0.5


@dataclass(frozen=True)
class Entry:
    """One array in a file: a slice, or a measurement, or a stack of them."""

    name: str
    file: Path
    shape: tuple[int, ...]
    load: Callable[[], np.ndarray]  # may be a map of the file, which is read where it is indexed
    patient: str = ""
    complex: bool = False


@dataclass
class Found:
    """What a path holds. An image in model units is (native − offset) / scale, clipped to [0, 1] if ``clip``."""

    kind: str
    path: Path
    entries: list[Entry]
    scale: float = 1.0
    offset: float = 0.0
    clip: bool = False
    notes: list[str] = field(default_factory=list)


SUFFIXES: dict[str, tuple[str, ...]] = {
    "dicom": (".dcm", ".ima"),
    "nifti": (".nii", ".nii.gz"),
    "hdf5": (".h5", ".hdf5"),
    "npy": (".npy",),
    "npz": (".npz",),
    "tiff": (".tif", ".tiff"),
    "png": (".png",),
    "bart": (".cfl",),
}
KNOWN = ", ".join(s for suffixes in SUFFIXES.values() for s in suffixes)


def files_of(path: Path, kind: str) -> list[Path]:
    """The files of a kind in a folder, sorted; or the file itself."""
    if path.is_file():
        return [path]
    return sorted(
        p for p in path.iterdir() if p.is_file() and p.name.lower().endswith(SUFFIXES[kind]) and not p.name.startswith(".")
    )


def kind_of(path: Path) -> str:
    """Which reader a path wants: a key of ``SUFFIXES``.

    Raises:
        UserError: there is no such path, nothing in it can be read, or it holds several kinds of files.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.is_file():
        name = path.name.lower()
        for kind, suffixes in SUFFIXES.items():
            if name.endswith(suffixes):
                return kind
        if name.endswith(".hdr") and path.with_suffix(".cfl").is_file():
            return "bart"
        if _has_dicom_mark(path):
            return "dicom"
        raise UserError(f"{path}: unknown kind of file; known are {KNOWN}")
    kinds = [kind for kind in SUFFIXES if files_of(path, kind)]
    if len(kinds) > 1:
        raise UserError(f"{path}: holds several kinds of files ({', '.join(kinds)}); put each kind in a folder of its own")
    if kinds:
        return kinds[0]
    if dicom_files(path):
        return "dicom"
    raise UserError(f"{path}: no file in this folder can be read; expected some of {KNOWN}")


def find(path: str | Path | Found) -> Found:
    """The entries of a file or folder; what was found before is not looked for again.

    Raises:
        UserError: it cannot be read.
    """
    if isinstance(path, Found):
        return path
    path = Path(path)
    found = READERS[kind_of(path)](path)
    if not found.entries:
        raise UserError(f"{path}: holds no image and no measurement")
    return found


@contextmanager
def _reading(file: Path, what: str, remedy: str = "the file may be cut short: copy it again") -> Iterator[None]:
    """What goes wrong in here is the file's fault, and its user is told."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        detail = f"{type(error).__name__}: {str(error) or 'no detail'}"
        raise UserError(f"{file}: cannot be read as {what} ({detail}); {remedy}") from error


def check_numbers(array: np.ndarray, where: str) -> np.ndarray:
    """The array, if it holds finite numbers.

    Raises:
        UserError: it holds something else, or NaN.
    """
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
        raise UserError(f"{where}: holds {array.dtype}, not numbers")
    bad = int(np.size(array) - np.isfinite(array).sum())
    if bad:
        first = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise UserError(
            f"{where}: {bad} of {array.size} values are NaN or infinite, the first at index {first}; "
            "replace them (interpolate dead detectors) or leave the file out"
        )
    return array


# ------------------------------------------------------------------------------------------------ DICOM


CODEC = (
    "the file may be cut short, or compressed with a codec that is not installed (pip install 'pydicom[pixeldata]', pylibjpeg); "
    "repair it or take it out of the folder"
)


def dicom_files(path: Path) -> list[Path]:
    """The DICOM files of a folder, by suffix or else by the mark that they begin with."""
    files = files_of(path, "dicom")
    return files or sorted(p for p in path.iterdir() if p.is_file() and p.name != "DICOMDIR" and _has_dicom_mark(p))


def _has_dicom_mark(path: Path) -> bool:
    with path.open("rb") as f:
        return f.read(132)[128:] == b"DICM"


def _dicom(path: Path) -> Found:
    pydicom = need("pydicom", "dicom")
    slices = []
    for file in dicom_files(path):
        with _reading(file, "DICOM", CODEC):
            d = pydicom.dcmread(file, stop_before_pixels=True)
            shape = (int(d.Rows), int(d.Columns))
            position = getattr(d, "ImagePositionPatient", None)
            axes = [float(v) for v in getattr(d, "ImageOrientationPatient", None) or (1, 0, 0, 0, 1, 0)]
            if position is not None:  # the distance along the slices' normal, whatever their orientation
                z = float(np.dot(np.cross(axes[:3], axes[3:]), [float(v) for v in position]))
            else:
                z = float(getattr(d, "InstanceNumber", 0) or 0)
            study, series = str(getattr(d, "StudyInstanceUID", "")), str(getattr(d, "SeriesInstanceUID", ""))
            patient = str(getattr(d, "PatientID", "")) or study or series or file.stem
            modality = str(getattr(d, "Modality", "") or "CT")
        if modality != "CT":
            raise UserError(f"{file}: its modality is {modality}; only CT has Hounsfield units: convert other images to NIfTI")
        slices.append((patient, series, z, Entry(file.name, file, shape, partial(_dicom_pixels, file), patient)))
    slices.sort(key=lambda s: (s[0], s[1], s[2], s[3].name))
    found = Found("dicom", path, [s[3] for s in slices], HU_RANGE, -HU_OFFSET, clip=True)
    by_series: dict[tuple[str, str], list[float]] = {}
    for patient, series, z, _ in slices:
        by_series.setdefault((patient, series), []).append(z)
    for (patient, _), places in by_series.items():
        gaps = np.diff(places)
        usual = float(np.median(gaps)) if len(gaps) > 2 else 0.0
        if usual > 0 and (missing := int((gaps > 1.5 * usual).sum())):
            found.notes.append(
                f"patient {patient}: slices are missing at {missing} place(s): gaps up to {float(gaps.max()):g} mm, "
                f"where {usual:g} mm is usual"
            )
    return found


def _dicom_pixels(file: Path) -> np.ndarray:
    with _reading(file, "DICOM", CODEC):
        d = need("pydicom", "dicom").dcmread(file)
        slope, intercept = float(getattr(d, "RescaleSlope", 1) or 1), float(getattr(d, "RescaleIntercept", 0) or 0)
        pixels: np.ndarray = d.pixel_array.astype(np.float32) * slope + intercept
    if pixels.ndim != 2:
        raise UserError(f"{file}: holds {pixels.shape} pixels, not one grey image; split multi-frame and colour files into slices")
    return pixels


# ------------------------------------------------------------------------------------------------ NIfTI


@lru_cache(maxsize=2)
def _volume(file: Path, changed: float) -> np.ndarray:
    with _reading(file, "NIfTI"):
        volume = np.asarray(need("nibabel", "nifti").load(file).get_fdata(dtype=np.float32))
    if volume.ndim != 3:
        raise UserError(f"{file}: expected a volume with three axes, got shape {volume.shape}")
    return check_numbers(volume, str(file))


def _nifti_slice(file: Path, changed: float, k: int) -> np.ndarray:
    return _volume(file, changed)[:, :, k]


def _nifti(path: Path) -> Found:
    files = files_of(path, "nifti")
    if len(files) > 1:
        raise UserError(f"{path}: {len(files)} volumes; name one of them, such as {files[0]}")
    file, changed = files[0], files[0].stat().st_mtime
    volume, stem = _volume(file, changed), file.name.split(".")[0]
    scale = float(np.percentile(np.abs(volume), 99.9)) or 1.0
    entries = [
        Entry(f"{stem}_{k:03d}", file, volume.shape[:2], partial(_nifti_slice, file, changed, k), stem)
        for k in range(volume.shape[2])
    ]
    return Found("nifti", file, entries, scale)


# ------------------------------------------------------------------------------------------------ HDF5: ours, fastMRI's, ISMRMRD


def _hdf5(path: Path) -> Found:
    h5py = need("h5py", "hdf5")
    entries: list[Entry] = []
    kinds = set()
    for file in files_of(path, "hdf5"):
        with _reading(file, "HDF5"), h5py.File(file) as f:
            key = next((k for k in ("hu", "kspace", "dataset") if k in f), None)
            if key is None:
                raise UserError(
                    f"{file}: no dataset 'hu' (Hounsfield units, slices × rows × columns) or 'kspace' (fastMRI), and no "
                    f"ISMRMRD 'dataset'; it has {sorted(f) or 'nothing'}"
                )
            kinds.add(key)
            if key != "dataset":
                entries += _hdf5_slices(file, key, f)
        if key == "dataset":
            entries += _ismrmrd(file)
    if len(kinds) > 1:
        raise UserError(f"{path}: holds images ('hu') beside k-space ('kspace'); put each in a folder of its own")
    if "hu" in kinds:
        return Found("hdf5", path, entries, HU_RANGE, -HU_OFFSET, clip=True)
    return Found("kspace", path, entries)


def _hdf5_slices(file: Path, key: str, f: Any) -> list[Entry]:
    d = f[key]
    if not hasattr(d, "ndim"):
        raise UserError(f"{file}: '{key}' is a group, not a dataset of slices")
    axes = {"hu": "slices × rows × columns", "kspace": "slices × (coils ×) rows × columns"}[key]
    if d.ndim != 3 and (key, d.ndim) != ("kspace", 4):
        raise UserError(f"{file}: '{key}' must be {axes}, got shape {d.shape}")
    who = [file.stem] * len(d)
    if key == "hu" and "patient" in f:
        who = [p.decode() if isinstance(p, bytes) else str(p) for p in np.atleast_1d(f["patient"][()])]
    elif key == "kspace":
        who = [str(f.attrs.get("patient_id", file.stem))] * len(d)
    if len(who) != len(d):
        raise UserError(f"{file}: {len(d)} slices, but 'patient' names {len(who)}; it needs one for each slice")
    return [
        Entry(f"{file.stem}_{i:03d}", file, d.shape[1:], partial(_hdf5_slice, file, key, i), who[i], d.dtype.kind == "c")
        for i in range(len(d))
    ]


def _hdf5_slice(file: Path, key: str, i: int) -> np.ndarray:
    with _reading(file, "HDF5"), need("h5py", "hdf5").File(file) as f:
        out: np.ndarray = f[key][i]
        return out


NOT_IMAGE = ("NOISE_MEASUREMENT", "PHASECORR_DATA", "NAVIGATION_DATA", "DUMMYSCAN_DATA", "HPFEEDBACK_DATA", "RTFEEDBACK_DATA")


def _ismrmrd(file: Path) -> list[Entry]:
    """One entry a slice: (coils, readout, phase), lines put where their headers say, repetitions averaged."""
    ismrmrd = need("ismrmrd", "mri")
    slices: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    kinds = set()
    with _reading(file, "ISMRMRD"):
        dataset = ismrmrd.Dataset(str(file), "dataset", create_if_needed=False)
        encoding = ismrmrd.xsd.CreateFromDocument(dataset.read_xml_header()).encoding[0]
        size, limits = encoding.encodedSpace.matrixSize, encoding.encodingLimits.kspace_encoding_step_1
        trajectory = str(getattr(encoding.trajectory, "value", encoding.trajectory)).lower()
        lines = [dataset.read_acquisition(i) for i in range(dataset.number_of_acquisitions())]
        dataset.close()
    if "cartesian" not in trajectory or size.z > 1:
        raise UserError(f"{file}: trajectory {trajectory}, {size.z} partitions; two-dimensional Cartesian scans are read")
    shift = size.y // 2 - limits.center if limits is not None else 0
    for line in lines:
        if any(line.is_flag_set(getattr(ismrmrd, f"ACQ_IS_{flag}")) for flag in NOT_IMAGE):
            continue
        if line.is_flag_set(ismrmrd.ACQ_IS_REVERSE):
            raise UserError(f"{file}: has lines that were read backwards (EPI); correct them first (Gadgetron)")
        kinds.add((line.idx.contrast, line.idx.phase, line.idx.set, line.idx.kspace_encode_step_2))
        data = line.data
        row, start = line.idx.kspace_encode_step_1 + shift, size.x // 2 - line.center_sample
        if not (0 <= row < size.y and 0 <= start <= size.x - data.shape[1]):
            raise UserError(
                f"{file}: a line at row {row}, samples {start} to {start + data.shape[1]}, lies outside the "
                f"{size.y}×{size.x} points that the header promises"
            )
        total, times = slices.setdefault(
            line.idx.slice, (np.zeros((data.shape[0], size.y, size.x), np.complex64), np.zeros(size.y))
        )
        total[:, row, start : start + data.shape[1]] += data
        times[row] += 1
    if len(kinds) > 1:
        raise UserError(f"{file}: {len(kinds)} contrasts, phases or sets; export one of them alone")
    if not slices:
        raise UserError(f"{file}: {len(lines)} acquisitions, none of them of an image (noise scans apart)")
    out = []
    for at, (total, times) in sorted(slices.items()):
        kspace = (total / np.maximum(times, 1)[None, :, None]).swapaxes(1, 2)
        out.append(Entry(f"{file.stem}_{at:03d}", file, kspace.shape, partial(_itself, kspace), file.stem, True))
    return out


def _itself(array: np.ndarray) -> np.ndarray:
    return array


# ------------------------------------------------------------------------------------------------ arrays and pictures


def _npy(path: Path) -> Found:
    entries = []
    for file in files_of(path, "npy"):
        array = _open_npy(file)
        entries.append(Entry(file.stem, file, array.shape, partial(_open_npy, file), file.stem, np.iscomplexobj(array)))
    return Found("npy", path, entries)


def _open_npy(file: Path) -> np.ndarray:
    """The array, mapped rather than read; one without any element cannot be mapped."""
    with _reading(file, ".npy", "save it again with numpy.save"):
        with file.open("rb") as f:
            version = np.lib.format.read_magic(f)
            shape, _, dtype = {(1, 0): np.lib.format.read_array_header_1_0}.get(version, np.lib.format.read_array_header_2_0)(f)
            size = int(np.prod(shape, dtype=object)) * dtype.itemsize
            if dtype.hasobject:
                raise UserError(f"{file}: holds {dtype}, not numbers")
            if file.stat().st_size < f.tell() + size:
                raise ValueError(f"its header promises {size} bytes of data, {file.stat().st_size - f.tell()} are there")
        return np.load(file, allow_pickle=False, mmap_mode="r" if size else None)


def _npz(path: Path) -> Found:
    entries = []
    for file in files_of(path, "npz"):
        with _reading(file, ".npz", "save it again with numpy.savez"), np.load(file, allow_pickle=False) as f:
            arrays = {name: f[name] for name in f.files}
        for name, array in arrays.items():
            entries.append(
                Entry(
                    f"{file.stem}_{name}",
                    file,
                    array.shape,
                    partial(_load_npz, file, file.stat().st_mtime, name),
                    file.stem,
                    np.iscomplexobj(array),
                )
            )
    return Found("npz", path, entries)


@lru_cache(maxsize=1)
def _load_npz(file: Path, changed: float, name: str) -> np.ndarray:
    with np.load(file, allow_pickle=False) as f:
        out: np.ndarray = f[name]
        return out


def _bart(path: Path) -> Found:
    entries = []
    for data in files_of(path, "bart"):
        file = data.with_suffix(".cfl")
        header = file.with_suffix(".hdr")
        if not header.is_file():
            raise UserError(f"{file}: has no {header.name} beside it, which says its dimensions; copy both")
        lines = header.read_text(errors="replace").splitlines()
        at = next((i for i, line in enumerate(lines) if line.strip().lower() == "# dimensions"), -1)
        try:
            dims = [int(d) for d in lines[at + 1].split()]
        except (IndexError, ValueError):
            dims = []
        if at < 0 or not dims or min(dims) < 1:
            raise UserError(f"{header}: no line '# Dimensions' with positive numbers below it; write it again with BART")
        size = int(np.prod(dims, dtype=object)) * 8
        if file.stat().st_size != size:
            raise UserError(
                f"{file}: {header.name} says {dims}, which is {size} bytes; the file has {file.stat().st_size}: copy it again"
            )
        dims = dims + [1] * (4 - len(dims))
        if np.prod(dims[4:], dtype=object) > 1 or sum(d > 1 for d in dims[:3]) > 2:
            raise UserError(
                f"{file}: dimensions {dims}: expected one slice, two of (read, phase 1, phase 2), and coils; split it (bart slice)"
            )
        plane = [d for d in dims[:3] if d > 1] or [1]
        plane = plane + [1] * (2 - len(plane))
        shape = (dims[3], *plane) if dims[3] > 1 else tuple(plane)
        entries.append(Entry(file.stem, file, shape, partial(_load_bart, file, (*plane, dims[3]), shape), file.stem, True))
    return Found("bart", path, entries)


def _load_bart(file: Path, dims: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    return np.fromfile(file, np.complex64).reshape(dims, order="F").transpose(2, 0, 1).reshape(shape)


def _tiff(path: Path) -> Found:
    tifffile = need("tifffile", "images")
    entries, types = [], set()
    for file in files_of(path, "tiff"):
        with _reading(file, "TIFF"), tifffile.TiffFile(file) as f:
            for i, page in enumerate(f.pages):
                name = file.stem if len(f.pages) == 1 else f"{file.stem}_{i:03d}"
                entries.append(Entry(name, file, page.shape, partial(_load_tiff, file, i), file.stem))
                types.add(page.dtype)
    return Found("tiff", path, entries, _largest(types, path))


def _load_tiff(file: Path, page: int) -> np.ndarray:
    with _reading(file, "TIFF"):
        out: np.ndarray = need("tifffile", "images").imread(file, key=page)
        return out


def _png(path: Path) -> Found:
    from PIL import Image

    entries, types = [], set()
    for file in files_of(path, "png"):
        with _reading(file, "PNG"), Image.open(file) as image:
            if image.mode not in ("L", "I;16", "I", "1"):
                raise UserError(f"{file}: a picture of mode {image.mode}, not grey values; convert it to greyscale")
            types.add(np.dtype(bool if image.mode == "1" else np.uint8 if image.mode == "L" else np.uint16))
            entries.append(Entry(file.stem, file, image.size[::-1], partial(_load_png, file), file.stem))
    return Found("png", path, entries, _largest(types, path))


def _load_png(file: Path) -> np.ndarray:
    from PIL import Image

    with _reading(file, "PNG"), Image.open(file) as image:
        return np.array(image)


def _largest(types: set[Any], path: Path) -> float:
    """What counts as 1: the largest number of an unsigned type; 1 for all others."""
    if len(types) > 1:
        raise UserError(f"{path}: files of different types: {', '.join(sorted(map(str, types)))}; convert them to one")
    dtype = next(iter(types), np.dtype(float))
    return float(np.iinfo(dtype).max) if np.issubdtype(dtype, np.unsignedinteger) else 1.0


READERS: dict[str, Callable[[Path], Found]] = {
    "dicom": _dicom,
    "nifti": _nifti,
    "hdf5": _hdf5,
    "npy": _npy,
    "npz": _npz,
    "tiff": _tiff,
    "png": _png,
    "bart": _bart,
}
