"""What is in the files: images in model units, measurements, and which patients are kept apart.

Images become (N, 1, H, W) in model units, where [0, 1] is the range that matters, and remember how to go back. Nothing is
read before it is asked for.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from .readers import Entry, Found, check_numbers, find


@dataclass
class Stack:
    """Arrays of one shape, read one by one."""

    load: Sequence[Callable[[], Tensor]]
    names: list[str]
    patients: list[str]
    kind: str  #: of file: a key of ``readers.SUFFIXES``
    path: Path
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.load)

    def __getitem__(self, i: int) -> Tensor:
        return self.load[i]()

    @cached_property
    def values(self) -> Tensor:
        """All of them, (N, …). What is identical is noted."""
        values = torch.stack([self[i] for i in range(len(self))])
        digest: dict[bytes, str] = {}
        for name, value in zip(self.names, values):
            key = hashlib.sha256(value.numpy().tobytes()).digest()
            if key in digest:
                self.notes.append(f"{name} is identical to {digest[key]}")
            digest.setdefault(key, name)
        return values

    def subset(self, index: Sequence[int]) -> Stack:
        """Some of them."""
        part = copy.copy(self)
        part.__dict__.pop("values", None)
        part.load = [self.load[i] for i in index]
        part.names, part.patients = [self.names[i] for i in index], [self.patients[i] for i in index]
        return part


@dataclass
class Images(Stack):
    """Slices (1, H, W) in model units, and what is needed to write others in the same kind of file."""

    scale: float = 1.0  #: native = values · scale + offset
    offset: float = 0.0


@dataclass
class Measurements(Stack):
    """Measurements as they are in the files: (1, views, detectors), (2, H, W), …"""


def in_memory(values: Tensor, names: list[str]) -> Images:
    """Images that no file holds."""
    return Images(
        [partial(values.__getitem__, i) for i in range(len(values))],
        names,
        list(names),
        "npy",
        Path(),
    )


def _resize(image: np.ndarray, size: int | None) -> np.ndarray:
    """To size × size by averaging over pixels (exact block means where the size divides)."""
    if size is None or image.shape == (size, size):
        return image
    t = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[None, None]
    return torch.nn.functional.adaptive_avg_pool2d(t, size)[0, 0].numpy()


def _read(entry: Entry, k: int | None) -> np.ndarray:
    """The array of an entry, or the k-th of the stack that it is; finite numbers."""
    array = entry.load() if k is None else entry.load()[k]
    return check_numbers(np.asarray(array), str(entry.file))


def _image(entry: Entry, k: int | None, size: int | None, found: Found) -> Tensor:
    native = _read(entry, k).astype(np.float32)
    values = (_resize(native, size) - found.offset) / found.scale
    return torch.from_numpy(np.clip(values, 0, 1) if found.clip else values).float()[None]


def read_images(path: str | Path | Found, size: int | None = None) -> Images:
    """Slices of a folder or file: DICOM, NIfTI, HDF5 with ``hu``, ``.npy``, ``.npz``, TIFF, PNG.

    Args:
        size: pixels each way; larger images are averaged down. None: as they are.

    Raises:
        UserError: a file cannot be read, holds no images, or the slices differ in size. NaN is noticed when a slice is read.
    """
    found = find(path)
    load, names, patients = [], [], []
    shapes: dict[tuple[int, ...], Path] = {}
    for entry in found.entries:
        if entry.complex or found.kind in ("kspace", "bart"):
            raise UserError(f"{entry.file}: holds complex k-space, not images; set physics.kind=mri and data.kind=measurements")
        count = None if len(entry.shape) == 2 else entry.shape[0]
        if len(entry.shape) not in (2, 3) or (found.kind in ("tiff", "png") and count is not None):
            raise UserError(f"{entry.file}: expected grey two-dimensional images, got shape {entry.shape}")
        shape = entry.shape[-2:]
        if size is not None and min(shape) < size:
            raise UserError(f"{entry.file}: the image has {shape[0]}×{shape[1]} pixels, fewer than size={size}; lower data.size")
        if size is not None and shape[0] != shape[1]:
            raise UserError(
                f"{entry.file}: the image has {shape[0]}×{shape[1]} pixels, which data.size={size} would distort; crop or pad it "
                "to a square"
            )
        shapes.setdefault(shape, entry.file)
        for k in [None] if count is None else range(count):
            load.append(partial(_image, entry, k, size, found))
            names.append(entry.name if k is None else f"{entry.name}_{k:03d}")
            patients.append(entry.patient)  # a stack may well be one patient's
    if not load:
        raise UserError(f"{found.path}: holds no image (an empty array)")
    if len(shapes) > 1:
        sizes = ", ".join(f"{file.name} is {h}×{w}" for (h, w), file in sorted(shapes.items()))
        raise UserError(f"{found.path}: images of different sizes: {sizes}; put each size in a folder of its own")
    return Images(load, _unique(names), patients, found.kind, found.path, list(found.notes), found.scale, found.offset)


RESERVED = ("preview", "report")  # names of what stands beside the reconstructions


def _unique(names: list[str]) -> list[str]:
    """Names that can be files in one folder."""
    seen: set[str] = set()
    for i, name in enumerate(names):
        plain = name.replace("/", "_").replace("\\", "_")
        new, k = plain + "_" * (plain in RESERVED), 2
        while new in seen:
            new, k = f"{plain}-{k}", k + 1
        names[i] = new
        seen.add(new)
    return names


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without its leading ones."""
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    return tuple(shape)


