"""How a command gets along with the machine: its threads, the memory that it takes again, and files
that are whole whenever it is stopped."""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import UserError

#: Of glibc's ``mallopt`` (malloc.h).
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
#: Bytes: what is smaller is taken from what was freed before, and so much of that is kept.
KEPT = 2**30
#: Whoever sets these has other plans.
OF_THE_USER = (
    "GLIBC_TUNABLES",
    "LD_PRELOAD",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
)

#: How the name of a file or folder ends that is not whole yet; nobody else's ends so.
DRAFT = ".equipoise-draft"


def wait_without_spinning() -> None:
    """Threads that wait for each other do not spin. To be called before torch is loaded.

    Spinning takes the machine from its other processes: a step beside one busy process took ten
    times as long. libgomp reads this once, when torch is loaded.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "0")


def keep_freed_memory() -> None:
    """Memory that was freed is taken again, not handed back to the system and asked for anew.

    glibc maps every tensor of more than 32 MiB on its own, and the system clears each of its pages
    as it is met: a forward pass of the U-Net on 512² images (batch 4) took 2.6 times as long, and
    its vector–Jacobian product twice. Where there is no glibc nothing happens.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in OF_THE_USER):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(MMAP_THRESHOLD, KEPT)
    mallopt(TRIM_THRESHOLD, KEPT)


def largest_memory(usage: Any) -> int:
    """The largest resident size of a process in bytes, of what ``resource`` or ``wait4`` says.

    macOS counts in bytes, all others in KiB.
    """
    kilo = 1 if sys.platform == "darwin" else 1024
    return int(usage.ru_maxrss) * kilo


_alone_with: set[Path] = set()


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Whether nobody else on this machine is in the same scope with this folder.

    The lock is a file among the temporary ones, where it bothers nobody, and goes with the process
    that has it, however it ends: it is not that of the processes which help to read data. Where
    there are no such locks, nobody is kept out.
    """
    try:
        import fcntl
    except ImportError:
        yield True
        return
    folder = folder.resolve()
    if folder in _alone_with:  # such a lock does not keep out its own process
        yield False
        return
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    with open(Path(tempfile.gettempdir()) / f"equipoise-{os.getuid()}-{name}.lock", "w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        _alone_with.add(folder)
        try:
            yield True
        finally:
            _alone_with.remove(folder)


def check_writable(folder: Path) -> None:
    """Asks before any work what would otherwise be told after it.

    Raises:
        UserError: nothing can be written to a folder, which may not be there yet.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(
            f"{folder}: nothing can be written there ({error.strerror or error}); make it "
            "writable, or name another place"
        ) from error


def write_whole(file: Path, text: str) -> None:
    """Writes a text file whose folder may not be there yet. Whoever stops this, or a full disk,
    leaves the file as it was, never half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.{os.getpid()}-{threading.get_ident()}{DRAFT}")
    try:
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, file)
    finally:
        draft.unlink(missing_ok=True)


def json_text(value: Any, indent: int | None = None) -> str:
    """A value as JSON, which knows no numbers that are not finite: they become null."""
    return json.dumps(_with_finite_numbers(value), indent=indent, allow_nan=False)


def _with_finite_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_finite_numbers(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_finite_numbers(each) for each in value]
    return finite_or_none(value) if isinstance(value, float) else value


def finite_or_none(number: float) -> float | None:
    """A number as JSON knows it."""
    return number if math.isfinite(number) else None


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A place to write to whose contents are those of ``folder``, which is empty or not there, once
    all of them are written. Whoever stops that, or a full disk, leaves nothing there that is in the
    way of the next try."""
    folder.mkdir(parents=True, exist_ok=True)
    for left_over in drafts(folder):
        _remove(folder / left_over)
    draft = folder / f"unfinished{DRAFT}"
    draft.mkdir()
    try:
        yield draft
        for path in sorted(draft.iterdir()):
            path.replace(folder / path.name)
    finally:
        _remove(draft)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def drafts(folder: Path) -> set[str]:
    """The names of what a process that was killed had begun to write in a folder."""
    return {path.name for path in folder.iterdir() if path.name.endswith(DRAFT)}


def contents(folder: Path) -> set[str]:
    """The names of all else in a folder."""
    return {path.name for path in folder.iterdir()} - drafts(folder)


def is_empty(folder: Path) -> bool:
    """Whether there is nothing in a folder, drafts aside."""
    return not contents(folder)
