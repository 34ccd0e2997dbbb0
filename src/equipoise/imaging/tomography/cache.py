"""System matrices that are kept on disk from run to run.

Where: ``EQUIPOISE_CACHE``, a folder, or "off" for none; default: ``equipoise`` in the user's folder
of caches. How much: ``EQUIPOISE_CACHE_GB``, 4 unless it says otherwise; what was not used for the
longest time is deleted first. An entry is a file named by what it was made of, which appears there
whole or not at all, so processes may share the folder. What is damaged is made anew.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
import uuid
import warnings
import zlib
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
import scipy.sparse
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ...errors import UserError
from ...version import __version__
from .geometry import Geometry
from .joseph import joseph_matrix

FOLDER, LIMIT = "EQUIPOISE_CACHE", "EQUIPOISE_CACHE_GB"
#: What is smaller is made as fast as it is read.
SMALLEST = 64 * 2**20
#: Counts the ways in which entries were written.
LAYOUT = 1
#: What says which pixels a ray meets, and how long: entries of other versions of it do not count.
MAKERS = ("geometry.py", "joseph.py")
#: Files that a process left behind when it was stopped in the middle, in seconds.
ABANDONED = 24 * 3600
NAMES = ("data", "indices", "indptr")


def kept_on_disk(geometry: Geometry, views: Sequence[int]) -> scipy.sparse.csr_matrix:
    """``joseph_matrix(geometry, views)``, from the folder of caches if it is there.

    Raises:
        UserError: ``EQUIPOISE_CACHE_GB`` is no number.
    """
    folder = cache_folder()
    if folder is None or _size_at_most(geometry, views) < SMALLEST:
        return joseph_matrix(geometry, views)
    limit = cache_limit()
    file = folder / f"projector-{_key(geometry, views)}.safetensors"
    shape = len(views) * geometry.detectors, geometry.height * geometry.width
    matrix = _read(file, shape)
    if matrix is None:
        matrix = joseph_matrix(geometry, views)
        size = matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes
        if SMALLEST <= size <= limit:
            _write(file, matrix)
            _make_room(folder, limit)
    return matrix


def cache_folder() -> Path | None:
    """Where matrices are kept; none if they are not."""
    said = os.environ.get(FOLDER)
    if said is not None:
        return None if said.strip().lower() in ("", "off", "0", "no", "none") else Path(said)
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # nobody knows whose home it is
        return None
    return caches / "equipoise"


def cache_limit() -> float:
    """How many bytes all entries may take.

    Raises:
        UserError: what ``EQUIPOISE_CACHE_GB`` says is no number of gigabytes.
    """
    said = os.environ.get(LIMIT, "4")
    try:
        gigabytes = float(said)
    except ValueError:
        gigabytes = math.nan
    if not gigabytes >= 0:
        raise UserError(f"{LIMIT}: must be a number of gigabytes, at least 0, got {said!r}")
    return gigabytes * 1e9


def _size_at_most(geometry: Geometry, views: Sequence[int]) -> int:
    rays = len(views) * geometry.detectors * geometry.per_detector
    return 16 * rays * max(geometry.height, geometry.width)


def _key(geometry: Geometry, views: Sequence[int]) -> str:
    """All that the matrix depends on, the program that makes it among it."""
    made_of = repr((LAYOUT, __version__, _program(), geometry, tuple(views)))
    return hashlib.sha256(made_of.encode()).hexdigest()[:32]


@lru_cache(maxsize=1)
def _program() -> str:
    """A checksum of the files that say what a ray measures."""
    folder = Path(__file__).parent
    return f"{zlib.crc32(b''.join((folder / name).read_bytes() for name in MAKERS)):08x}"


def _checksum(arrays: dict[str, np.ndarray]) -> str:
    crc = 0
    for name in NAMES:
        crc = zlib.crc32(arrays[name].data.cast("B"), crc)
    return f"{crc:08x}"


def _read(file: Path, shape: tuple[int, int]) -> scipy.sparse.csr_matrix | None:
    """The entry; none if it is not there, or is not what was written."""
    try:
        with safe_open(file, "numpy") as entry:
            arrays = {name: np.ascontiguousarray(entry.get_tensor(name)) for name in NAMES}
            expected = (entry.metadata() or {}).get("crc32")
        os.utime(file)
    except (OSError, SafetensorError, ValueError, KeyError):
        return None
    data, indices, indptr = (arrays[name] for name in NAMES)
    whole = len(indptr) == shape[0] + 1 and len(data) == len(indices) == indptr[-1]
    if not whole or _checksum(arrays) != expected:
        return None
    matrix = scipy.sparse.csr_matrix(shape, dtype=data.dtype)
    matrix.data, matrix.indices, matrix.indptr = data, indices, indptr
    return matrix


def _write(file: Path, matrix: scipy.sparse.csr_matrix) -> None:
    """Under another name first, so that nobody reads half of it."""
    arrays = {name: np.ascontiguousarray(getattr(matrix, name)) for name in NAMES}
    unfinished = file.with_name(f"{file.stem}.{os.getpid()}-{uuid.uuid4().hex[:8]}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(arrays, unfinished, {"crc32": _checksum(arrays)})
        os.replace(unfinished, file)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            unfinished.unlink()
        warnings.warn(
            f"the projector could not be kept in {file.parent} ({error}): the next run makes it "
            f"anew; set {FOLDER} to a folder that can be written to, or to off",
            stacklevel=2,
        )


def _make_room(folder: Path, limit: float) -> None:
    """Deletes what was not used for the longest time, and what others left unfinished."""
    entries: list[tuple[float, int, Path]] = []
    for file in folder.glob("projector-*"):
        try:
            found = file.stat()
            if file.suffix == ".part":
                if time.time() - found.st_mtime > ABANDONED:
                    file.unlink()
                continue
        except OSError:
            continue  # another process was faster
        entries.append((found.st_mtime, found.st_size, file))
    taken = sum(size for _, size, _ in entries)
    for _, size, file in sorted(entries)[:-1]:
        if taken <= limit:
            break
        try:
            file.unlink(missing_ok=True)
        except OSError:
            continue  # it is in use, or another's
        taken -= size
