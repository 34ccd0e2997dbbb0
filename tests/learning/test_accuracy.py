"""What is minimised is what is written: losses whose value is the small difference of two
equilibria, whatever the tolerance of the model."""

from __future__ import annotations

from typing import Any, NamedTuple

import deepinv
import pytest
import torch
from torch import Tensor

import equipoise as eq
from equipoise.errors import UserError
from equipoise.imaging.draws import seeded
from equipoise.imaging.mri import cartesian_mask
from equipoise.learning.losses import AS_THE_MODEL, DEFAULT_ACCURACY, Equivariance, Splitting
from equipoise.reconstruction.denoisers import ComplexDenoiser

from .examples import Shrunk, ct, dataset_of, images, small_model, small_trainer

PIXELS = 24


class Problem(NamedTuple):
    step: Any
    physics: Any
    y: Tensor


def problem(what: str, which_step: str) -> Problem:
    """Two images, and the shipped denoiser × 0.97, with which the equilibrium exists."""
    denoiser: Any = eq.load_denoiser()
    x = eq.phantoms(2, PIXELS, 900).double()
    if what == "ct":
        physics: Any = eq.ParallelBeam(PIXELS, 10, normalize=True)
    else:
        mask = cartesian_mask(PIXELS, PIXELS, 4, 0.1)
        physics = deepinv.physics.MRI(mask=mask, img_size=(PIXELS, PIXELS)).double()
        denoiser = ComplexDenoiser(denoiser)
        x = torch.cat([x, 0.3 * x], 1)
    physics.noise_model = deepinv.physics.GaussianNoise(0.005)
    denoiser = Shrunk(denoiser, 0.97)
    if which_step == "proximal":
        step: Any = eq.ProximalStep(denoiser, strength=0.02, sigma=0.02, tol=1e-10)
    else:
        step = eq.GradientStep(denoiser, sigma=0.02)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Problem(step.double(), physics, physics(x))


def value_and_gradient(
    loss: Any, given: Problem, stop: eq.Stop, adjoint: eq.Stop
) -> tuple[float, Tensor]:
    """Of a loss as any trainer calls it, with a model of these tolerances."""
    model = eq.EquilibriumReconstructor(
        given.step, stop=stop, gradient=eq.Implicit(stop=adjoint), on_failure="ignore"
    )
    with seeded((0, 0), [0, 1]):
        x = model(given.y, given.physics)
        value = loss(x_net=x, y=given.y, physics=given.physics, model=model).mean()
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)])
    return float(value.detach()), gradient


LOSSES = {
    "equivariance": lambda: Equivariance(eq.Rotations()),
    "equivariance_through_the_target": lambda: Equivariance(eq.Rotations(), stop_gradient=False),
    "splitting": lambda: Splitting(parts=5, floor=1e-3),
    "equivariant_splitting": lambda: Splitting(parts=5, floor=1e-3, group=eq.Rotations()),
}


@pytest.mark.parametrize("which", LOSSES)
@pytest.mark.parametrize(
    ("what", "step"),
    [
        ("ct", "proximal"),
        ("ct", "gradient"),
        ("mri", "proximal"),
        pytest.param("mri", "gradient", marks=pytest.mark.slow),
    ],
)
def test_a_loss_is_as_accurate_as_it_says(what, step, which):
    """With a model at rtol 1e-3: its value within 1 %, its gradient within 3 % of the exact."""
    given, loss = problem(what, step), LOSSES[which]()
    exact = eq.Stop(1e-8, 1000)
    true_value, true_gradient = value_and_gradient(loss, given, exact, exact)
    value, gradient = value_and_gradient(loss, given, eq.Stop(1e-3), eq.Stop(1e-2))
    assert value == pytest.approx(true_value, rel=0.01)
    assert (gradient - true_gradient).norm() < 0.03 * true_gradient.norm()


class TestChecksOfATraining:
    """How exact the losses of a step were, as the log has it."""

    def reports(self, accuracy, every=2, **settings):
        losses = {
            "consistency": eq.MeasurementConsistency(),
            "splitting": Splitting(parts=3, accuracy=accuracy),
            "equivariance": Equivariance(eq.Rotations(), accuracy=accuracy),
        }
        torch.manual_seed(0)
        dataset = dataset_of(ct(), ct()(images(4)))
        model = small_model()
        model.stop = eq.Stop(1e-2, 50)
        trainer = small_trainer(losses, dataset, model, batch=2, check_every=every, **settings)
        return [trainer.advance() for _ in range(4)]

    def test_now_and_then_of_what_solves_again(self):
        checked = self.reports(DEFAULT_ACCURACY)
        assert [sorted(r.inexact) for r in checked] == [[], ["equivariance", "splitting"]] * 2
        assert max(max(r.inexact.values(), default=0.0) for r in checked) < 0.01
        assert "inexact" in checked[1].line()

    def test_an_operator_that_computes_in_single_precision(self):
        single = deepinv.physics.LinearPhysics(A=torch.Tensor.float, A_adjoint=torch.Tensor.float)
        dataset = dataset_of(single, torch.zeros(2, 1, 16, 16))
        with pytest.raises(UserError, match=r"learning\.check_every=2: .* float64: .*set it to 0"):
            small_trainer(None, dataset, check_every=2)
        small_trainer(None, dataset, check_every=0)

    def test_a_rough_solve_is_seen(self):
        rough = self.reports(AS_THE_MODEL)
        assert max(rough[1].inexact.values()) > 0.01

    def test_nothing_changes(self):
        for a, b in zip(self.reports(DEFAULT_ACCURACY), self.reports(DEFAULT_ACCURACY, 0)):
            assert b.inexact == {}
            assert a.parts == b.parts

    def test_in_parts(self):
        assert self.reports(DEFAULT_ACCURACY, accumulate=2)[1].inexact.keys() == {
            "equivariance",
            "splitting",
        }
