"""Laws of the inner solvers."""

from __future__ import annotations

import torch

from equipoise.imaging.linear import conjugate_gradients, proximal_l2


def test_conjugate_gradients_reports():
    M = torch.diag(torch.linspace(1, 9, 20, dtype=torch.float64))
    b = torch.randn(3, 20, dtype=torch.float64)
    b[1] = 0
    r = conjugate_gradients(lambda v: v @ M, b, tol=1e-10)
    assert (r.residual < 1e-10).all()
    assert torch.allclose(r.value @ M, b)
    assert r.iterations <= 21


def test_proximal_l2_matches_dense_algebra():
    A = torch.randn(5, 7, dtype=torch.float64)
    d, y = torch.randn(2, 7, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    out = proximal_l2(lambda x: x @ A.T, lambda y: y @ A, d, y, 0.3, 1e-13)
    exact = torch.linalg.solve(A.T @ A + 0.3 * torch.eye(7), (y @ A + 0.3 * d).T).T
    assert torch.allclose(out, exact)
