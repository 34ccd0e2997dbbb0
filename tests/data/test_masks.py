"""Images of which each is measured through a mask of its own (`physics.masks: each`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from equipoise.data.load import load_dataset
from equipoise.data.scan import Scan
from equipoise.data.settings import ImageSettings, MeasurementSettings, PhantomSettings
from equipoise.errors import UserError
from equipoise.imaging.settings import CustomSettings, DynamicMRISettings, MRISettings
from equipoise.imaging.splitting import split

SIZE = 24
SETTINGS = {
    "one coil": MRISettings(acceleration=3, noise=0.01, masks="each"),
    "coils": MRISettings(acceleration=3, noise=0.01, masks="each", coils=2),
    "radial": MRISettings(acceleration=3, noise=0.01, masks="each", mask="radial"),
    "sequences": DynamicMRISettings(acceleration=3, noise=0.01, masks="each", frames=2),
}


def planned(name: str, size: int = SIZE, seed: int = 0) -> Scan:
    return Scan.planned(SETTINGS[name], size, seed)


def phantoms(name: str, seed: int = 0, **options):
    data = PhantomSettings(size=SIZE, count=6, **options)
    return load_dataset(data, planned(name, seed=seed), seed=seed)


def masks_seen(y: torch.Tensor) -> torch.Tensor:
    """(N, …, rows, columns): where any channel or coil of a measurement is not zero."""
    seen = (y != 0).any(1)
    return seen.any(1) if y.ndim == 5 else seen


@pytest.mark.parametrize("name", SETTINGS)
def test_each_image_has_its_own_mask_and_its_operator_knows_it(name):
    dataset = phantoms(name)
    seen = masks_seen(dataset.y)
    assert not (seen[0] == seen[1]).all()
    for i in range(len(dataset)):
        y, physics, truth = dataset.batch(torch.tensor([i]))
        measured = physics.A(truth)
        assert torch.equal(masks_seen(measured), seen[i : i + 1])
        error = (y - measured).norm() / measured.norm()
        assert 0 < float(error) < 0.3  # nothing but noise


@pytest.mark.parametrize("name", SETTINGS)
def test_a_batch_is_its_images_one_by_one(name):
    """In float64, forward and back, in any order and repeated."""
    dataset = phantoms(name)
    index = torch.tensor([2, 0, 2, 1])
    physics = dataset.scan.double().select(index, len(dataset)).physics
    x = dataset.truth[index].double()
    y = physics.A(x)
    back = physics.A_adjoint(y)
    for place, i in enumerate(index.tolist()):
        alone = dataset.scan.double().select(torch.tensor([i]), len(dataset)).physics
        assert torch.allclose(alone.A(x[place : place + 1]), y[place : place + 1], atol=1e-12)
        assert torch.allclose(
            alone.A_adjoint(y[place : place + 1]), back[place : place + 1], atol=1e-12
        )
    inner = (y * y).sum()
    assert torch.allclose(inner, (back * x).sum(), rtol=1e-10)


def test_masks_follow_the_seed_and_the_place():
    one, same, other = (masks_seen(phantoms("one coil", seed).y) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", ["one coil", "coils"])
@pytest.mark.parametrize("size", [SIZE, "native"])
@pytest.mark.parametrize("simulate", ["same", "fine"])
def test_the_same_streamed_in_memory_of_one_size_or_many(tmp_path: Path, name, size, simulate):
    sides = (SIZE, 32) if size == "native" else (SIZE,)
    if simulate == "fine":
        sides = tuple(2 * side for side in sides)
    rng = np.random.default_rng(0)
    for i in range(4):
        side = sides[i % len(sides)]
        np.save(tmp_path / f"{i}.npy", rng.random((1, side, side)))
    if size == "native" and simulate == "fine":
        pytest.skip("a native size is the size that is measured: there is no finer image")
    settings = ImageSettings(path=tmp_path, size=size, simulate=simulate)
    scan = Scan.planned(SETTINGS[name], size, 0)
    at_once = load_dataset(settings, scan)
    streamed = load_dataset(settings, scan, stream=True)
    every = torch.arange(4)
    assert torch.equal(at_once.batch(every).y, streamed.batch(every).y)
    for i in range(4):
        y, physics, _ = at_once.own(torch.tensor([i]))
        y_too, physics_too, _ = streamed.own(torch.tensor([i]))
        assert torch.equal(y, y_too)
        again = physics.A(physics.A_adjoint(y))
        assert torch.equal(masks_seen(again), masks_seen(y))
        assert torch.equal(again, physics_too.A(physics_too.A_adjoint(y)))
    first, last = (masks_seen(at_once.own(torch.tensor([i])).y) for i in (1, 3))
    assert not torch.equal(first, last)


def test_what_is_held_out_keeps_its_masks():
    for part in phantoms("one coil").hold_out(0.4):
        for i in range(len(part)):
            y, physics, truth = part.batch(torch.tensor([i]))
            assert torch.equal(masks_seen(physics.A(truth)), masks_seen(y))


def test_a_split_leaves_lines_of_each_mask_out():
    dataset = phantoms("one coil")
    y, physics, _ = dataset.batch(torch.arange(6))
    parts = [split(physics, y, 3, k) for k in range(3)]
    for part in parts:
        assert torch.allclose(part.y + part.left_y, y)
        assert not (masks_seen(part.y) & masks_seen(part.left_y)).any()
    assert not torch.equal(masks_seen(parts[0].left_y)[0], masks_seen(parts[0].left_y)[1])


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("stream", [False, True])
def test_the_masks_of_measurements_are_what_is_not_zero(tmp_path: Path, name, stream):
    """So that what `simulate` writes can be trained on."""
    inside = phantoms(name)
    np.save(tmp_path / "y.npy", inside.y.numpy())
    settings = MeasurementSettings(path=tmp_path / "y.npy")
    outside = load_dataset(settings, planned(name), stream=stream)
    for i in range(len(inside)):
        y, _, truth = inside.batch(torch.tensor([i]))
        y_read, physics_read, _ = outside.batch(torch.tensor([i]))
        assert torch.allclose(y_read, y, rtol=1e-5)
        assert torch.equal(masks_seen(physics_read.A(truth)), masks_seen(y))


def test_k_space_of_nothing_is_an_error(tmp_path: Path):
    y = phantoms("coils").y
    y[1] = 0
    for i, one in enumerate(y):
        np.save(tmp_path / f"{i}.npy", one.numpy())
    with pytest.raises(UserError, match=r"1.npy: is zero everywhere"):
        load_dataset(MeasurementSettings(path=tmp_path), planned("coils"))


def test_an_operator_without_masks_is_not_tried_out_image_by_image(tmp_path: Path):
    """It measures each image once, alone."""
    (tmp_path / "own.py").write_text(OWN)
    scan = Scan.planned(CustomSettings(file=tmp_path / "own.py"), SIZE, 0)
    calls = scan.physics.calls
    calls.clear()
    streamed = load_dataset(PhantomSettings(size=SIZE, count=40), scan, stream=True)
    calls.clear()
    assert streamed.y[3].shape == (1, SIZE, SIZE)
    assert calls == [1]


OWN = """
import deepinv

