"""Laws of what measures and bounds a map."""

from __future__ import annotations

import pytest
import torch

import equipoise as eq
from equipoise.imaging.linear import norm
from equipoise.reconstruction.contraction import convolution_norm, measure


def test_monitor_and_penalty_know_a_linear_map():
    """f(x) = M x with a known spectral radius and norm."""
    torch.manual_seed(1)
    n = 6
    Q = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0]
    M = torch.diag(torch.linspace(0.1, 0.8, n, dtype=torch.float64))
    M[0, 1] = 2.0
    M = Q @ M @ Q.T
    r = measure(lambda x: x @ M.T, torch.zeros(2, n, dtype=torch.float64), iterations=200)
    assert torch.allclose(r.radius, torch.full((2,), 0.8, dtype=torch.float64), rtol=1e-3)
    assert torch.allclose(r.norm, torch.linalg.matrix_norm(M, 2).expand(2), rtol=1e-3)


@pytest.mark.parametrize(("out", "inside", "k"), [(4, 3, 3), (1, 5, 5), (6, 6, 1)])
def test_norm_of_a_convolution(out, inside, k):
    """An upper bound, and close: against power iteration on the convolution itself."""
    weight = torch.randn(
        out, inside, k, k, dtype=torch.float64, generator=torch.Generator().manual_seed(k)
    )
    A = lambda x: torch.nn.functional.conv2d(x, weight, padding=k // 2)  # noqa: E731
    At = lambda y: torch.nn.functional.conv_transpose2d(y, weight, padding=k // 2)  # noqa: E731
    true = norm(A, At, torch.zeros(1, inside, 48, 48, dtype=torch.float64), tol=1e-9, max_iter=3000)
    assert true <= float(convolution_norm(weight)) <= 1.25 * true


def test_bounded_networks_stay_so_whatever_is_learnt():
    torch.manual_seed(0)
    network = eq.bounded(
        torch.nn.Sequential(
            torch.nn.Conv2d(1, 6, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(6, 1, 3, padding=1),
        )
    )
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(50)
    x, e = torch.randn(2, 8, 1, 16, 16)
    assert (
        (network(x + e) - network(x)).flatten(1).norm(dim=1) <= e.flatten(1).norm(dim=1) * 1.0001
    ).all()
    with pytest.raises(ValueError, match="stride, dilation and groups 1"):
        eq.bounded(torch.nn.Conv2d(1, 1, 3, stride=2))
    for gain in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="gain must be finite and > 0"):
            eq.bounded(torch.nn.Conv2d(1, 1, 3), gain)
