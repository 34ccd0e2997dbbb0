"""Dark and flat files of one's own, layouts, rows, and what is said of the numbers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from counting import DARK, beam, counts_of, disc

from equipoise.config import parse
from equipoise.data.counts import corrected
from equipoise.data.counts.rings import without_rings
from equipoise.data.dataset import Dataset
from equipoise.data.formats import open_path
from equipoise.data.scan import Scan
from equipoise.data.settings import SinogramSettings
from equipoise.errors import UserError
from equipoise.run import load_data, load_training_data

VIEWS, ROWS, DETECTORS = 30, 4, 60
INTEGRALS = np.stack([disc() * (1 + 0.1 * row) for row in range(ROWS)])  # (rows, views, detectors)
WHITE = np.stack([beam() + 100 * row for row in range(ROWS)])
COUNTS = counts_of(INTEGRALS, WHITE[:, None])


def found(path: Path, **options: Any) -> np.ndarray:
    items = corrected(open_path(path), SinogramSettings(**options)).items
    return np.stack([item.array() for item in items])


def saved(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(exist_ok=True)
    np.save(path, values)
    return path


@pytest.fixture
def stack(tmp_path) -> Path:
    return saved(tmp_path / "scan.npy", COUNTS)


class TestFilesOfOnesOwn:
    @pytest.mark.parametrize(
        "frames", [WHITE, WHITE[None], np.stack([WHITE - 5, WHITE + 5])], ids=["2", "3", "several"]
    )
    def test_white_of_every_row(self, tmp_path, stack, frames):
        white = saved(tmp_path / "white.npy", frames)
        dark = saved(tmp_path / "dark.npy", np.full(frames.shape, DARK))
        assert np.allclose(found(stack, white=white, dark=dark), INTEGRALS, atol=1e-4)

    def test_a_folder_of_tiff_frames(self, tmp_path, stack):
        tifffile = pytest.importorskip("tifffile")
        folder = tmp_path / "flats"
        folder.mkdir()
        for k, change in enumerate((-8, 0, 8)):
            frame = np.rint(WHITE + change).astype(np.uint16)
            tifffile.imwrite(folder / f"flat{k}.tif", frame)
        values = found(stack, white=folder, dark=DARK)
        assert np.abs(values - INTEGRALS).max() < 1e-4

    def test_numbers(self, stack):
        values = found(stack, white=30_000.0, dark=DARK)
        light = (COUNTS - DARK) / (30_000 - DARK)
        assert np.allclose(values, -np.log(light), atol=1e-4)

    def test_transmissions_have_a_white_of_1(self, tmp_path):
        path = saved(tmp_path / "t.npy", np.exp(-INTEGRALS))
        assert np.allclose(found(path, white=1.0, dark=0.0), INTEGRALS, atol=1e-5)

    def test_one_white_for_all_rows(self, tmp_path):
        path = saved(tmp_path / "scan.npy", counts_of(INTEGRALS, beam()))
        white = saved(tmp_path / "white.npy", beam())
        assert np.allclose(found(path, white=white, dark=DARK), INTEGRALS, atol=1e-4)

    def test_a_white_of_another_size(self, tmp_path, stack):
        white = saved(tmp_path / "white.npy", WHITE[:, :-1])
        with pytest.raises(
            UserError, match=r"data\.white=.*\(4, 59\) does not fit .* 60 detectors"
        ):
            found(stack, white=white)

    def test_white_stands_in_its_own_row_whichever_rows_are_used(self, tmp_path, stack):
        white = saved(tmp_path / "white.npy", WHITE)
        values = found(stack, white=white, dark=DARK, rows=[2, 3])
        assert np.allclose(values, INTEGRALS[2:], atol=1e-4)

    def test_a_file_that_was_written_anew(self, tmp_path):
        """In one process, as a notebook is."""
        stack = saved(tmp_path / "scan.npy", COUNTS)
        white = saved(tmp_path / "white.npy", 2 * WHITE)
        before = found(stack, white=white, dark=DARK)
        saved(white, WHITE)
        os.utime(white, (1, 1))
        assert np.allclose(found(stack, white=white, dark=DARK), INTEGRALS, atol=1e-4)
        assert np.abs(before - INTEGRALS).max() > 0.1

    def test_a_file_that_is_not_there(self, tmp_path):
        stack = saved(tmp_path / "scan.npy", COUNTS)
        with pytest.raises(UserError, match=r"nowhere\.npy"):
            found(stack, white=tmp_path / "nowhere.npy", dark=DARK)

    def test_a_file_for_each_sinogram(self, tmp_path):
        for row in range(ROWS):
            saved(tmp_path / "scan" / f"s{row}.npy", COUNTS[row])
        white = saved(tmp_path / "white.npy", WHITE)
        assert np.allclose(found(tmp_path / "scan", white=white, dark=DARK), INTEGRALS, atol=1e-4)


class TestLayout:
    def test_a_stack_of_projections(self, tmp_path):
        path = saved(tmp_path / "scan.npy", COUNTS.transpose(1, 0, 2))
        white = saved(tmp_path / "white.npy", WHITE)
        values = found(path, white=white, dark=DARK, layout="projections")
        assert np.allclose(values, INTEGRALS, atol=1e-4)

    @pytest.mark.parametrize("block", [1, 2**20])
    def test_a_tiff_a_view(self, tmp_path, block, monkeypatch):
        tifffile = pytest.importorskip("tifffile")
        monkeypatch.setattr("equipoise.data.counts.layout._Frames.BLOCK", block)
        folder = tmp_path / "projections"
        folder.mkdir()
        for view in range(VIEWS):
            frame = COUNTS[:, view].astype(np.float32)
            tifffile.imwrite(folder / f"view_{view:04d}.tif", frame)
        white = saved(tmp_path / "white.npy", WHITE)
        values = found(folder, white=white, dark=DARK, layout="projections")
        assert np.allclose(values, INTEGRALS, atol=1e-3)

    def test_rows_that_become_one(self, tmp_path, stack):
        white = saved(tmp_path / "white.npy", WHITE)
        values = found(stack, white=white, dark=DARK, bin_rows=2)
        light = ((COUNTS - DARK)[:2]).sum(0) / (WHITE - DARK)[:2].sum(0)
        assert values.shape == (2, VIEWS, DETECTORS)
        assert np.allclose(values[0], -np.log(light), atol=1e-4)

    def test_a_row_that_is_left_over_is_said(self, stack):
        items = corrected(open_path(stack), SinogramSettings(white=30_000.0, bin_rows=3)).items
        assert len(items) == 1
        assert any("1 row(s) at the end are left out" in note for note in items[0].notes)

    @pytest.mark.parametrize(
        ("rows", "right"),
        [(1, [1]), (-1, [3]), ("1:3", [1, 2]), ("::2", [0, 2]), ([3, 0], [3, 0])],
    )
    def test_rows(self, tmp_path, rows, right):
        path = saved(tmp_path / "lines.npy", INTEGRALS)
        assert np.allclose(found(path, rows=rows), INTEGRALS[right])

    def test_a_row_that_is_not_there(self, stack):
        with pytest.raises(UserError, match=r"data\.rows: 4 is not there; there are 4"):
            found(stack, rows=4)
        with pytest.raises(ValueError, match="no range"):
            SinogramSettings(rows="middle")


def config_of(path: Path, **data: Any):
    physics = {"angles": VIEWS, "detectors": DETECTORS, "noise": 0.0}
    tree = {"data": {"path": str(path), "size": 32, "kind": "measurements", **data}}
    return parse({**tree, "physics": physics}, "test")


def loaded(path: Path, **data: Any) -> Dataset:
    config = config_of(path, **data)
    return load_data(config, Scan.planned(config.physics, 32))


def native(dataset: Dataset) -> np.ndarray:
    return dataset.scan.measurement_to_native(dataset.measurements())[:, 0].numpy()


class TestLoading:
    def test_counts_given_as_line_integrals_are_refused_with_the_remedy(self, stack):
        with pytest.raises(UserError, match=r"look like counts .* data\.white"):
            loaded(stack)
        assert np.allclose(native(loaded(stack, values="line_integrals")), COUNTS, rtol=1e-4)

    def test_transmissions_given_as_line_integrals(self, tmp_path):
        path = saved(tmp_path / "t.npy", np.exp(-INTEGRALS))
        with pytest.raises(UserError, match="1 for transmissions"):
            loaded(path)

    def test_line_integrals_given_as_counts_are_refused_with_the_remedy(self, tmp_path):
        noise = np.random.default_rng(0).normal(0, 0.01, INTEGRALS.shape)
        path = saved(tmp_path / "lines.npy", INTEGRALS + noise)
        for white in (1.0, 30_000.0):
            with pytest.raises(UserError, match=r"data\.values=line_integrals"):
                loaded(path, white=white)
        assert np.allclose(native(loaded(path)), INTEGRALS + noise, atol=1e-4)

    def test_what_was_lost_is_said(self, tmp_path):
        counts = COUNTS.copy()
        counts[:, :, 20] = 0
        counts[1, 7, 30] = 65_535
        path = saved(tmp_path / "scan.npy", counts)
        white = saved(tmp_path / "white.npy", WHITE)
        dataset = loaded(path, white=str(white), dark=DARK)
        (note,) = [note for note in dataset.notes if "filled in" in note]
        assert "1 dead detector(s), number 20 (counted from 0)" in note
        assert "1 hot value(s)" in note
        assert "in 4 of the 4 sinograms" in note
        assert np.abs(native(dataset) - INTEGRALS).max() < 0.06

    def test_a_sample_is_drawn_by_the_seed(self, tmp_path):
        path = saved(tmp_path / "lines.npy", INTEGRALS)
        config = config_of(path, sample=2)
        scan = Scan.planned(config.physics, 32)
        dataset, _ = load_training_data(config, scan)
        assert len(dataset) == 2
        assert any("data.sample=2 of 4" in note for note in dataset.notes)
        assert load_training_data(config, scan)[0].names == dataset.names
        others = {tuple(load_data(config, scan, seed=seed).names) for seed in range(10)}
        assert len(others) > 2
        assert len(load_data(config, scan, path)) == 4  # all, where they are reconstructed

    def test_what_does_not_fit_into_memory_is_said_before_it_is_read(self, tmp_path, monkeypatch):
        path = saved(tmp_path / "lines.npy", INTEGRALS)
        monkeypatch.setattr("os.sysconf", lambda name: 100)
        with pytest.raises(UserError, match=r"data\.sample=64.*data\.stream=true"):
            loaded(path)

    def test_options_that_do_not_apply(self, tmp_path):
        path = saved(tmp_path / "images.npy", np.random.default_rng(0).random((3, 32, 32)))
        config = parse(
            {
                "data": {"path": str(path), "size": 32, "kind": "measurements", "white": 1.0},
                "physics": {"kind": "inpainting"},
            },
            "test",
        )
        with pytest.raises(UserError, match=r"data\.white: applies to the sinograms"):
            load_data(config, Scan.planned(config.physics, 32))


class TestDeadInLineIntegrals:
    def values(self) -> np.ndarray:
        values = INTEGRALS[0].copy()
        values[:, 20] = np.nan
        values[4, 40] = np.nan
        return values

    def test_nan_is_refused_and_the_remedy_named(self, tmp_path):
        path = saved(tmp_path / "lines.npy", self.values())
        with pytest.raises(UserError, match=r"data\.dead=interpolate"):
            loaded(path)

    def test_interpolated_as_asked_and_counted(self, tmp_path):
        path = saved(tmp_path / "lines.npy", self.values())
        dataset = loaded(path, dead="interpolate")
        assert np.abs(native(dataset)[0] - INTEGRALS[0]).max() < 0.05
        (note,) = [note for note in dataset.notes if "filled in" in note]
        assert "1 dead detector(s), number 20" in note
        assert "1 value(s) NaN" in note

    def test_a_silent_detector_is_said_and_left_unless_asked(self, tmp_path):
        values = INTEGRALS[0] + 0.01
        values[:, 25] = 0
        path = saved(tmp_path / "lines.npy", values)
        dataset = loaded(path)
        assert any("number 25" in note and "left as it is" in note for note in dataset.notes)
        assert not native(dataset)[0, :, 25].any()
        assert native(loaded(path, dead="interpolate"))[0, :, 25].min() > 1

    def test_masked_as_asked(self, tmp_path):
        """The operator leaves out what was not measured, in either of two sinograms."""
        path = saved(tmp_path / "lines.npy", np.stack([self.values(), INTEGRALS[1]]))
        for stream in (False, True):
            config = config_of(path, dead="mask")
            dataset = load_data(config, Scan.planned(config.physics, 32), stream=stream)
            seen = dataset.scan.physics.seen
            assert not seen[:, 20].any()
            assert seen[4, 40] == 0
            assert int(seen.sum()) == VIEWS * (DETECTORS - 1) - 1
            y = dataset.batch(torch.tensor([1])).y
            assert not y[..., 20].any()
            assert any("left out of the operator" in note for note in dataset.notes)

    def test_every_sinogram_counts_for_the_mask(self, tmp_path):
        """Also those of a long scan that are not read before."""
        rows = np.stack([INTEGRALS[1]] * 7 + [self.values()] + [INTEGRALS[1]] * 32)
        config = config_of(saved(tmp_path / "lines.npy", rows), dead="mask")
        for stream in (False, True):
            dataset = load_data(config, Scan.planned(config.physics, 32), stream=stream)
            assert not dataset.scan.physics.seen[:, 20].any()
            (note,) = [note for note in dataset.notes if "left out of the operator" in note]
            assert "in 1 of the 40 sinograms that were read" in note

    def test_a_mask_of_views_and_bins(self, tmp_path):
        counts = COUNTS.copy()
        counts[:, :, 20:24] = 0
        counts[:, :, 31] = 0
        path = saved(tmp_path / "scan.npy", counts)
        white = saved(tmp_path / "white.npy", WHITE)
        tree = {"path": str(path), "size": 15, "kind": "measurements", "dead": "mask"}
        physics = {"angles": VIEWS, "detectors": DETECTORS, "bin": 4, "views": 3}
        tree |= {"white": str(white), "dark": DARK}
        config = parse({"data": tree, "physics": physics}, "test")
        dataset = load_data(config, Scan.planned(config.physics, 15))
        seen = dataset.scan.physics.seen
        assert tuple(seen.shape) == (10, 15)
        assert [int(i) for i in (seen.sum(0) == 0).nonzero()] == [5]
        light = (COUNTS - DARK)[:, ::3]
        light[:, :, 31] = 0
        beam_of = (WHITE - DARK)[:, None] * np.ones((1, 10, 1))
        beam_of[:, :, 31] = 0
        together = [v.reshape(ROWS, 10, 15, 4).sum(-1) for v in (light, beam_of)]
        right = -np.log(together[0] / together[1])
        right[:, :, 5] = 0
        assert np.allclose(native(dataset), right, atol=1e-4)

    def test_a_bin_counts_as_measured_from_half_of_its_detectors_on(self, tmp_path):
        """Line integrals: what is missing in a bin does not pull its mean to zero."""
        values = INTEGRALS[0].copy()
        values[:, 20] = np.nan  # one of bin 10
        values[:, 30:32] = np.nan  # both of bin 15
        path = saved(tmp_path / "lines.npy", values)
        tree = {"path": str(path), "size": 30, "kind": "measurements", "dead": "mask"}
        physics = {"angles": VIEWS, "detectors": DETECTORS, "bin": 2}
        config = parse({"data": tree, "physics": physics}, "test")
        dataset = load_data(config, Scan.planned(config.physics, 30))
        seen = dataset.scan.physics.seen
        assert [int(i) for i in (seen.sum(0) == 0).nonzero()] == [15]
        right = INTEGRALS[0].reshape(VIEWS, 30, 2).mean(-1)
        found = native(dataset)[0]
        assert np.abs(found[:, 10] - right[:, 10]).max() < 0.05
        assert not found[:, 15].any()

    def test_refused(self, tmp_path):
        path = saved(tmp_path / "lines.npy", self.values())
        with pytest.raises(UserError, match=r"data\.dead=refuse"):
            loaded(path, dead="refuse")


def test_rings_need_their_library_and_go(tmp_path):
    pytest.importorskip("algotom")
    clean = INTEGRALS[0] * np.linspace(0.8, 1, VIEWS)[:, None]
    striped = clean.copy()
    striped[:, [18, 26, 33, 41]] += 0.2
    path = saved(tmp_path / "lines.npy", striped)
    left = np.abs(found(path, rings="sorting")[0] - clean)
    assert left[:, [18, 26, 33, 41]].mean() < 0.06
    assert left.mean() < 0.02


@pytest.mark.parametrize("detectors", [64, 128, 400])
@pytest.mark.parametrize("how", ["all", "sorting", "filtering", "large", "dead"])
def test_removing_rings_leaves_the_object(detectors, how):
    """However wide the detector is: an object without stripes stays as it is to 4 %."""
    pytest.importorskip("algotom")
    s = np.linspace(-1, 1, detectors)
    angles = np.linspace(0, np.pi, 90, endpoint=False)[:, None]

    def disc(x, y, radius):
        middle = x * np.cos(angles) + y * np.sin(angles)
        return 2 * np.sqrt(np.clip(radius**2 - (s - middle) ** 2, 0, None))

    clean = disc(0, 0.1, 0.7) - disc(-0.3, 0.2, 0.15) + disc(0.2, -0.3, 0.1)
    changed = np.linalg.norm(without_rings(clean, how) - clean) / np.linalg.norm(clean)
    assert changed < 0.04


def test_what_changes_more_than_rings_is_refused():
    """A fit that is divided by, in views of which most is air."""
    pytest.importorskip("algotom")
    values = 1e-4 * np.random.default_rng(0).standard_normal((60, 90))
    values[:20, 30:60] += 1
    with pytest.raises(UserError, match=r"data\.rings=fitting: changes the line integrals by"):
        without_rings(values, "fitting")
