"""Laws of the objective: one gradient of all losses, whatever the order in which they are made."""

from __future__ import annotations

import weakref
from dataclasses import replace

import deepinv
import pytest
import torch
from deepinv.loss import Loss

import equipoise as eq
from equipoise.config import parse
from equipoise.data.sizes import in_frames
from equipoise.errors import UserError
from equipoise.imaging.draws import seeded
from equipoise.imaging.linear import variant
from equipoise.learning.batching import Part
from equipoise.learning.losses import (
    Equivariance,
    Example,
    JacobianPenalty,
    MeasurementConsistency,
    Splitting,
    evaluate,
)
from equipoise.learning.objective import Objective

from .examples import ct, ct_dataset, images, small_model


def problem() -> tuple[eq.EquilibriumReconstructor, Part]:
    physics = ct().double()
    y = physics.A(images(3).double())
    return small_model().double(), Part(torch.arange(3), y, physics)


def gradients(model: torch.nn.Module) -> list[torch.Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("stop_gradient", [True, "image", False])
def test_loss_by_loss_is_the_gradient_of_their_sum(stop_gradient, shared):
    """Through the reconstructions that losses share, and through those that they make."""
    model, part = problem()
    losses: dict[str, Loss] = {
        "consistency": MeasurementConsistency(0.3, 1e-3),
        "splitting": Splitting(3, shared=shared),
        "equivariance": Equivariance(eq.Rotations(), 0.5, noise=False, stop_gradient=stop_gradient),
        "contraction": JacobianPenalty(0.5, 0.1),
    }
    with seeded((1,), range(3)):
        found = Objective(model, losses).differentiate(part, 0, {}, share=0.25)
    one_by_one = gradients(model)
    model.zero_grad()
    objective = Objective(model, losses)
    with seeded((1,), range(3)):
        exact = objective.recorder.accurate_model()
        start, given = None, {}
        if shared:
            split = losses["splitting"].draw(part.y, part.physics)
            most = Example(exact(split.y, split.physics), split.y, split.physics, exact)
            given = {"consistency": most, "splitting": replace(most, split=split)}
            given["contraction"] = most
            start = most.x_net.detach()
        with torch.set_grad_enabled(not (shared and stop_gradient == "image")):
            x_net = exact.equilibrium(part.y, part.physics, x0=start).value
        whole = Example(x_net, part.y, part.physics, exact)
        given = dict.fromkeys(losses, whole) | given
        values = {name: evaluate(loss, given[name]).value for name, loss in losses.items()}
    (0.25 * sum(value.mean() for value in values.values())).backward()
    together = gradients(model)
    for name, value in values.items():
        assert torch.allclose(found.values[name].value, value, rtol=1e-6), name
    assert len(one_by_one) == len(together) > 0
    for a, b in zip(one_by_one, together):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-9 * float(b.norm()) + 1e-14)
    made = [solve for solves in found.solves.values() for solve in solves]
    constants = [solve for solve in made if solve.adjoint is None]
    assert len(made) == 3
    assert len(constants) == (1 if shared and stop_gradient == "image" else 0)


@pytest.mark.parametrize("weight", [0, 0.5])
def test_an_image_of_all_measurements_is_sought_from_that_of_most(weight):
    """Which is nearer than the usual start."""
    model, part = problem()
    losses: dict[str, Loss] = {"splitting": Splitting(3, shared=True)}
    if weight:
        losses["equivariance"] = Equivariance(eq.Rotations(), weight)
    with seeded((1,), range(3)):
        found = Objective(model, losses).differentiate(part, 0, {})
    assert len(found.solves["x_net"]) == (2 if weight else 1)  # none that no loss looks at
    if weight:
        usual = Objective(model, losses).recorder
        usual(part.y, part.physics)
        assert (found.solves["x_net"][1].trace[0] < 0.5 * usual.take_solves()[0].trace[0]).all()


@pytest.mark.parametrize(("stop_gradient", "has_graph"), [("image", False), (True, True)])
def test_an_image_that_is_a_constant_has_no_graph(stop_gradient, has_graph):
    """Which would be memory for nothing."""
    model, part = problem()
    losses: dict[str, Loss] = {
        "splitting": Splitting(3, shared=True),
        "equivariance": Equivariance(eq.Rotations(), stop_gradient=stop_gradient),
    }
    images = Objective(model, losses)._images(part)
    assert images["splitting"].made.requires_grad
    assert images["equivariance"].made.requires_grad == has_graph