class Own(deepinv.physics.LinearPhysics):
    def __init__(self, size):
        super().__init__(img_size=(1, size, size))
        self.calls = []

    def A(self, x, **kwargs):
        self.calls.append(len(x))
        return x

    def A_adjoint(self, y, **kwargs):
        return y

def physics(size):
    return Own(size)
"""


def test_a_fully_sampled_scan_is_thinned_out_slice_by_slice(tmp_path: Path):
    rng = np.random.default_rng(0)
    shape = (3, 1, SIZE, SIZE)  # slices of one coil
    image = np.zeros(shape, complex)
    image[..., 6:18, 6:18] = 1 + rng.random((3, 1, 12, 12))
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, axes=(2, 3))), axes=(2, 3))
    kspace += 0.5 * (rng.standard_normal(shape) + 1j * rng.standard_normal(shape))
    np.save(tmp_path / "kspace.npy", kspace)
    found = {}
    for masks in ("one", "each"):
        settings = MRISettings(acceleration=2, center=0.4, masks=masks)
        scan = Scan.planned(settings, SIZE, 0)
        path = tmp_path / "kspace.npy"
        dataset = load_dataset(MeasurementSettings(path=path), scan)
        found[masks] = masks_seen(dataset.y)
    assert torch.equal(found["one"][0], found["one"][1])
    assert not torch.equal(found["each"][0], found["each"][1])