def _measurement(entry: Entry, k: int | None, shape: tuple[int, ...]) -> Tensor:
    array = _read(entry, k)
    if np.iscomplexobj(array):
        array = np.stack([array.real, array.imag])
    return torch.from_numpy(array.astype(np.float32)).reshape(shape)


def read_measurements(path: str | Path | Found, shape: tuple[int, ...]) -> Measurements:
    """Measurements from files: each array is one of ``shape`` (without leading ones) or a stack of them.

    Complex numbers become two channels, real and imaginary part.

    Raises:
        UserError: a file cannot be read or does not fit ``shape``. NaN is noticed when a measurement is read.
    """
    found = find(path)
    load, names, patients = [], [], []
    for entry in found.entries:
        if entry.complex and shape[0] != 2:
            raise UserError(f"{entry.file}: holds complex numbers, but this geometry measures real ones; save the real part")
        bare = _bare(shape[1:] if entry.complex else shape)
        stacked = len(entry.shape) > len(bare) and _bare(entry.shape) != bare
        if (_bare(entry.shape[1:]) if stacked else _bare(entry.shape)) != bare:
            axes = {2: "views × detectors" if shape[0] == 1 else "rows × columns"}.get(len(bare), "channels × rows × columns")
            raise UserError(
                f"{entry.file}: shape {entry.shape} does not fit the geometry, which measures {bare} ({axes}); "
                "set physics.angles, physics.detectors and data.size to what the scanner did"
            )
        for k in range(entry.shape[0]) if stacked else [None]:
            load.append(partial(_measurement, entry, k, shape))
            names.append(entry.name if not stacked or entry.shape[0] == 1 else f"{entry.name}_{k:03d}")
            patients.append(entry.patient)
    if not load:
        raise UserError(f"{found.path}: holds no measurement (an empty array)")
    return Measurements(load, _unique(names), patients, found.kind, found.path, list(found.notes))


def read_kspace(path: str | Path | Found) -> Stack:
    """Acquisitions (coils, rows, columns), complex: from HDF5 (fastMRI, ISMRMRD), BART, ``.npy``, ``.npz``.

    Arrays are (rows, columns), (coils, rows, columns) or (slices, coils, rows, columns).

    Raises:
        UserError: a file cannot be read, holds real numbers, or shapes differ.
    """
    found = find(path)
    load, names, patients = [], [], []
    shapes: dict[tuple[int, ...], Path] = {}
    for entry in found.entries:
        if not entry.complex or not 2 <= len(entry.shape) <= 4:
            raise UserError(
                f"{entry.file}: expected complex k-space, (slices ×) (coils ×) rows × columns; got "
                f"{'complex' if entry.complex else 'real'} numbers of shape {entry.shape}"
            )
        shape = entry.shape[-3:]
        shapes.setdefault(shape if len(shape) == 3 else (1, *shape), entry.file)
        for k in range(entry.shape[0]) if len(entry.shape) == 4 else [None]:
            load.append(partial(_kspace, entry, k))
            names.append(entry.name if k is None else f"{entry.name}_{k:03d}")
            patients.append(entry.patient)
    if len(shapes) > 1:
        sizes = ", ".join(f"{file.name} is {'×'.join(map(str, shape))}" for shape, file in sorted(shapes.items()))
        raise UserError(
            f"{found.path}: k-space of different sizes (coils×rows×columns): {sizes}; put each size in a folder of its own"
        )
    if not load:
        raise UserError(f"{found.path}: holds no measurement (an empty array)")
    return Stack(load, _unique(names), patients, found.kind, found.path, list(found.notes))


def _kspace(entry: Entry, k: int | None) -> Tensor:
    array = _read(entry, k).astype(np.complex64)
    return torch.from_numpy(array if array.ndim == 3 else array[None])


GAP = 3  # slices of one volume between those that are trained on and those that are held out


def split_by_patient(patients: Sequence[str], fraction: float, seed: int = 0) -> tuple[list[int], list[int]]:
    """(kept, held out): indices, with no patient on both sides. About ``fraction`` of the patients, at least one, is held out.

    Where all are one patient's, they are taken for the slices of a volume: those in the middle are held out, and ``GAP`` on
    each side belong to neither.

    Raises:
        UserError: one patient's images are too few for that.
    """
    who, n = sorted(set(patients)), len(patients)
    if len(who) < 2:
        count = max(1, round(fraction * n))
        low = (n - count) // 2
        kept = [i for i in range(n) if not low - GAP <= i < low + count + GAP]
        if not kept:
            raise UserError(f"{n} images of one patient ({', '.join(who)}) are too few to hold some out: set data.holdout=0")
        return kept, list(range(low, low + count))
    order = torch.randperm(len(who), generator=torch.Generator().manual_seed(seed)).tolist()
    count = min(len(who) - 1, max(1, round(fraction * len(who))))
    held = {who[i] for i in order[:count]}
    return [i for i, p in enumerate(patients) if p not in held], [i for i, p in enumerate(patients) if p in held]
