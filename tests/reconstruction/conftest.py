"""Small problems in float64."""

from __future__ import annotations

import pytest
import torch

import equipoise as eq


@pytest.fixture
def tiny():
    """A small scan in float64 with a contracting denoiser."""
    torch.manual_seed(0)
    denoiser = eq.ConvDenoiser(channels=4, layers=3).double()

    class Contracting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = denoiser

        def forward(self, x, sigma):
            return 0.8 * self.inner(x, sigma)

    physics = eq.ParallelBeam(12, 5, normalize=True)
    return Contracting(), physics, physics.A(torch.rand(3, 1, 12, 12, dtype=torch.float64))
