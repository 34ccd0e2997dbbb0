"""Any linear operator, per sample: a batch is solved as each of its samples would be alone."""

from __future__ import annotations

import deepinv
import pytest
import torch

import equipoise as eq
from equipoise.imaging.mri import birdcage, cartesian_mask

COUNT = 3


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Weighted(deepinv.physics.LinearPhysics):
    """An operator of a user's own, with a weight for each sample in a plain attribute."""

    def __init__(self, weights):
        super().__init__()
        self.weights = weights

    def A(self, x, **kwargs):
        return self.weights * x

    def A_adjoint(self, y, **kwargs):
        return self.weights * y


def masks():
    return (uniform(COUNT, 1, 8, 8) < 0.6).double()


def inpainting(index):
    return deepinv.physics.Inpainting((1, 8, 8), mask=masks()[index])


def blur(index):
    filters = uniform(COUNT, 1, 3, 3, seed=1)
    filters = filters / filters.sum((-2, -1), keepdim=True)
    return deepinv.physics.Blur(filter=filters[index], padding="circular")


def blur_fft(index):
    filters = uniform(COUNT, 1, 3, 3, seed=1)
    filters = filters / filters.sum((-2, -1), keepdim=True)
    return deepinv.physics.BlurFFT((1, 8, 8), filter=filters[index])


def inpainted_scan(index):
    scan = eq.ParallelBeam(8, 5, normalize=True)
    shape = scan.measurement_shape
    each = (uniform(COUNT, *shape, seed=2) < 0.7).double()
    return deepinv.physics.Inpainting(shape, mask=each[index]) * scan


def weighted(index):
    return Weighted((0.2 + 0.8 * uniform(COUNT, 1, 8, 8, seed=3))[index])


def lines(index):
    each = torch.stack([cartesian_mask(8, 8, 2, 0.2, seed) for seed in range(COUNT)])
    return deepinv.physics.MRI(mask=each[index][:, None].double(), img_size=(8, 8))


def coils(index):
    maps = birdcage(2, 8, 8).to(torch.complex128)
    each = torch.stack([maps * torch.exp(torch.tensor(1j * k)) for k in range(COUNT)])
    mask = torch.stack([cartesian_mask(8, 8, 2, 0.2, seed) for seed in range(COUNT)])
    return deepinv.physics.MultiCoilMRI(
        mask=mask[index][:, None].double(), coil_maps=each[index], img_size=(8, 8)
    )


def scan(index):
    return eq.ParallelBeam(8, 5, normalize=True)


OPERATORS = [inpainting, blur, blur_fft, inpainted_scan, weighted, lines, coils, scan]


class Shrink(torch.nn.Module):
    """A contraction that mixes pixels, but not samples."""

    def forward(self, x, sigma):
        return 0.4 * x + 0.2 * x.roll(1, -1) + 0.2 * torch.cos(x)


@pytest.mark.parametrize("learnt", [False, True])
@pytest.mark.parametrize("make", OPERATORS, ids=lambda make: make.__name__)
@pytest.mark.parametrize(
    "step",
    [
        lambda D: eq.GradientStep(D, step_size=0.6),
        lambda D: eq.ProximalStep(D, strength=0.4, tol=1e-13),
        lambda D: eq.ADMM(D, strength=0.4, tol=1e-13),
    ],
    ids=["gradient", "proximal", "admm"],
)
def test_samples_with_operators_of_their_own(step, make, learnt):
    """One sample is done at once, the others later; all are what they are alone."""
    physics = make(slice(None))
    channels = 2 if make in (lines, coils) else 1
    x = uniform(COUNT, channels, 8, 8, seed=5)
    stop = eq.Stop(1e-11, 300)
    model = eq.EquilibriumReconstructor(step(Shrink()).double(), stop=stop)
    with torch.no_grad():
        y = physics.A(x)
        start = x.clone()
        start[1] = model(y[1:2], make(slice(1, 2)))[0]
    y.requires_grad_(learnt)
    result = model.equilibrium(y, physics, x0=start)
    assert result.converged.all()
    assert int(result.steps[1]) < int(result.steps[0])
    for i in range(COUNT):
        alone = model(y[i : i + 1], make(slice(i, i + 1)))
        assert (result.value[i] - alone[0]).norm() < 1e-9 * alone.norm()


def test_an_operator_whose_parameters_cannot_be_found_rides_along():
    """The weights are in a closure: nobody can see that each sample has its own."""
    weights = 0.2 + 0.8 * uniform(COUNT, 1, 8, 8, seed=3)

    def multiply(x, **kwargs):
        return weights * x

    physics = deepinv.physics.LinearPhysics(A=multiply, A_adjoint=multiply)
    x = uniform(COUNT, 1, 8, 8, seed=5)
    x[0] = 0
    step = eq.GradientStep(Shrink(), step_size=0.6).double()
    r = eq.EquilibriumReconstructor(step, stop=eq.Stop(1e-11, 300)).equilibrium(
        weights * x, physics
    )
    assert r.converged.all()
    fx = step(r.value, weights * x, physics)
    assert (fx - r.value).norm() < 1e-9 * fx.norm()


@pytest.mark.parametrize("make", [scan, lines, coils], ids=lambda make: make.__name__)
def test_deepinv_splits_the_measurements_of_each_sample(make):
    """Its SplittingLoss puts a mask of each sample's own before the operator."""
    physics = make(slice(None))
    channels = 1 if make is scan else 2
    x = uniform(COUNT, channels, 8, 8, seed=5)
    x[0] = 0
    y = physics.A(x)
    step = eq.ProximalStep(Shrink(), strength=0.4, learnable=True, tol=1e-10).double()
    inner = eq.EquilibriumReconstructor(step, stop=eq.Stop(1e-8, 300))
    loss = deepinv.loss.SplittingLoss(split_ratio=0.7, eval_n_samples=2)
    model = loss.adapt_model(inner)
    torch.manual_seed(0)
    x_net = model(y, physics, update_parameters=True)
    assert x_net.isfinite().all()
    loss(x_net=x_net, y=y, physics=physics, model=model).mean().backward()
    assert float(step.strength.log.grad.abs()) > 1e-6
    model.eval()
    with torch.no_grad():
        assert model(y, physics).shape == x.shape
