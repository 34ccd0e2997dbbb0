"""The noise of counted photons, in the losses."""

from __future__ import annotations

import pytest
import torch

import equipoise as eq
from equipoise.config import parse
from equipoise.data.scan import Scan
from equipoise.errors import UserError
from equipoise.learning.losses import MeasurementConsistency

K = 3.0


def problem() -> tuple[eq.ParallelBeam, torch.Tensor, torch.Tensor]:
    physics = eq.ParallelBeam(8, 12, normalize=True)
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(2, 1, 8, 8, generator=rng, dtype=torch.float64)
    y = physics.A(x)
    return physics, y, x + 0.1 * torch.randn(x.shape, generator=rng, dtype=torch.float64)


def weights(y: torch.Tensor) -> torch.Tensor:
    """One over the variance, of mean 1."""
    photons = torch.exp(-K * y.flatten(1))
    return photons / photons.mean(1, keepdim=True)


def test_each_measurement_weighs_what_its_photons_do():
    physics, y, x = problem()
    found = MeasurementConsistency(attenuation=K)(x_net=x, y=y, physics=physics)
    r = (physics.A(x) - y).flatten(1)
    assert torch.allclose(found, (weights(y) * r.square()).mean(1))


def test_it_is_the_poisson_likelihood_near_the_measurements():
    """To second order, up to a constant and a factor: the deviance of counts N exp(−A x)."""
    physics, y, x = problem()
    x = physics.A_dagger(y) + 1e-3 * (x - physics.A_dagger(y))
    photons = 1e5 * torch.exp(-K * y)
    expected = 1e5 * torch.exp(-K * physics.A(x))
    deviance = expected - photons - photons * torch.log(expected / photons)
    right = 2 * deviance.flatten(1).sum(1) / (K**2 * photons.flatten(1).sum(1))
    found = MeasurementConsistency(attenuation=K)(x_net=x, y=y, physics=physics)
    assert torch.allclose(found, right, rtol=1e-2)


def test_the_floor_is_a_variance_that_follows_the_counts():
    physics, y, x = problem()
    found = MeasurementConsistency(floor=0.01, attenuation=K)(x_net=x, y=y, physics=physics)
    rows = torch.eye(y[0].numel(), dtype=y.dtype).reshape(-1, *y.shape[1:])
    matrix = physics.A_adjoint(rows).flatten(1)
    r = (physics.A(x) - y).flatten(1)
    for b in range(2):
        covariance = matrix @ matrix.T + 0.01 * torch.diag(1 / weights(y)[b])
        right = r[b] @ torch.linalg.solve(covariance, r[b]) / x[b].numel()
        assert float(found[b]) == pytest.approx(float(right), rel=1e-2)


def test_weights_and_attenuation_at_once_are_refused():
    with pytest.raises(ValueError, match="attenuation and weights say both"):
        MeasurementConsistency(attenuation=K, weights=torch.ones(1))


def test_without_attenuation_nothing_changes():
    physics, y, x = problem()
    plain = MeasurementConsistency(floor=0.01)(x_net=x, y=y, physics=physics)
    weak = MeasurementConsistency(floor=0.01, attenuation=1e-9)(x_net=x, y=y, physics=physics)
    assert torch.allclose(plain, weak, rtol=2e-3)


def test_the_option_takes_the_units_of_the_scan():
    config = parse({"objective": {"counts": True}, "physics": {"angles": 6}}, "test")
    scan = Scan.planned(config.physics, 16)
    y = scan.physics.A(torch.rand(1, 1, 16, 16))
    losses = config.objective.make(scan, y)
    assert losses["consistency"].attenuation == pytest.approx(1 / scan.gain)
    assert losses["splitting"].misfit.attenuation == pytest.approx(1 / scan.gain)
    other = parse({"objective": {"counts": True}, "physics": {"kind": "blur"}}, "test")
    with pytest.raises(UserError, match=r"objective\.counts"):
        other.objective.make(Scan.planned(other.physics, 16), y)
