"""From files to a data set, in memory or streamed, and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from equipoise.data.formats import open_path, write_images
from equipoise.data.item import HOUNSFIELD
from equipoise.data.load import _as_the_scan_sees, load_dataset, phantom_items
from equipoise.data.pick import images_of, sequences_of
from equipoise.data.scan import Scan, native_images
from equipoise.data.settings import (
    AutoSettings,
    ImageSettings,
    MeasurementSettings,
    PhantomSettings,
)
from equipoise.errors import UserError
from equipoise.imaging.settings import (
    CustomSettings,
    DynamicMRISettings,
    MRISettings,
    ParallelBeamSettings,
)

from .formats.make import complex_array, hounsfield, make_dicom, make_nifti, read
from .formats.test_nifti import head_in_hounsfield

SIZE = 16


@pytest.fixture(scope="module")
def ct() -> Scan:
    return Scan.planned(ParallelBeamSettings(angles=10, noise=0.05), SIZE)


@pytest.fixture(scope="module")
def mri() -> Scan:
    return Scan.planned(MRISettings(acceleration=2, noise=0.05), SIZE)


def in_memory(dataset) -> torch.Tensor:
    return dataset.batch(torch.arange(len(dataset))).y


def save_images(folder, count: int = 5) -> None:
    np.save(folder / "images.npy", np.random.default_rng(0).random((count, SIZE, SIZE)))


def test_identical_slices_are_noticed(tmp_path, ct):
    for name in "ab":
        make_dicom(tmp_path / f"{name}.dcm", hounsfield() + 1024)
    dataset = load_dataset(ImageSettings(path=tmp_path, size=SIZE), ct)
    assert dataset.truth.shape == (2, 1, SIZE, SIZE)
    assert dataset.notes == ["b.dcm is identical to a.dcm"]


OWN_OPERATOR = """
import torch
from deepinv.physics import Blur, GaussianNoise

def physics(size):
    noise = {noise}
    mean = torch.ones(1, 1, 3, 3) / 9
    return Blur(filter={gain} * mean, padding="circular", noise_model=noise)
