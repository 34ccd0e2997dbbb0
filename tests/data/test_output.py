"""Where images go: whole files, or an error that says what is missing."""

from __future__ import annotations

import errno
import os
import re

import numpy as np
import pytest

from equipoise.cli import _in_words
from equipoise.data.output import output

pytest.importorskip("h5py")
pytest.importorskip("tifffile")


@pytest.mark.parametrize("form", ["npy", "tiff", "hdf5"])
def test_images_lie_in_their_places(tmp_path, form):
    images = np.arange(3 * 4 * 5, dtype=np.float32).reshape(3, 4, 5)
    out = output(form, tmp_path, ["a", "ä ö", "c"], (4, 5))
    out.write(2, images[2:])
    out.write(0, images[:2])
    assert [np.array_equal(out.read(place), images[place]) for place in range(3)] == [True] * 3
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(p.name for p in out.files)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot tell")
@pytest.mark.parametrize("form", ["tiff", "hdf5"])
def test_room_is_taken_before_anything_is_written(tmp_path, form, monkeypatch):
    """A page that is missing later would end the process."""
    asked = []

    def full(descriptor, offset, size):
        asked.append(size)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left") as raised:
        output(form, tmp_path, ["a", "b"], (40, 50))
    assert asked[0] >= 2 * 4 * 40 * 50
    assert not list(tmp_path.iterdir())
    assert f"the disk is full where {tmp_path}" in _in_words(raised.value)


def test_room_for_hdf5_suffices(tmp_path, monkeypatch):
    """So much is taken as the file has in the end, with any number of names."""
    taken = []
    monkeypatch.setattr(os, "posix_fallocate", lambda *args: taken.append(args[2]), raising=False)
    for count in (1, 1000):
        (tmp_path / str(count)).mkdir()
        out = output("hdf5", tmp_path / str(count), [f"slice_{i}" for i in range(count)], (4, 5))
        out.write(0, np.ones((count, 4, 5)))
        assert taken[-2] >= out.path.stat().st_size


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError("1024 requested and 992 written"), r"the disk is full \(1024 requested"),
        (OSError(errno.ENOSPC, "No space left on device", "x.npy"), "the disk is full where x.npy"),
        (MemoryError("Unable to allocate 2 TiB"), r"not enough memory \(Unable.*lower data.size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "there is not enough memory"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "Permission denied: 'x'"),
    ],
)
def test_what_ends_a_command_is_said_in_words(error, words):
    assert re.search(words, _in_words(error))