def test_what_losses_look_at_is_said():
    model, _ = problem()
    losses: dict[str, Loss] = {
        "consistency": MeasurementConsistency(0.3, 1e-3),
        "splitting": Splitting(3, shared=True),
        "contraction": JacobianPenalty(0.5, 0.1),
    }
    most = "consistency, splitting, contraction look at the image of most measurements"
    assert Objective(model, losses).explain() == most
    losses["equivariance"] = Equivariance(eq.Rotations(), stop_gradient="image")
    constant = f"{most}; equivariance looks at that of all, which is not differentiated"
    assert Objective(model, losses).explain() == constant
    losses["variation"] = deepinv.loss.TVLoss()
    words = f"{most}; equivariance, variation look at that of all"
    assert Objective(model, losses).explain() == words
    losses["splitting"] = Splitting(3)
    assert Objective(model, losses).explain() == ""


def test_what_cannot_be_shared():
    with pytest.raises(ValueError, match=r"with a group .* leave one of them out"):
        Splitting(3, group=eq.Rotations(), shared=True)
    splitting = {"shared": True, "group": "rotations"}
    settings = parse({"objective": {"splitting": splitting}}, "test").objective
    dataset = ct_dataset()
    with pytest.raises(UserError, match=r"objective\.splitting\.shared=true: with .*default"):
        settings.make(dataset.scan, dataset.y[:1])
    weights = torch.ones(1, 12, 1)
    assert not MeasurementConsistency(weights=weights).takes_split  # they are of all measurements


class Watched(Loss):
    """Saves a tensor for its gradient, and says whether that of another loss is still there."""

    def __init__(self, other: Watched | None = None):
        super().__init__()
        self.other = other
        self.saved: weakref.ref[torch.Tensor] | None = None
        self.other_was_there = False

    def forward(self, x_net, **kwargs):
        if self.other is not None:
            self.other_was_there = self.other.saved() is not None
        kept = 2 * x_net
        self.saved = weakref.ref(kept)
        return kept.square().flatten(1).mean(1)


def test_the_graph_of_a_loss_is_gone_when_the_next_is_made():
    model, part = problem()
    first = Watched()
    second = Watched(first)
    Objective(model, {"first": first, "second": second}).differentiate(part, 0, {})
    assert not second.other_was_there
    assert gradients(model)


def test_what_does_not_depend_on_the_model_adds_nothing():
    model, part = problem()

    def constant(x_net, **kwargs):
        return torch.ones(len(x_net))

    found = Objective(model, {"constant": constant}).differentiate(part, 0, {})
    assert torch.equal(found.values["constant"].value, torch.ones(3))
    assert not any(float(g.abs().max()) > 0 for g in gradients(model))


@pytest.mark.parametrize("name", ["sure", "r2r"])
def test_noise_of_one_level(name):
    """Where acquisitions have noise of their own each: near enough to one level, or an error."""
    settings = parse({"objective": {name: 1}}, "test").objective
    loss = getattr(settings, name)
    scan = ct_dataset().scan
    physics = variant(scan.physics)
    physics.noise_model = deepinv.physics.GaussianNoise(torch.tensor([0.1, 0.101]))
    assert loss.make(replace(scan, physics=physics)) is not None
    physics.noise_model = deepinv.physics.GaussianNoise(torch.tensor([0.1, 0.2]))
    with pytest.raises(UserError, match=f"objective.{name} needs one noise level .* 1.00e-01 to 2"):
        loss.make(replace(scan, physics=physics))


@pytest.mark.parametrize("name", ["sure", "r2r"])
@pytest.mark.parametrize(("levels", "is_one"), [((0.1, 0.101), True), ((0.1, 0.3), False)])
def test_noise_of_measurements_of_several_sizes(name, levels, is_one):
    """It is that of the operators of each size."""
    loss = getattr(parse({"objective": {name: 1}}, "test").objective, name)
    scans = [ct_dataset().scan for _ in levels]
    for scan, level in zip(scans, levels):
        scan.physics.noise_model = deepinv.physics.GaussianNoise(level)
    whole = in_frames(scans, [0, 1], [scan.image_shape for scan in scans])
    if is_one:
        made = loss.make(whole)
        found = made.loss.sigma2**0.5 if name == "sure" else made.sigma
        assert float(found) == pytest.approx(0.1005, rel=1e-3)
    else:
        with pytest.raises(UserError, match=f"objective.{name} needs one noise level"):
            loss.make(whole)


@pytest.mark.parametrize("noise", [deepinv.physics.UniformNoise(0.1), deepinv.physics.ZeroNoise()])
def test_recorrupted_needs_gaussian_noise(noise):
    scan = ct_dataset().scan
    physics = variant(scan.physics)
    physics.noise_model = noise
    settings = parse({"objective": {"r2r": 1}}, "test").objective
    with pytest.raises(UserError, match=r"objective\.r2r needs Gaussian noise"):
        settings.r2r.make(replace(scan, physics=physics))
