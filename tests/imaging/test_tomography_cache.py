"""What is kept on disk: the same matrix, bounded, whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import pytest

import equipoise as eq
from equipoise.errors import UserError
from equipoise.imaging.tomography import cache
from equipoise.imaging.tomography.cache import cache_folder, kept_on_disk
from equipoise.imaging.tomography.joseph import joseph_matrix

ARRAYS = ("data", "indices", "indptr")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("EQUIPOISE_CACHE", str(tmp_path / "kept"))
    monkeypatch.delenv("EQUIPOISE_CACHE_GB", raising=False)
    monkeypatch.setattr(cache, "SMALLEST", 0)
    return tmp_path / "kept"


def geometry(offset=0.0):
    return eq.ParallelBeam(8, 5, offset=offset).geometry


def same(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ARRAYS)


def entries(folder):
    return sorted(folder.glob("*"))


def made(monkeypatch):
    """How often a matrix is made from here on."""
    count = []
    monkeypatch.setattr(
        cache, "joseph_matrix", lambda *args: count.append(1) or joseph_matrix(*args)
    )
    return count


def test_it_is_read_instead_of_made(folder, monkeypatch):
    count = made(monkeypatch)
    first = kept_on_disk(geometry(), range(5))
    again = kept_on_disk(geometry(), range(5))
    assert len(count) == 1
    assert same(first, again)
    assert same(first, joseph_matrix(geometry()))
    (file,) = entries(folder)
    assert file.suffix == ".safetensors"
    # Anything else is another entry.
    kept_on_disk(geometry(), [0, 1])
    kept_on_disk(geometry(offset=1e-12), range(5))
    monkeypatch.setattr(cache, "__version__", "another")
    kept_on_disk(geometry(), range(5))
    assert len(count) == len(entries(folder)) == 4


@pytest.mark.parametrize("damage", ["cut short", "a bit", "empty", "something else"])
def test_what_is_damaged_is_made_anew(folder, monkeypatch, damage):
    kept_on_disk(geometry(), range(5))
    (file,) = entries(folder)
    content = bytearray(file.read_bytes())
    if damage == "cut short":
        content = content[:-7]
    elif damage == "a bit":
        content[-5] ^= 4
    elif damage == "empty":
        content = bytearray()
    else:
        content = bytearray(b"not a matrix" * 9)
    file.write_bytes(content)
    count = made(monkeypatch)
    assert same(kept_on_disk(geometry(), range(5)), joseph_matrix(geometry()))
    assert len(count) == 1
    kept_on_disk(geometry(), range(5))
    assert len(count) == 1  # and mended


def test_it_is_bounded_and_what_was_used_stays(folder, monkeypatch):
    kept_on_disk(geometry(0.0), range(5))
    (first,) = entries(folder)
    size = first.stat().st_size
    monkeypatch.setenv("EQUIPOISE_CACHE_GB", str(3.5 * size / 1e9))
    for k in range(1, 6):
        time.sleep(0.01)
        kept_on_disk(geometry(0.1 * k), range(5))
        time.sleep(0.01)
        kept_on_disk(geometry(0.0), range(5))
        assert first.exists()
        assert sum(file.stat().st_size for file in entries(folder)) <= 3.6 * size
    monkeypatch.setenv("EQUIPOISE_CACHE_GB", "0")
    before = entries(folder)
    kept_on_disk(geometry(7.0), range(5))
    assert entries(folder) == before
    monkeypatch.setenv("EQUIPOISE_CACHE_GB", "much")
    with pytest.raises(UserError, match="EQUIPOISE_CACHE_GB: must be a number of gigabytes"):
        kept_on_disk(geometry(8.0), range(5))


def test_it_can_be_placed_and_turned_off(folder, monkeypatch):
    for off in ("off", "OFF", "", "0"):
        monkeypatch.setenv("EQUIPOISE_CACHE", off)
        assert cache_folder() is None
        kept_on_disk(geometry(), range(5))
    assert not folder.exists()
    monkeypatch.delenv("EQUIPOISE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    assert cache_folder() == folder / "equipoise"
    kept_on_disk(geometry(), range(5))
    assert len(entries(folder / "equipoise")) == 1


def test_small_ones_are_not_kept(folder, monkeypatch):
    monkeypatch.setattr(cache, "SMALLEST", 64 * 2**20)
    kept_on_disk(geometry(), range(5))
    assert not folder.exists()


def test_a_folder_that_cannot_be_written_to_is_told(folder, monkeypatch):
    folder.write_text("a file")
    with pytest.warns(UserWarning, match="could not be kept in .* EQUIPOISE_CACHE"):
        matrix = kept_on_disk(geometry(), range(5))
    assert same(matrix, joseph_matrix(geometry()))


def test_unfinished_files_are_left_to_their_writers_for_a_day(folder):
    kept_on_disk(geometry(), range(5))
    young, old = folder / "projector-a.1-2.part", folder / "projector-b.1-2.part"
    young.write_text("")
    old.write_text("")
    os.utime(old, (1, 1))
    kept_on_disk(geometry(1.0), range(5))
    assert young.exists()
    assert not old.exists()


def test_processes_may_share_it(folder):
    """All of them make, write and read the same entry at once."""
    code = (
        "import numpy as np, equipoise as eq\n"
        "from equipoise.imaging.tomography import cache\n"
        "cache.SMALLEST = 0\n"
        "g = eq.ParallelBeam(8, 5).geometry\n"
        "for _ in range(20):\n"
        "    m = cache.kept_on_disk(g, range(5))\n"
        "    assert np.array_equal(m.data, cache.joseph_matrix(g).data)\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait(120) for process in running] == [0, 0]
    assert len(entries(folder)) == 1


def test_the_program_that_made_a_matrix_is_part_of_its_name(monkeypatch):
    """Else a projector that was changed would go on with the matrices of the one before."""
    geometry = eq.ParallelBeam(16, 4).geometry
    before = cache._key(geometry, [0, 1])
    assert cache._key(geometry, [0, 1]) == before
    cache._program.cache_clear()
    monkeypatch.setattr(cache, "MAKERS", cache.MAKERS[:1])
    assert cache._key(geometry, [0, 1]) != before
    cache._program.cache_clear()