"""


@pytest.mark.parametrize("gain", [1, 3])
@pytest.mark.parametrize("holds", ["images", "measurements"])
def test_noise_that_an_operator_of_ones_own_brings_is_not_used_and_that_is_said(
    tmp_path, holds, gain
):
    save_images(tmp_path)
    settings = {"images": ImageSettings, "measurements": MeasurementSettings}[holds]
    data = settings(path=tmp_path / "images.npy", size=SIZE)
    said = {}
    for noise in ("GaussianNoise(0.3)", "None"):
        file = tmp_path / "own.py"
        file.write_text(OWN_OPERATOR.format(noise=noise, gain=gain))
        scan = Scan.planned(CustomSettings(file=file, noise=0.02), SIZE)
        said[noise] = load_dataset(data, scan).notes
    words = " ".join(said["GaussianNoise(0.3)"])
    assert "own.py: the GaussianNoise of this operator is not used" in words
    assert "physics.noise=0.02" in words
    assert "is not used" not in " ".join(said["None"])


@pytest.mark.parametrize("kind", ["ct", "mri", "photons", "sequences"])
@pytest.mark.parametrize("seed", [0, 7])
def test_streamed_data_are_those_in_memory(tmp_path, ct, mri, kind, seed):
    """To the bit: phase, measurement and noise."""
    scan = {
        "ct": ct,
        "mri": mri,
        "photons": Scan.planned(ParallelBeamSettings(angles=10, photons=1e3), SIZE),
        "sequences": Scan.planned(DynamicMRISettings(frames=2, acceleration=2), SIZE),
    }[kind]
    save_images(tmp_path)
    data = ImageSettings(path=tmp_path, size=SIZE)
    once = load_dataset(data, scan, seed)
    streamed = load_dataset(data, scan, seed, stream=True)
    assert streamed.streamed
    assert streamed.scan.noise == once.scan.noise
    assert torch.equal(in_memory(streamed), once.y)
    assert torch.equal(streamed.some(torch.tensor([1, 0])).y, once.y[[1, 0]])


@pytest.mark.parametrize("kind", ["ct", "mri"])
def test_nothing_random_is_shared_by_items_or_seeds(tmp_path, ct, mri, kind):
    """The same image everywhere, so that what differs is noise and phase."""
    scan = {"ct": ct, "mri": mri}[kind]
    image = np.random.default_rng(0).random((SIZE, SIZE))
    np.save(tmp_path / "images.npy", np.stack([image] * 3))
    data = ImageSettings(path=tmp_path, size=SIZE)
    for stream in (False, True):
        parts = [in_memory(load_dataset(data, scan, seed, stream=stream)) for seed in range(3)]
        flat = torch.cat(parts).flatten(1)
        distances = torch.cdist(flat, flat) + torch.eye(len(flat)) * 1e3
        assert float(distances.min()) > 1e-3 * float(flat.norm(dim=1).mean())


def test_complex_images_bring_their_phase(tmp_path, ct, mri):
    volume = complex_array(SIZE, SIZE, 3)
    make_nifti(tmp_path / "v.nii", volume)
    dataset = load_dataset(AutoSettings(path=tmp_path, size=SIZE), mri)
    scale = dataset.items[0].units.scale
    wanted = np.moveaxis(volume, -1, 0) / scale
    assert np.abs(dataset.truth.numpy() - np.stack([wanted.real, wanted.imag], 1)).max() < 1e-6
    with pytest.raises(UserError, match="holds complex images, but this operator takes real ones"):
        load_dataset(AutoSettings(path=tmp_path, size=SIZE), ct)
    make_nifti(tmp_path / "w.nii", np.abs(volume))
    with pytest.raises(UserError, match=r"v.nii: holds complex images, and w.nii real ones"):
        load_dataset(AutoSettings(path=tmp_path, size=SIZE), mri)


def test_nifti_in_hounsfield_units(tmp_path, ct):
    make_nifti(tmp_path / "v.nii", head_in_hounsfield())
    dataset = load_dataset(AutoSettings(path=tmp_path, size=SIZE), ct)
    wanted = (np.clip(head_in_hounsfield(), -1000, 1000) + 1000) / 2000
    found = dataset.truth[:, 0].numpy()
    assert np.abs(found - np.moveaxis(wanted, -1, 0)).max() < 1e-6
    assert "taken for Hounsfield units" in dataset.notes[0]


def test_units_are_asked_for_where_nothing_says_them(tmp_path, ct):
    np.save(tmp_path / "a.npy", 4000 * np.random.default_rng(0).random((2, SIZE, SIZE)))
    with pytest.raises(UserError, match=r"data\.units=4095"):
        load_dataset(ImageSettings(path=tmp_path, size=SIZE), ct)
    data = ImageSettings(path=tmp_path, size=SIZE, units=4000)
    assert 0.9 < float(load_dataset(data, ct).truth.max()) <= 1
    # Of a run on measurements too: what is validated on.
    measured = MeasurementSettings(path=tmp_path, size=SIZE, units="magnitude")
    make_nifti(tmp_path / "v.nii", np.clip(head_in_hounsfield(), -160, 240) + 160)
    validation = load_dataset(measured, ct, path=tmp_path / "v.nii")
    assert validation.items[0].units.scale == pytest.approx(400)


def test_options_that_would_be_ignored_are_refused(tmp_path, ct):
    make_nifti(tmp_path / "v.nii", head_in_hounsfield())
    with pytest.raises(UserError, match=r"holds images, and data.peak=2 applies to measurements"):
        load_dataset(AutoSettings(path=tmp_path, size=SIZE, peak=2), ct)
    np.save(tmp_path / "y.npy", np.zeros(ct.measurement_shape))
    with pytest.raises(
        UserError, match=r"holds measurements, and data.units=hounsfield applies to images"
    ):
        load_dataset(AutoSettings(path=tmp_path / "y.npy", size=SIZE, units="hounsfield"), ct)


def test_sequences_go_back_in_their_own_units_and_format(tmp_path):
    scan = Scan.planned(DynamicMRISettings(frames=2, acceleration=2), SIZE)
    (tmp_path / "in").mkdir()
    for k in range(5):
        make_dicom(tmp_path / "in" / f"{k}.dcm", hounsfield(k) + 1024, z=k)
    dataset = load_dataset(ImageSettings(path=tmp_path / "in", size=SIZE), scan)
    assert [item.name for item in dataset.items] == ["0.dcm", "2.dcm"]
    assert dataset.notes == ["1 images at the end make no whole sequence and are left out"]
    native = native_images(dataset.truth, dataset.items)
    assert native.shape == (2, 2, SIZE, SIZE)
    wanted = np.stack([hounsfield(k) for k in range(4)])
    assert np.abs(native.reshape(4, SIZE, SIZE) - wanted).max() < 1e-3 * 2000
    paths = write_images(dataset.items, native, tmp_path / "out")
    assert [path.name for path in paths] == [f"{k}.dcm" for k in range(4)]
    assert np.abs(read(tmp_path / "out") - wanted).max() <= 0.5 + 1e-3 * 2000
    assert dataset.items[0].units == HOUNSFIELD


def test_sequences_of_arrays_are_arrays(tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((4, SIZE, SIZE)))
    sequences, notes = sequences_of(images_of(open_path(tmp_path)), 2)
    assert notes == []
    stacks = np.stack([item.array() for item in sequences])
    paths = write_images(sequences, stacks, tmp_path / "out")
    assert [np.load(path).shape for path in paths] == [(2, SIZE, SIZE)] * 2


def test_sequences_are_of_one_series(tmp_path):
    for k in range(3):
        make_nifti(
            tmp_path / f"{k}.nii", (k + 1) * np.random.default_rng(k).random((SIZE, SIZE, 3))
        )
    sequences, notes = sequences_of(images_of(open_path(tmp_path)), 2)
    assert [item.patient for item in sequences] == ["0", "1", "2"]
    assert notes == ["3 images at the end make no whole sequence and are left out"]
    with pytest.raises(UserError, match="9 images, but a sequence has 4 frames"):
        sequences_of(images_of(open_path(tmp_path)), 4)


def test_two_kernels_of_one_scan_do_not_straddle_the_split(tmp_path, ct):
    """None of the held-out places is trained on in the other series."""
    for kernel in range(2):
        for k in range(20):
            make_dicom(
                tmp_path / f"{kernel}-{k:02d}.dcm",
                hounsfield(k) + 1024 + kernel,
                z=2.0 * k,
                StudyInstanceUID="1.2",
                FrameOfReferenceUID="1.3",
                SeriesInstanceUID=f"1.4.{kernel}",
            )
    dataset = load_dataset(ImageSettings(path=tmp_path, size=SIZE), ct)
    training, held = dataset.hold_out(0.2)
    assert len(held) == 8
    places = {item.position for item in held.items}
    assert len(places) == 4
    assert min(abs(item.position - p) for item in training.items for p in places) > 6
    assert len(training) == 2 * (20 - 4 - 6)


def test_phantoms(ct):
    dataset = load_dataset(PhantomSettings(count=3, size=SIZE), ct)
    assert dataset.names == ["phantom_000", "phantom_001", "phantom_002"]
    assert len(set(dataset.patients)) == 3


def test_measurements_in_memory_and_streamed(tmp_path, ct):
    """As the scanner wrote them, times what makes ‖A‖ = 1, over the value that counts as 1."""
    y = np.random.default_rng(0).random((40, *ct.measurement_shape)).astype(np.float32)
    np.save(tmp_path / "y.npy", y)
    data = AutoSettings(path=tmp_path, size=SIZE, peak=2.0)
    once = load_dataset(data, ct)
    assert np.allclose(once.y.numpy(), y * ct.gain / 2, rtol=1e-6)
    assert once.truth is None
    assert once.scan.noise == pytest.approx(0.05 * float(once.y.max()))
    streamed = load_dataset(data, ct, stream=True)
    assert torch.equal(in_memory(streamed), once.y)
    assert streamed.scan.noise == pytest.approx(once.scan.noise, rel=0.05)
    assert len(streamed) == 40


def test_the_noise_of_a_run_is_that_of_other_measurements(tmp_path, ct):
    """Of one scanner, whatever else lies in the folder."""
    y = np.random.default_rng(0).random((2, *ct.measurement_shape)).astype(np.float32)
    y[1] *= 50
    np.save(tmp_path / "y.npy", y)
    data = AutoSettings(path=tmp_path / "none", size=SIZE)
    found = load_dataset(data, ct.with_noise(0.3), path=tmp_path / "y.npy")
    assert found.scan.noise == 0.3
    assert found.scan.physics.noise_model.sigma == pytest.approx(0.3)


def test_what_other_files_hold_is_seen_in_them(tmp_path, ct):
    """``data.kind`` is about ``data.path``; arrays elsewhere could be either, DICOM could not."""
    np.save(tmp_path / "y.npy", np.random.default_rng(0).random((SIZE, SIZE)))
    make_dicom(tmp_path / "a.dcm", hounsfield() + 1024)
    measured = MeasurementSettings(path=tmp_path / "none", size=SIZE)
    image = ImageSettings(path=tmp_path / "none", size=SIZE)
    assert load_dataset(measured, ct, path=tmp_path / "a.dcm").truth is not None
    assert load_dataset(image, ct, path=tmp_path / "y.npy").truth is not None
    with pytest.raises(UserError, match="does not fit the geometry"):
        load_dataset(measured, ct, path=tmp_path / "y.npy")


def test_a_sinogram_is_one_in_a_run_on_images_too(tmp_path):
    """The files to reconstruct are known by their shape where a format could hold either."""
    scan = Scan.planned(ParallelBeamSettings(angles=6), 16)
    np.save(tmp_path / "image.npy", np.random.default_rng(0).random((16, 16)))
    np.save(tmp_path / "sinograms.npy", np.ones((2, *scan.measurement_shape[1:])))
    data = ImageSettings(path=tmp_path / "image.npy", size=16)
    assert load_dataset(data, scan).truth is not None
    elsewhere = load_dataset(data, scan, path=tmp_path / "sinograms.npy")
    assert elsewhere.truth is None
    assert elsewhere.measurements().shape == (2, *scan.measurement_shape)
    assert load_dataset(data, scan, path=tmp_path / "image.npy").truth is not None


def test_a_phase_leaves_the_magnitude(mri):
    images = torch.rand(3, 1, SIZE, SIZE)
    turned = _as_the_scan_sees(images, mri, seed=0, first=0)
    assert turned.shape == (3, 2, SIZE, SIZE)
    assert torch.allclose(turned.square().sum(1, keepdim=True).sqrt(), images, atol=1e-6)
    assert float(turned[:, 1].abs().amax((1, 2)).min()) > 0.05


@pytest.mark.parametrize("size", [(16, 24), (25, 16), (16, 19)])
def test_phantoms_stand_in_the_middle_of_what_is_not_square(size):
    settings = ParallelBeamSettings(angles=4)
    scan = Scan.planned(settings, size)
    side = min(size)
    wide = phantom_items(2, size, 3, scan)
    square = phantom_items(2, side, 3, Scan.planned(settings, side))
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    for a, b in zip(wide, square, strict=True):
        image = a.array()
        assert image.shape == size
        assert np.array_equal(image[top : top + side, left : left + side], b.array())
        assert image.sum() == pytest.approx(b.array().sum())
