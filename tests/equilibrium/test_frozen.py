"""f does not change while it is solved."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import equipoise as eq


class TestStandingStill:
    def test_spectral_norm_moves_once_a_solve(self):
        layer = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6)).train()
        weights = []

        def f(z):
            weights.append(layer.weight.detach().clone())
            return 0.5 * torch.tanh(layer(z))

        before = layer.parametrizations.weight[0]._u.clone()
        r = eq.fixed_point(f, torch.randn(2, 6))
        r.value.sum().backward()
        assert all(torch.equal(w, weights[1]) for w in weights[1:])
        assert not torch.equal(before, layer.parametrizations.weight[0]._u)
        assert layer.parametrizations.weight[0].training
        assert layer.parametrizations.weight.original.grad is not None

    def test_spectral_norm_that_is_read_and_not_called(self):
        layer = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6)).train()
        f = lambda z: 0.5 * torch.tanh(nn.functional.linear(z, layer.weight, layer.bias))  # noqa: E731
        r = eq.fixed_point(f, torch.randn(2, 6), stop=eq.Stop(1e-10, 100))
        layer.eval()
        fz = f(r.value)
        assert ((fz - r.value).norm(dim=1) <= 1.1e-10 * fz.norm(dim=1)).all()
        r.value.sum().backward()
        assert layer.parametrizations.weight.original.grad.norm() > 0

    def test_spectral_norm_stands_still_when_backward_is_differentiated(self):
        layer = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6)).train()
        W = layer.parametrizations.weight.original
        stop = eq.Stop(1e-12, 200)
        r = eq.fixed_point(
            lambda z: 0.5 * torch.tanh(layer(z)) + 1,
            torch.randn(2, 6),
            stop=stop,
            gradient=eq.Implicit(stop=stop),
        )
        u = layer.parametrizations.weight[0]._u.clone()
        (plain,) = torch.autograd.grad(r.value.square().sum(), W, retain_graph=True)
        (again,) = torch.autograd.grad(r.value.square().sum(), W, create_graph=True)
        assert torch.equal(u, layer.parametrizations.weight[0]._u)
        assert (plain - again).norm() < 1e-9 * plain.norm()

    def test_a_map_that_changed_is_noticed(self):
        b = torch.ones(2, 3, requires_grad=True)
        with pytest.raises(RuntimeError, match="f changed while it was solved"):
            eq.fixed_point(
                lambda z: 0.5 * z + b + 1e-2 * torch.is_grad_enabled(),
                torch.zeros(2, 3),
                stop=eq.Stop(1e-6, 100),
            )

    @pytest.mark.parametrize("module", [nn.Dropout(0.1), nn.BatchNorm1d(3)], ids=repr)
    def test_what_changes_f_is_refused(self, module):
        module = module.double().train()
        with pytest.raises(RuntimeError, match=r"\.eval\(\)"):
            eq.fixed_point(lambda z: 0.5 * module(z), torch.ones(2, 3))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            eq.fixed_point(lambda z: 0.5 * module.eval()(z), torch.ones(2, 3))
