"""Values change unit in one place: there and back."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import deepinv
import numpy as np
import pytest
import torch

from equipoise.data.item import HOUNSFIELD, Item, Units
from equipoise.data.scan import Scan, native_images
from equipoise.errors import UserError
from equipoise.imaging.settings import MRISettings, ParallelBeamSettings


def item(values: np.ndarray, units: Units = HOUNSFIELD) -> Item:
    return Item(
        name="x",
        file=Path("x"),
        shape=values.shape,
        read=partial(np.asarray, values),
        complex=np.iscomplexobj(values),
        units=units,
    )


@pytest.fixture(scope="module")
def ct() -> Scan:
    return Scan.planned(ParallelBeamSettings(angles=10), 8)


@pytest.fixture(scope="module")
def mri() -> Scan:
    return Scan.planned(MRISettings(acceleration=2), 8)


def test_padding_is_clipped_before_it_is_averaged(ct):
    """Beside padding of −3024, tissue stays what it is: half air, half tissue make the mean."""
    image = np.full((16, 16), 40.0)
    image[:, :7] = -3024
    model = ct.to_model(item(image))[0]
    native = item(image).units.to_native(model)
    assert torch.allclose(native[:, 3], torch.full((8,), (40 - 1000) / 2), atol=1e-3)
    assert torch.allclose(native[:, :3], torch.full((8, 3), -1000.0), atol=1e-3)
    assert torch.allclose(native[:, 4:], torch.full((8, 4), 40.0), atol=1e-3)


@pytest.mark.parametrize("units", [HOUNSFIELD, Units(scale=371.0), Units(scale=3.0, offset=-1.0)])
def test_there_and_back(ct, units):
    values = np.random.default_rng(0).random((8, 8)) * units.scale + units.offset
    there = ct.to_model(item(values, units))
    assert 0 <= float(there.min()) <= float(there.max()) <= 1
    (back,) = native_images(there[None], [item(values, units)])
    assert np.abs(back - values).max() < 1e-5 * units.scale
    assert back.dtype == np.float64


def test_complex_images_have_two_channels(ct, mri):
    rng = np.random.default_rng(0)
    values = 5 * (rng.normal(size=(16, 16)) + 1j * rng.normal(size=(16, 16)))
    one = item(values, Units(scale=5.0))
    x = mri.to_model(one)
    means = values.reshape(8, 2, 8, 2).mean((1, 3)) / 5
    assert np.abs(x.numpy() - np.stack([means.real, means.imag])).max() < 1e-6
    (back,) = native_images(x[None], [one])
    assert np.abs(back - np.abs(5 * means)).max() < 1e-5
    with pytest.raises(UserError, match="holds complex images, but this operator takes real ones"):
        ct.to_model(one)


@pytest.mark.parametrize("peak", [1.0, 0.02, 300.0])
def test_measurements_of_bright_images_are_those_of_the_model(ct, peak):
    """Raw sinograms of images whose brightest parts are ``peak``, and of the same images in
    [0, 1]: one in the units of the model."""
    y = ct.physics.A(torch.rand(1, 1, 8, 8))[0]
    raw = (peak * ct.measurement_to_native(y)).numpy()
    one = replace(item(raw, Units(scale=peak)), holds="measurement")
    assert torch.allclose(ct.to_model(one), y, rtol=1e-5)
    assert ct.gain != 1


def test_what_is_measured_of_an_image_does_not_depend_on_the_others(ct):
    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    together, noise = ct.measure(images, seed=3)
    for i in range(5):
        alone, _ = ct.measure(images[i : i + 1], seed=3, noise=noise, first=i)
        assert torch.equal(alone[0], together[i])


def test_noise_is_independent_between_places_and_seeds(ct):
    """Item i + 1 of one seed has nothing in common with item i of the next."""
    images = torch.zeros(6, 1, 8, 8)
    draws = torch.cat([ct.measure(images, seed, noise=1.0)[0] for seed in range(4)]).flatten(1)
    correlation = torch.corrcoef(draws) - torch.eye(len(draws))
    assert float(correlation.abs().max()) < 6 / draws.shape[1] ** 0.5
    assert float(draws.std()) == pytest.approx(1, rel=0.05)


def test_the_random_state_of_others_is_left_alone(ct):
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    ct.measure(torch.zeros(2, 1, 8, 8), seed=1, noise=1.0)
    assert torch.equal(torch.rand(3), wanted)


def test_images_and_items_must_be_as_many(ct):
    with pytest.raises(UserError, match="2 images for 1 items"):
        native_images(torch.zeros(2, 1, 8, 8), [item(np.zeros((8, 8)))])


class Own(deepinv.physics.MRI):
    """A kind that nobody knows: what it is made of is found by trying."""


@pytest.mark.parametrize("kind", [deepinv.physics.MRI, Own])
def test_images_are_measured_with_their_own_masks(kind):
    each = Scan.planned(MRISettings(masks="each", acceleration=3), 16).of_images(range(3), 0)
    scan = replace(each, physics=kind(mask=each.physics.mask.clone(), img_size=(16, 16)))
    torch.manual_seed(0)
    x = torch.randn(3, 2, 16, 16)
    assert torch.equal(scan.measure_clean(x), scan.physics.A(x))
    noisy, _ = scan.measure(x, 0, 0.1)
    assert torch.equal(noisy != 0, scan.physics.A(x) != 0)
