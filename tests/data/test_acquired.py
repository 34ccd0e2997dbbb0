"""Real acquisitions: every line that was measured is used."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from equipoise.data.acquired import _is_fully_sampled
from equipoise.data.load import load_dataset
from equipoise.data.scan import Scan
from equipoise.data.settings import AutoSettings
from equipoise.errors import UserError
from equipoise.imaging.mri import birdcage, estimate_coils
from equipoise.imaging.phantoms import phantoms
from equipoise.imaging.settings import MRISettings

from .formats.make import DATA, real_data

pytest.importorskip("sigpy")

SIZE = 64
COLUMNS = torch.arange(SIZE)


def kspace(coils: int = 4, sigma: float = 1e-3) -> torch.Tensor:
    """(coils, rows, columns) of a head, with noise."""
    rng = torch.Generator().manual_seed(0)
    image = phantoms(1, SIZE, 5, ("brain",))[0, 0]
    shares = birdcage(coils, SIZE, SIZE) * image
    dims = (-2, -1)
    centred = torch.fft.ifftshift(shares, dims)
    samples = torch.fft.fftshift(torch.fft.fft2(centred, norm="ortho"), dims)
    noise = torch.randn(2, *samples.shape, generator=rng)
    return samples + sigma * torch.complex(*noise)


def load(tmp_path, samples: torch.Tensor, **settings):
    np.save(tmp_path / "k.npy", samples.numpy())
    scan = Scan.planned(MRISettings(**{"acceleration": 4.0, **settings}), SIZE)
    return load_dataset(AutoSettings(path=tmp_path / "k.npy"), scan)


def lines_used(dataset) -> int:
    return int(dataset.y.flatten(0, -2).any(0).sum())


def test_all_measured_lines_are_used(tmp_path):
    """57 of 256 lines are 57 lines, not the 32 that a mask of ours would leave of them."""
    keep = ((COLUMNS % 5 == 0) | ((COLUMNS - 32).abs() < 6)).float()
    dataset = load(tmp_path, kspace() * keep)
    assert lines_used(dataset) == int(keep.sum())
    assert float(dataset.scan.physics.mask.mean()) == pytest.approx(float(keep.mean()))
    assert not any("undersampled" in note for note in dataset.notes)


def test_the_noise_is_that_of_each_part(tmp_path):
    """Far from the centre, where there is nothing but noise, real and imaginary part have the
    standard deviation that the scan says."""
    keep = ((COLUMNS % 2 == 0) | ((COLUMNS - 32).abs() < 6)).float()
    dataset = load(tmp_path, kspace(sigma=0.05) * keep)
    rows, columns = torch.meshgrid(COLUMNS - 32, COLUMNS - 32, indexing="ij")
    far = (rows**2 + columns**2 > 38**2) & (keep > 0)
    for part in dataset.y[0]:
        assert float(part[:, far].std()) == pytest.approx(dataset.scan.noise, rel=0.05)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    ("name", "keep", "full"),
    [
        ("all", COLUMNS >= 0, True),
        ("padded", (COLUMNS >= 8) & (COLUMNS < 56), True),
        ("padded, odd", (COLUMNS >= 8) & (COLUMNS < 57), True),
        ("every second", COLUMNS % 2 == 0, False),
        ("one line is missing", COLUMNS != 20, False),
        ("the second line is missing", COLUMNS != 1, False),
        ("the last line but one is missing", COLUMNS != SIZE - 2, False),
        ("two lines are missing", (COLUMNS != 20) & (COLUMNS != 50), False),
        ("partial Fourier", COLUMNS >= 8, False),
        ("partial Fourier, other side", COLUMNS < 44, False),
        ("padded, and a line is missing", (COLUMNS >= 8) & (COLUMNS < 56) & (COLUMNS != 30), False),
    ],
)
def test_padding_is_told_from_gaps(axis, name, keep, full):
    plane = keep.float().expand(SIZE, SIZE)
    assert _is_fully_sampled(plane if axis == 1 else plane.T) == full


def test_some_zeros_are_no_gap():
    plane = torch.ones(SIZE, SIZE)
    plane[torch.rand(SIZE, SIZE, generator=torch.Generator().manual_seed(0)) < 0.02] = 0
    assert _is_fully_sampled(plane)


def test_full_kspace_is_undersampled_as_configured(tmp_path):
    dataset = load(tmp_path, kspace())
    assert lines_used(dataset) == SIZE // 4
    assert "k-space is fully sampled; undersampled 4-fold by physics.mask" in dataset.notes


def test_coils_that_add_nothing_are_named(tmp_path):
    samples = kspace()
    samples[2] = 0
    with pytest.raises(
        UserError, match=r"of 4 coils, number 2 \(counted from 0\) measured nothing"
    ):
        load(tmp_path, samples)
    samples = kspace()
    samples[3] = 2 * samples[1]
    with pytest.raises(UserError, match=r"coils 1 and 3 \(counted from 0\) measured the same"):
        load(tmp_path, samples)
    with pytest.raises(UserError, match=r"k.npy, k: k-space is zero everywhere"):
        load(tmp_path, 0 * samples)


@pytest.mark.parametrize("place", [1, 2])
def test_coils_behind_an_axis_of_the_image_are_told(tmp_path, place):
    with pytest.raises(UserError, match=r"64 coils are more than .*numpy.moveaxis\(kspace"):
        load(tmp_path, kspace().movedim(0, place))


@real_data
def test_a_real_undersampled_acquisition():
    scan = Scan.planned(MRISettings(), SIZE)
    dataset = load_dataset(AutoSettings(path=DATA / "mri" / "brain_8coil_kspace.npy"), scan)
    assert dataset.notes[1].startswith("12.4% of k-space is measured")
    assert float(dataset.scan.physics.mask.mean()) == pytest.approx(0.124, abs=1e-3)


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize(
    ("axes", "place"),
    [
        ((-2, -1), r"in the corner, .*axes=\(-2, -1\)"),
        ((-2,), r"at the ends of the columns .*axes=\(-2,\)"),
        ((-1,), r"at the ends of the rows .*axes=\(-1,\)"),
    ],
)
def test_k_space_that_was_not_shifted_is_told(tmp_path, step, axes, place):
    keep = ((COLUMNS % step == 0) | ((COLUMNS - 32).abs() < 6)).float()
    samples = torch.fft.ifftshift(kspace() * keep, axes)
    with pytest.raises(UserError, match=place):
        load(tmp_path, samples)


def test_lines_that_some_coils_lack_are_told(tmp_path):
    samples = kspace()
    samples[1, :, ::2] = 0
    with pytest.raises(UserError, match="50% of what was measured is zero in some coils"):
        load(tmp_path, samples)


def test_files_of_other_scanners_have_noise_and_units_of_their_own(tmp_path):
    """Slices of one scan in a file each keep their brightness; what is a thousand times as bright
    is of another."""
    keep = ((COLUMNS % 2 == 0) | ((COLUMNS - 32).abs() < 6)).float()
    samples = kspace() * keep
    (tmp_path / "all").mkdir()
    for name, factor in (("a", 1.0), ("b", 0.7), ("c", 1000.0)):
        np.save(tmp_path / "all" / f"{name}.npy", (factor * samples).numpy())
    scan = Scan.planned(MRISettings(acceleration=4.0), SIZE)
    dataset = load_dataset(AutoSettings(path=tmp_path / "all"), scan)
    alone = load(tmp_path, samples)
    first, second, third = dataset.y
    assert torch.allclose(first, alone.y[0], rtol=0.02, atol=0.02 * float(alone.y.abs().max()))
    assert torch.allclose(second, 0.7 * first, atol=1e-3 * float(first.abs().max()))
    assert torch.allclose(third, alone.y[0], rtol=0.02, atol=0.02 * float(alone.y.abs().max()))
    assert any("taken as 2 scans" in note for note in dataset.notes)
    assert not any("taken as" in note for note in alone.notes)


@pytest.mark.parametrize("centre", [8, 9, 10, 11, 12, 16])
def test_coil_maps_are_there_from_eight_calibration_lines_on(tmp_path, centre):
    """Wherever there is an object, and not only from twelve lines on."""
    keep = ((COLUMNS % 3 == 1) | ((COLUMNS - 32 + centre // 2) % SIZE < centre)).float()
    dataset = load(tmp_path, kspace() * keep)
    maps = dataset.scan.physics.coil_maps[0]
    head = phantoms(1, SIZE, 5, ("brain",))[0, 0] > 0.15
    assert float((torch.linalg.vector_norm(maps, dim=0)[head] > 0.99).float().mean()) > 0.99
    found = estimate_coils(kspace() * keep)  # not whitened: the coils' own
    overlap = (found.conj() * birdcage(4, SIZE, SIZE)).sum(0).abs()[head]
    assert float(overlap.quantile(0.05)) > 0.97


def test_without_any_object_there_are_no_maps():
    with pytest.raises(UserError, match=r"no eigenvalue of ESPIRiT reaches 1.1.*calibration lines"):
        estimate_coils(kspace(), 16, crop=1.1)


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_numbers_that_single_precision_cannot_square_are_told(tmp_path, size):
    np.save(tmp_path / "k.npy", kspace().numpy().astype(complex) * size)
    scan = Scan.planned(MRISettings(), SIZE)
    with pytest.raises(UserError, match=r"the largest number .* is .*e.2.*by a power of ten"):
        load_dataset(AutoSettings(path=tmp_path / "k.npy"), scan)


def test_settings_that_real_kspace_does_not_use_are_told(tmp_path):
    keep = ((COLUMNS % 2 == 0) | ((COLUMNS - 32).abs() < 6)).float()
    said = load(tmp_path, kspace() * keep, coils=8, noise=0.2, mask="radial").notes
    (note,) = [text for text in said if "not used" in text]
    assert note.startswith("physics.noise=0.2, physics.coils=8, physics.mask=radial: not used")
    said = load(tmp_path, kspace(), noise=0.2, acceleration=2.0, center=0.2).notes
    (note,) = [text for text in said if "not used" in text]
    assert note.startswith("physics.noise=0.2: not used")
    assert not any("not used" in text for text in load(tmp_path, kspace(), center=0.2).notes)


def test_a_centre_that_was_not_measured_is_no_unshifted_one(tmp_path):
    samples = kspace()
    middle = samples.shape[-1] // 2
    samples[..., middle - 5 : middle + 6] = 0
    with pytest.raises(UserError, match=r"nothing was measured in the middle.*was not measured"):
        load(tmp_path, samples)


def test_what_arrays_of_complex_numbers_may_be_instead_is_told(tmp_path):
    samples = kspace()
    notes = "\n".join(load(tmp_path, samples).notes)
    assert "taken for 4 coils of one slice; if these are slices of one coil, save" in notes
    assert "set data.kind=images" not in notes
    assert "taken for" not in "\n".join(load(tmp_path, samples[None]).notes)
    images = torch.fft.fftshift(torch.fft.ifft2(samples), (-2, -1))
    notes = "\n".join(load(tmp_path, images[None]).notes)
    assert "1 of 1 slices do not look like k-space" in notes
    assert "set data.kind=images" in notes


def test_a_slice_of_too_few_lines_is_named(tmp_path):
    samples = kspace()
    lines = torch.zeros(samples.shape[-1])
    lines[samples.shape[-1] // 2] = 1
    with pytest.raises(UserError, match=r"k_?.*: of 1 measured line\(s\) none can be left out"):
        load(tmp_path, samples * lines)
