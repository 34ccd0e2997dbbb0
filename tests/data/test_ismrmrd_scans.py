"""ISMRMRD scans as vendors' converters write them, from file to measurements."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from equipoise.data.choice import Choice
from equipoise.data.formats import open_path
from equipoise.data.load import load_dataset
from equipoise.data.scan import Scan
from equipoise.data.settings import AutoSettings
from equipoise.errors import UserError
from equipoise.imaging.settings import MRISettings

from .formats.make import DATA, ismrmrd_header, real_data
from .formats.test_ismrmrd import CALIBRATION
from .scanners import complex_noise, head, root_sum_of_squares, to_kspace

ismrmrd = pytest.importorskip("ismrmrd")
pytest.importorskip("sigpy")

COILS, ROWS, COLUMNS = 4, 48, 64
EVERY = range(ROWS)
#: Noise that the coils share.
MIXING = 0.02 * (np.eye(COILS) + 0.6 * np.eye(COILS, k=-1) + 0.3j * np.eye(COILS, k=-2))
COVARIANCE = MIXING @ MIXING.conj().T


def kspace(seed: int | None = 0, scale: float = 1.0) -> np.ndarray:
    """(coils, rows, columns), rows the phase encodings; ``seed`` of the noise, none: without."""
    k = to_kspace(head(COILS, ROWS, COLUMNS))
    if seed is not None:
        k = k + complex_noise(k.shape, MIXING, seed)
    return scale * k


class Scanner:
    """Writes lines one by one."""

    def __init__(self, path: Path, header: str):
        self.dataset = ismrmrd.Dataset(str(path), "dataset")
        self.dataset.write_xml_header(header.encode())

    def __enter__(self) -> Scanner:
        return self

    def __exit__(self, *_: object) -> None:
        self.dataset.close()

    def line(self, samples: np.ndarray, row: int, flag: int | None = None, **idx: int) -> None:
        line = ismrmrd.Acquisition.from_array(np.ascontiguousarray(samples, np.complex64))
        line.idx.kspace_encode_step_1 = row
        line.center_sample = idx.pop("center", samples.shape[-1] // 2)
        line.sample_time_us = idx.pop("dwell", 0.0)
        for name, value in idx.items():
            setattr(line.idx, name, value)
        if flag is not None:
            line.setFlag(flag)
        self.dataset.append_acquisition(line)

    def noise(self, mixing: np.ndarray, count: int = 40, dwell: float = 0.0) -> None:
        for k in range(count):
            samples = complex_noise((COILS, COLUMNS), mixing, 100 + k)
            self.line(samples, 0, ismrmrd.ACQ_IS_NOISE_MEASUREMENT, center=0, dwell=dwell)


LIMITS = (
    "<encodingLimits><kspace_encoding_step_1><minimum>{0}</minimum><maximum>{1}</maximum><center>"
    "{2}</center></kspace_encoding_step_1></encodingLimits>"
)


def header(limits: tuple[int, int, int] = (0, ROWS - 1, ROWS // 2), more: str = "") -> str:
    plain = ismrmrd_header(COLUMNS, ROWS, more=more)
    return plain.replace("<encodingLimits/>", LIMITS.format(*limits))


def load(path: Path, **settings):
    scan = Scan.planned(MRISettings(**{"acceleration": 2.0, "center": 0.4, **settings}), 64)
    return load_dataset(AutoSettings(path=path), scan)


def mask_of(dataset) -> np.ndarray:
    """(phase,) which lines are used."""
    plane: torch.Tensor = dataset.scan.physics.mask.flatten(0, -3)[0]
    assert bool((plane == plane[:1]).all())
    return plane[0].numpy() > 0


def test_repetitions_are_averaged_or_chosen_and_said(tmp_path):
    with Scanner(tmp_path / "r.h5", header()) as scan:
        for repetition in range(4):
            k = kspace(seed=repetition)
            for row in EVERY:
                scan.line(k[:, row], row, repetition=repetition)
    (item,) = open_path(tmp_path / "r.h5")
    wanted = np.mean([kspace(seed=r) for r in range(4)], 0).swapaxes(1, 2)
    assert np.abs(item.array() - wanted).max() < 1e-5
    assert item.notes == (
        "r.h5: 4 repetitions are averaged; set data.repetition to one of 0 … 3 for one of them",
    )
    choice = AutoSettings(path=tmp_path / "r.h5", repetition=2).choice
    (item,) = open_path(tmp_path / "r.h5", choice=choice)
    assert np.abs(item.array() - kspace(seed=2).swapaxes(1, 2)).max() < 1e-5
    assert item.notes == ()
    choice = AutoSettings(path=tmp_path / "r.h5", repetition=7).choice
    with pytest.raises(UserError, match=r"data.repetition=7: there are repetitions \[0, 1, 2, 3\]"):
        open_path(tmp_path / "r.h5", choice=choice)


@pytest.mark.parametrize("name", ["contrast", "phase", "set"])
def test_contrasts_are_asked_for(tmp_path, name):
    with Scanner(tmp_path / "c.h5", header()) as scan:
        for value in (0, 1):
            k = kspace(seed=value)
            for row in EVERY:
                scan.line(k[:, row], row, **{name: value})
    with pytest.raises(UserError, match=f"2 contrasts, phases or sets; set data.{name} to one of"):
        open_path(tmp_path / "c.h5")
    choice = AutoSettings(path=tmp_path / "c.h5", **{name: 1}).choice
    (item,) = open_path(tmp_path / "c.h5", choice=choice)
    assert np.abs(item.array() - kspace(seed=1).swapaxes(1, 2)).max() < 1e-5


def test_a_choice_that_a_format_does_not_know_is_refused(tmp_path):
    with Scanner(tmp_path / "a.h5", header()) as scan:
        scan.line(kspace()[:, 0], 0)
    choice = AutoSettings(path=tmp_path / "a.h5", volume=1).choice
    with pytest.raises(UserError, match=r"is ISMRMRD, and data.volume applies to NIfTI"):
        open_path(tmp_path / "a.h5", choice=choice)


def test_a_plausible_noise_scan_whitens(tmp_path):
    """The noise of the model's measurements is white, and as strong as the scan says."""
    k = kspace()
    keep = [row for row in EVERY if row % 2 == 0 or abs(row - ROWS // 2) < 8]
    with Scanner(tmp_path / "n.h5", header(more=CALIBRATION["embedded"])) as scan:
        scan.noise(MIXING)
        for row in keep:
            scan.line(k[:, row], row)
    (item,) = open_path(tmp_path / "n.h5")
    assert np.abs(item.kspace.noise - COVARIANCE).max() < 0.1 * COVARIANCE.real.max()
    dataset = load(tmp_path / "n.h5")
    assert any("whitened by its noise scan" in note for note in dataset.notes)
    assert int(mask_of(dataset).sum()) == len(keep)
    # What of y the clean k-space does not explain is noise.
    with Scanner(tmp_path / "clean.h5", header(more=CALIBRATION["embedded"])) as scan:
        for row in keep:
            scan.line(kspace(seed=None)[:, row], row)
    (clean,) = open_path(tmp_path / "clean.h5")
    scale = dataset.scan.kspace.scale
    L = np.linalg.cholesky(dataset.scan.kspace.covariance.numpy().astype(complex))
    white = np.linalg.solve(L, clean.array().reshape(COILS, -1)) / scale
    y = torch.view_as_complex(dataset.y[0].movedim(0, -1).contiguous()).reshape(COILS, -1)
    noise = y.numpy() - white
    noise = noise[:, np.abs(noise).max(0) > 0]
    found = noise @ noise.conj().T / noise.shape[1]
    assert np.abs(found / (2 * dataset.scan.noise**2) - np.eye(COILS)).max() < 0.1


def test_the_bandwidth_of_the_noise_scan_counts(tmp_path):
    """Sampled half as fast, its noise has half the variance."""
    k = kspace()
    with Scanner(tmp_path / "n.h5", header()) as scan:
        scan.noise(MIXING / np.sqrt(2), dwell=10.0)
        for row in EVERY:
            scan.line(k[:, row], row, dwell=5.0)
    (item,) = open_path(tmp_path / "n.h5")
    assert np.abs(item.kspace.noise - COVARIANCE).max() < 0.1 * COVARIANCE.real.max()


def test_what_is_averaged_has_less_noise(tmp_path):
    """The mean of four repetitions has a quarter of the variance; one of them has all of it."""
    with Scanner(tmp_path / "n.h5", header()) as scan:
        scan.noise(MIXING)
        for repetition in range(4):
            k = kspace(seed=repetition)
            for row in EVERY:
                scan.line(k[:, row], row, repetition=repetition)
    (item,) = open_path(tmp_path / "n.h5")
    assert np.abs(item.kspace.noise - COVARIANCE / 4).max() < 0.03 * COVARIANCE.real.max()
    (item,) = open_path(tmp_path / "n.h5", choice=Choice(repetition=1))
    assert np.abs(item.kspace.noise - COVARIANCE).max() < 0.1 * COVARIANCE.real.max()


@pytest.mark.parametrize("scale", [1e-3, 100.0])
def test_an_implausible_noise_scan_is_said_and_not_used(tmp_path, scale):
    k = kspace()
    with Scanner(tmp_path / "n.h5", header()) as scan:
        scan.noise(scale * MIXING)
        for row in EVERY:
            scan.line(k[:, row], row)
    with_it = load(tmp_path / "n.h5")
    assert any("its noise scan is not used" in note for note in with_it.notes)
    with Scanner(tmp_path / "o.h5", header()) as scan:
        for row in EVERY:
            scan.line(k[:, row], row)
    assert torch.equal(with_it.y, load(tmp_path / "o.h5").y)


def test_separate_calibration_tells_the_coils_and_nothing_else(tmp_path):
    """Every second line, none of them fully sampled in the centre, and a scan that is brighter."""
    k = kspace()
    with Scanner(tmp_path / "s.h5", header(more=CALIBRATION["separate"])) as scan:
        for row in range(ROWS // 2 - 12, ROWS // 2 + 12):
            scan.line(3 * k[:, row], row, ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)
        for row in range(0, ROWS, 2):
            scan.line(k[:, row], row)
    dataset = load(tmp_path / "s.h5")
    assert np.array_equal(mask_of(dataset), np.arange(ROWS) % 2 == 0)
    maps = dataset.scan.physics.coil_maps[0].numpy()
    # Where there is signal, the maps are those of the coils, up to a phase that they share.
    seen = head(COILS, ROWS, COLUMNS).swapaxes(1, 2)
    L = np.linalg.cholesky(dataset.scan.kspace.covariance.numpy().astype(complex))
    white = np.linalg.solve(L, seen.reshape(COILS, -1)).reshape(seen.shape)
    strength = root_sum_of_squares(white)
    there = strength > 0.3 * strength.max()
    agreement = np.abs((maps.conj() * white).sum(0)) / np.maximum(strength, 1e-9)
    assert np.median(agreement[there]) > 0.97


@pytest.mark.parametrize("first", [0, 12])
def test_partial_fourier_is_not_padding(tmp_path, first):
    """A side that was left out is a gap, so that nothing is left out beside it."""
    rows = range(first, ROWS) if first else range(ROWS - 12)
    limits = (0, len(rows) - 1, ROWS // 2 - first)
    k = kspace()
    with Scanner(tmp_path / "p.h5", header(limits)) as scan:
        for number, row in enumerate(rows):
            scan.line(k[:, row], number)
    dataset = load(tmp_path / "p.h5")
    assert np.flatnonzero(mask_of(dataset)).tolist() == list(rows)
    assert not any("fully sampled" in note for note in dataset.notes)
    side = "first" if first else "last"
    said = f"partial Fourier: the 12 {side} of 48 phase encodings"
    assert any(said in note for note in dataset.notes), dataset.notes


def test_zero_padding_is_not_partial_fourier(tmp_path):
    """Ten lines on each side of the matrix have no number."""
    k = kspace()
    rows = range(10, ROWS - 10)
    with Scanner(tmp_path / "z.h5", header((0, len(rows) - 1, ROWS // 2 - 10))) as scan:
        for number, row in enumerate(rows):
            scan.line(k[:, row], number)
    dataset = load(tmp_path / "z.h5")
    assert any("zero padding" in note for note in dataset.notes)
    assert any("k-space is fully sampled" in note for note in dataset.notes)
    used = np.flatnonzero(mask_of(dataset))
    assert len(used) == len(rows) // 2
    assert set(used.tolist()) <= set(rows)


def test_lines_that_are_zero_were_measured(tmp_path):
    """A line that has a header is a measured line, whatever its values."""
    k = kspace()
    k[:, 5] = 0
    with Scanner(tmp_path / "a.h5", header(more=CALIBRATION["embedded"])) as scan:
        for row in (*range(0, 12, 5), *range(12, 36), *range(36, ROWS, 3)):
            scan.line(k[:, row], row)
    dataset = load(tmp_path / "a.h5")
    assert mask_of(dataset)[5]


def test_slices_and_their_positions(tmp_path):
    k = kspace()
    with Scanner(tmp_path / "m.h5", header()) as scan:
        for number in range(3):
            for row in EVERY:
                scan.line((1 + number) * k[:, row], row, slice=number)
    dataset = load(tmp_path / "m.h5")
    assert [item.index for item in dataset.items] == [0, 1, 2]
    tops = dataset.truth.square().sum(1).sqrt().flatten(1).amax(1)
    assert float(tops[2] / tops[0]) == pytest.approx(3, rel=0.02)  # of one scan, one scale


def test_stored_positions_say_where_lines_lie(tmp_path):
    """As MRIReco.jl writes them; lines that turn are refused."""
    k = kspace()
    dataset = ismrmrd.Dataset(str(tmp_path / "t.h5"), "dataset")
    dataset.write_xml_header(ismrmrd_header(COLUMNS, ROWS, recon=None).encode())
    along = (np.arange(COLUMNS) - COLUMNS // 2) / COLUMNS
    for row in EVERY:
        across = np.full(COLUMNS, (row - ROWS // 2) / ROWS)
        trajectory = np.stack([along, across], -1).astype(np.float32)
        line = ismrmrd.Acquisition.from_array(k[:, row].astype(np.complex64), trajectory)
        dataset.append_acquisition(line)  # its counter stays 0, and so does its centre
    dataset.close()
    (item,) = open_path(tmp_path / "t.h5")
    assert np.abs(item.array() - k.swapaxes(1, 2)).max() < 1e-5
    dataset = ismrmrd.Dataset(str(tmp_path / "u.h5"), "dataset")
    dataset.write_xml_header(ismrmrd_header(COLUMNS, ROWS).encode())
    for row in EVERY:
        angle = np.pi * row / ROWS
        trajectory = np.stack([np.cos(angle) * along, np.sin(angle) * along], -1)
        line = ismrmrd.Acquisition.from_array(
            k[:, row].astype(np.complex64), trajectory.astype(np.float32)
        )
        dataset.append_acquisition(line)
    dataset.close()
    with pytest.raises(UserError, match="it is not Cartesian"):
        open_path(tmp_path / "u.h5")


@real_data
def test_the_grappa_scan_uses_all_its_lines_and_not_its_noise_scan():
    dataset = load(DATA / "scanner" / "grappa2_1rep.h5")
    assert int(mask_of(dataset).sum()) == 142
    assert any("its noise scan is not used: 0.0727 rms" in note for note in dataset.notes)
    assert not any("fully sampled" in note for note in dataset.notes)
