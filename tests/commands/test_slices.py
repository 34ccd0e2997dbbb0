"""Whole scans: flat memory, the same bytes after an interruption, and what is shown on the way."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from support import bytes_of_tensors, quiet, tiny
from typer.testing import CliRunner

from equipoise.cli import app
from equipoise.commands import slices
from equipoise.commands.reconstruct import reconstruct
from equipoise.commands.slices import Step
from equipoise.commands.train import train_run
from equipoise.data import output
from equipoise.errors import UserError
from equipoise.run import load_run

VIEWS, DETECTORS = 6, 23


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    train_run(tiny(folder), quiet)
    return load_run(folder)


def make_scan(path: Path, rows: int, detectors: int = DETECTORS, views: int = VIEWS) -> Path:
    """Raw counts of so many rows."""
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(0)
    place = np.linspace(-1, 1, detectors)
    hump = np.sqrt(np.clip(1 - (place / 0.6) ** 2, 0, None))
    size = rng.uniform(0.5, 2, (1, rows, 1))
    with h5py.File(path, "w") as stored:
        counts = rng.poisson(20_000 * np.exp(-size * hump), (views, rows, detectors))
        stored["exchange/data"] = counts.astype(np.uint16)
        stored["exchange/data_white"] = np.full((2, rows, detectors), 20_000, np.uint16)
        stored["exchange/data_dark"] = np.zeros((2, rows, detectors), np.uint16)
        stored["exchange/theta"] = np.arange(views) * 180 / views
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def stop_after(count: int):
    """True when asked for the ``count``-th time."""
    asked = []

    def interrupted() -> bool:
        asked.append(1)
        return len(asked) > count

    return interrupted


@pytest.mark.parametrize("form", list(output.KINDS))
def test_what_was_interrupted_goes_on_to_the_same_bytes(run, tmp_path, form, monkeypatch):
    monkeypatch.setattr(slices, "BATCH", 4)
    scan = make_scan(tmp_path / "scan.h5", 10)
    reconstruct(run, scan, tmp_path / "whole", quiet, form)
    assert (
        reconstruct(run, scan, tmp_path / "parts", quiet, form, interrupted=stop_after(1)) is None
    )
    state = json.loads((tmp_path / "parts" / "progress.json").read_text())
    assert state["done"] == 4
    said: list[str] = []
    steps: list[Step] = []
    reconstruct(run, scan, tmp_path / "parts", said.append, form, on_step=steps.append)
    assert "going on after slice 4 of 10" in said[0] + said[1]
    assert [step.done for step in steps] == [8, 10]
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    report = json.loads((tmp_path / "parts" / "report.json").read_text())
    assert [row["name"] for row in report["images"]] == [f"scan_{k:03d}" for k in range(10)]
    notes = [text.removeprefix("note: ") for text in said if text.startswith("note: ")]
    assert report["data_notes"] == notes


def test_a_batch_that_was_half_written_is_written_again(run, tmp_path, monkeypatch):
    """As a process leaves it that is killed between the images and the note of them."""
    monkeypatch.setattr(slices, "BATCH", 4)
    scan = make_scan(tmp_path / "scan.h5", 10)
    reconstruct(run, scan, tmp_path / "whole", quiet)
    save = slices.WholeScan._save

    def killed(self, done):
        if done == 8:
            raise KeyboardInterrupt
        save(self, done)

    monkeypatch.setattr(slices.WholeScan, "_save", killed)
    with pytest.raises(KeyboardInterrupt):
        reconstruct(run, scan, tmp_path / "parts", quiet)
    monkeypatch.setattr(slices.WholeScan, "_save", save)
    reconstruct(run, scan, tmp_path / "parts", quiet)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_all_forms_hold_the_same(run, tmp_path):
    h5py, tifffile = pytest.importorskip("h5py"), pytest.importorskip("tifffile")
    scan = make_scan(tmp_path / "scan.h5", 5)
    solved = reconstruct(run, scan, tmp_path / "npy", quiet)
    for form in ("tiff", "hdf5"):
        reconstruct(run, scan, tmp_path / form, quiet, form)
    images = np.stack([np.load(tmp_path / "npy" / f"scan_{k:03d}.npy") for k in range(5)])
    assert np.array_equal(images, solved.value[:, 0].numpy())
    assert np.array_equal(tifffile.imread(tmp_path / "tiff" / "images.tif"), images)
    with h5py.File(tmp_path / "hdf5" / "images.h5") as stored:
        assert np.array_equal(stored["images"][()], images)
        assert stored["names"][2].decode() == "scan_002"


def test_another_reconstruction_is_not_mixed_in(run, tmp_path, monkeypatch):
    monkeypatch.setattr(slices, "BATCH", 4)
    scan = make_scan(tmp_path / "scan.h5", 10)
    reconstruct(run, scan, tmp_path / "out", quiet, interrupted=stop_after(1))
    before = contents(tmp_path / "out")
    with pytest.raises(UserError, match=r"another reconstruction .*as"):
        reconstruct(run, scan, tmp_path / "out", quiet, "tiff")
    with pytest.raises(UserError, match=r"another reconstruction .*rows"):
        reconstruct(run, scan, tmp_path / "out", quiet, rows="2:9")
    assert contents(tmp_path / "out") == before
    reconstruct(run, scan, tmp_path / "out", quiet)
    with pytest.raises(UserError, match="not empty"):
        reconstruct(run, scan, tmp_path / "out", quiet)


def test_other_measurements_of_the_same_name_are_not_mixed_in(run, tmp_path, monkeypatch):
    monkeypatch.setattr(slices, "BATCH", 4)
    h5py = pytest.importorskip("h5py")
    scan = make_scan(tmp_path / "scan.h5", 10)
    reconstruct(run, scan, tmp_path / "out", quiet, interrupted=stop_after(1))
    before = contents(tmp_path / "out")
    with h5py.File(scan, "r+") as stored:
        stored["exchange/data"][:, 7] = stored["exchange/data"][:, 3]
    with pytest.raises(UserError, match=r"of other measurements \(scan_007: other values\)"):
        reconstruct(run, scan, tmp_path / "out", quiet)
    assert contents(tmp_path / "out") == before


def test_rows(run, tmp_path):
    scan = make_scan(tmp_path / "scan.h5", 10)
    whole = reconstruct(run, scan, tmp_path / "whole", quiet)
    some = reconstruct(run, scan, tmp_path / "some", quiet, rows="3:9:2")
    assert sorted(p.name for p in (tmp_path / "some").glob("*.npy")) == [
        "scan_003.npy",
        "scan_005.npy",
        "scan_007.npy",
    ]
    assert np.allclose(some.value, whole.value[[3, 5, 7]], atol=1e-4)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_scan(tmp_path, monkeypatch):
    """Of a slice nothing stays but its name and its account: less than its image (9 KiB) takes."""
    monkeypatch.setattr("equipoise.data.formats.projections.BLOCK", 2**16)
    monkeypatch.setattr(slices, "HANDED_BACK", 0)
    train_run(tiny(tmp_path / "run", data={"size": 48}), quiet)
    run, peaks, tensors = load_run(tmp_path / "run"), [], []
    reconstruct(run, make_scan(tmp_path / "warm.h5", 16, 68), tmp_path / "warm", quiet)
    for rows in (50, 200):
        scan = make_scan(tmp_path / f"scan{rows}.h5", rows, 68)
        seen = []

        def look(step, seen=seen):
            seen.append(bytes_of_tensors())

        # One after the other: to look for tensors takes a list of all objects that there are.
        reconstruct(run, scan, tmp_path / f"looked-{rows}", quiet, "hdf5", on_step=look)
        tensors.append(max(seen))
        tracemalloc.start()
        solved = reconstruct(run, scan, tmp_path / f"out-{rows}", quiet, "hdf5")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(solved.residual) == rows
        assert solved.value.numel() == 0
    assert (peaks[1] - peaks[0]) / 150 < 6000
    assert (tensors[1] - tensors[0]) / 150 < 1000


def test_it_is_said_how_long_it_takes():
    step = Step(done=100, total=2048, seconds=50.0, here=100)
    assert str(step) == "slice 100/2048  2 slices/s  16 min 14 s left"
    assert "2 h 13 min left" in str(Step(done=0 + 1, total=8001, seconds=1.0, here=1))


def test_the_command_line(run, tmp_path):
    scan = make_scan(tmp_path / "scan.h5", 40)
    command = ["reconstruct", str(run.folder), str(scan), str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*command, "--as", "tiff", "--rows", "0:36"])
    assert done.exit_code == 0, done.output
    assert "slice 36/36" in done.output
    assert "slices/s" in done.output
    assert (tmp_path / "out" / "images.tif").is_file()
    bad = CliRunner().invoke(app, [*command[:-1], str(tmp_path / "no"), "--as", "gif"])
    assert "--as gif" in str(bad.exception)
    assert not (tmp_path / "no").exists()
