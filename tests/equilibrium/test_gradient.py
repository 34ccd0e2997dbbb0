"""Laws of the derivative."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from fixed_point_problems import Imaging, ei_loss, relative
from torch import nn
from torch.utils.checkpoint import checkpoint

import equipoise as eq


class TestGradients:
    @pytest.mark.parametrize("passes", [2, 3])
    def test_ei_gradient_is_that_of_1500_unrolled_steps(self, passes):
        """Weights, measurements and the operator, to 1e-9."""
        net, y = Imaging(), torch.randn(3, 9, requires_grad=True)
        inputs = [net.W, net.A, y]
        exact = torch.autograd.grad(ei_loss(net, net.unrolled, y, passes), inputs)
        ours = torch.autograd.grad(ei_loss(net, net.implicit, y, passes), inputs)
        assert relative(ours, exact) < 1e-9
        wrong = torch.autograd.grad(
            ei_loss(net, lambda y: net.implicit(y, gradient=eq.JacobianFree()), y, passes), inputs
        )
        assert relative(wrong, exact) > 1e-3  # the comparison would notice

    def test_inside_checkpoint(self):
        net, y = Imaging(), torch.randn(2, 9, requires_grad=True)
        inputs = [net.W, net.A, y]
        exact = torch.autograd.grad(ei_loss(net, net.unrolled, y), inputs)
        calls = []
        f = net.f

        def counted(y):
            calls.append(1)
            return f(y)

        net.f = counted
        ours = torch.autograd.grad(
            ei_loss(net, lambda y: checkpoint(net.implicit, y, use_reentrant=False), y), inputs
        )
        assert relative(ours, exact) < 1e-9
        assert len(calls) <= 4  # two solves, each repeated at most once

    def test_f_that_calls_torch_func(
        self,
    ):  # as deepinv's operators with an adjoint by backpropagation do
        net, y = Imaging(), torch.randn(2, 9, requires_grad=True)
        exact = torch.autograd.grad(ei_loss(net, net.unrolled, y), [net.W, net.A, y])
        f = net.f

        def through_func(y):
            F = f(y)
            return lambda z: torch.func.vjp(lambda u: u, torch.zeros_like(z))[1](F(z))[0]

        net.f = through_func
        ours = torch.autograd.grad(ei_loss(net, net.implicit, y), [net.W, net.A, y])
        assert relative(ours, exact) < 1e-9

    def test_part_of_the_inputs_and_accumulation(self):
        net, y = Imaging(), torch.randn(2, 9, requires_grad=True)
        exact = torch.autograd.grad(ei_loss(net, net.unrolled, y), [net.W])
        ours = torch.autograd.grad(ei_loss(net, net.implicit, y), [net.W])
        assert relative(ours, exact) < 1e-9
        ei_loss(net, net.implicit, y).backward()
        assert relative([net.W.grad], exact) < 1e-9

    @pytest.mark.parametrize(
        "solver", [eq.Picard(), eq.Anderson(memory=10), eq.Broyden(), eq.GMRES()], ids=repr
    )
    def test_every_adjoint_solver_is_exact(self, solver):
        net, y = Imaging(), torch.randn(2, 9, requires_grad=True)
        exact = torch.autograd.grad(net.unrolled(y).square().sum(), [net.W, y])
        stop = eq.Stop(1e-12, 2000)
        ours = torch.autograd.grad(
            net.implicit(y, gradient=eq.Implicit(solver, stop)).square().sum(), [net.W, y]
        )
        assert relative(ours, exact) < 1e-9

    def test_rougher_gradients_tend_to_the_exact_one(self):
        net, y = Imaging(), torch.randn(2, 9, requires_grad=True)
        exact = torch.autograd.grad(net.unrolled(y).square().sum(), [net.W, y])

        def error(gradient):
            return relative(
                torch.autograd.grad(net.implicit(y, gradient=gradient).square().sum(), [net.W, y]),
                exact,
            )

        errors = [
            error(eq.JacobianFree()),
            error(eq.Neumann(terms=10)),
            error(eq.Neumann(terms=300)),
        ]
        assert errors[0] > errors[1] > errors[2]
        assert errors[2] < 1e-9
        assert error(eq.Neumann(terms=0)) == pytest.approx(errors[0], rel=1e-9)
        assert error(eq.Phantom(steps=500, damping=0.9)) < 1e-9
        assert error(eq.Unrolled(steps=1500)) < 1e-9
        assert error(eq.Unrolled(steps=900, checkpointing=True)) < 1e-9

    def test_the_adjoint_is_as_inexact_as_the_equilibrium(self):
        """Per sample: a loose forward solve gets a loose adjoint; with c = 0 the adjoint's own
        tolerance holds."""
        net, y = Imaging(), torch.cat([torch.randn(2, 9), torch.zeros(1, 9)]).requires_grad_()

        def run(inexact, rtol):
            g = eq.Implicit(eq.Picard(), eq.Stop(1e-8, 500), inexact=inexact)
            r = eq.fixed_point(net.f(y), torch.zeros(3, 16), stop=eq.Stop(rtol, 500), gradient=g)
            r.value.square().sum().backward()
            return r

        exact, loose, tight = run(0.0, 1e-2), run(3.0, 1e-2), run(3.0, 1e-12)
        assert (exact.adjoint.residual <= 1e-8).all()
        assert (loose.adjoint.residual[:2] <= 3 * loose.residual[:2]).all()
        assert (loose.adjoint.steps[:2] < exact.adjoint.steps[:2] / 2).all()
        assert loose.adjoint.converged.all()
        assert (tight.adjoint.residual <= 1e-8).all()  # never tighter than its own stop asks
        with pytest.raises(ValueError, match="inexact must be"):
            eq.Implicit(inexact=-1)

    def test_a_hopeless_equilibrium_still_gets_an_adjoint_with_a_digit(self):
        """Whatever c and the forward residual, the adjoint's tolerance is 0.1 at most."""
        b = torch.randn(2, 8, requires_grad=True)
        M = 0.9 * torch.linalg.qr(torch.randn(8, 8))[0]
        for inexact, steps in ((1.0, 1), (1000.0, 3)):
            r = eq.fixed_point(
                lambda z: z @ M + b,
                torch.zeros(2, 8),
                solver=eq.Picard(),
                stop=eq.Stop(1e-8, steps),
                gradient=eq.Implicit(eq.Picard(), eq.Stop(1e-8, 500), inexact=inexact),
                on_failure="ignore",
            )
            r.value.sum().backward()
            assert (inexact * r.residual > 0.3).all()
            assert r.adjoint.converged.all()
            assert (r.adjoint.residual <= 0.1).all()
            assert (r.adjoint.residual > 0.05).all()

    @pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
    def test_an_absolute_tolerance_of_the_adjoint_is_in_the_units_of_the_gradient(self, size):
        b = torch.ones(1, 1, requires_grad=True)
        gradient = eq.Implicit(eq.Picard(), eq.Stop(0.0, 500, atol=1e-6))
        r = eq.fixed_point(lambda z: 0.5 * z + b, torch.full((1, 1), 2.0), gradient=gradient)
        (u,) = torch.autograd.grad(size * r.value.sum(), b)
        change = float((0.5 * u + size - u).abs())
        assert 0.49e-6 < change <= 1e-6
        assert r.adjoint.converged.all()

    def test_several_solves_in_one_graph_and_a_failing_adjoint_that_raises(self):
        net, y = Imaging(), torch.randn(2, 9, requires_grad=True)
        both = lambda solve: (solve(y) * solve(2 * y)).sum() + solve(y).sum()  # noqa: E731
        assert (
            relative(
                torch.autograd.grad(both(net.implicit), [net.W, y]),
                torch.autograd.grad(both(net.unrolled), [net.W, y]),
            )
            < 1e-9
        )
        hopeless = eq.Implicit(stop=eq.Stop(1e-12, 2))
        loss = net.implicit(y, gradient=hopeless, on_failure="raise").sum()
        with pytest.raises(eq.EquilibriumError, match="adjoint"):
            loss.backward()

    @pytest.mark.parametrize(
        "solver", [eq.Picard(), eq.Anderson(), eq.GMRES(memory=5), eq.GMRES()], ids=repr
    )
    def test_the_adjoint_is_as_good_as_its_record_says(self, solver):
        """Where J is far from normal, one more step would make u worse."""
        n = 20
        J = torch.triu(torch.randn(n, n), 1)
        J = 0.5 * torch.eye(n) + 50 * J / torch.linalg.matrix_norm(J, 2)
        b, g = torch.randn(2, n, requires_grad=True), torch.randn(2, n)
        z0 = torch.linalg.solve(torch.eye(n) - J, b.detach(), left=False)
        gradient = eq.Implicit(solver, eq.Stop(1e-3, 3000))
        r = eq.fixed_point(lambda z: z @ J + b, z0, gradient=gradient, stop=eq.Stop(1e-6))
        (u,) = torch.autograd.grad(r.value, b, g)
        fu = u @ J.T + g
        assert r.adjoint.converged.all()
        assert ((fu - u).norm(dim=1) <= 1.01 * r.adjoint.residual * fu.norm(dim=1)).all()

    def test_a_solution_that_is_zero(self):
        b = torch.zeros(2, 3, requires_grad=True)
        r = eq.fixed_point(lambda z: 0.5 * z + b, torch.ones(2, 3), stop=eq.Stop(1e-6, 200))
        assert r.converged.all()
        r.value.sum().backward()
        assert (b.grad - 2).abs().max() < 1e-3

    def test_second_derivatives(self):
        net, y = Imaging(4, 3), torch.randn(2, 3, requires_grad=True)
        stop = eq.Stop(1e-12, 300)

        def solve(W, y):
            f = lambda x: 0.9 * torch.tanh((x - (x @ net.A.T - y) @ net.A) @ W)  # noqa: E731
            return eq.fixed_point(
                f,
                torch.zeros(2, 4),
                stop=stop,
                gradient=eq.Implicit(stop=stop),
                on_failure="ignore",
            ).value

        W = net.W.detach().clone().requires_grad_()
        assert torch.autograd.gradcheck(solve, (W, y))
        assert torch.autograd.gradgradcheck(solve, (W, y))

    def test_forward_mode(self):
        net, y, t = Imaging(), torch.randn(2, 9), torch.randn(2, 9)
        _, tangent = torch.func.jvp(net.implicit, (y,), (t,))
        h = 1e-6
        difference = (net.unrolled(y + h * t) - net.unrolled(y - h * t)) / (2 * h)
        assert (tangent - difference).norm() < 1e-7 * difference.norm()

    def test_complex_and_tuple_states(self):
        M = 0.5 * torch.linalg.qr(torch.randn(5, 5, dtype=torch.complex128))[0]
        b = torch.randn(2, 5, dtype=torch.complex128, requires_grad=True)
        stop = eq.Stop(1e-13, 300)
        r = eq.fixed_point(
            lambda z: z @ M + b, torch.zeros_like(b), stop=stop, gradient=eq.Implicit(stop=stop)
        )
        exact = torch.linalg.solve(torch.eye(5) - M, b, left=False)
        loss = lambda z: (z.abs() ** 3).sum()  # noqa: E731
        assert (
            relative(torch.autograd.grad(loss(r.value), [b]), torch.autograd.grad(loss(exact), [b]))
            < 1e-9
        )

        c = torch.randn(2, 3, requires_grad=True)
        r = eq.fixed_point(
            lambda z: (0.5 * z[1][:, :3] + c, 0.3 * torch.cat([z[0], z[0][:, :1]], 1)),
            (torch.zeros(2, 3), torch.zeros(2, 4)),
            stop=stop,
        )
        assert isinstance(r.value, tuple)
        assert (r.value[0] - c / 0.85).abs().max() < 1e-10
        (g,) = torch.autograd.grad(r.value[0].sum(), c)
        assert (g - 1 / 0.85).abs().max() < 1e-3

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision(self, dtype):
        b = torch.ones(2, 3, dtype=dtype, requires_grad=True)
        r = eq.fixed_point(
            lambda z: 0.5 * z + b, torch.zeros(2, 3, dtype=dtype), stop=eq.Stop(1e-2, 30)
        )
        assert r.value.dtype == dtype
        assert r.converged.all()
        r.value.float().sum().backward()
        assert (b.grad.float() - 2).abs().max() < 0.05

    def test_zero_incoming_gradient(self):
        b = torch.ones(2, 3, requires_grad=True)
        r = eq.fixed_point(lambda z: 0.5 * z + b, torch.zeros(2, 3))
        (g,) = torch.autograd.grad(r.value[0].sum(), b)
        assert (g[1] == 0).all()
        assert r.adjoint.converged.all()

    def test_without_gradients(self):
        b = torch.ones(2, 3, requires_grad=True)
        f = lambda z: 0.5 * z + b  # noqa: E731
        with torch.no_grad():
            assert not eq.fixed_point(f, torch.zeros(2, 3)).value.requires_grad
        with torch.inference_mode():
            assert eq.fixed_point(f, torch.zeros(2, 3)).converged.all()
        assert not eq.fixed_point(lambda z: 0.5 * z + 1, torch.zeros(2, 3)).value.requires_grad

    def test_nothing_is_alive_after_backward(self):
        W = nn.Parameter(0.1 * torch.randn(4, 4))

        class F:
            def __call__(self, z):
                return torch.tanh(z @ W) + 1

        gc.collect()
        gc.disable()
        try:
            f = F()
            alive = weakref.ref(f)
            r = eq.fixed_point(f, torch.zeros(2, 4))
            r.value.sum().backward()
            assert r.adjoint.converged.all()
            del f, r
            assert alive() is None
        finally:
            gc.enable()


class TestLongest:
    """f(z) = r z + w with one r a sample: u = g / (1 − r), so that ‖u‖ / ‖g‖ is known."""

    def gradients(self, longest):
        r = torch.tensor([0.5, 0.9, 0.99, -0.5], dtype=torch.float64)[:, None]
        w = torch.ones(4, 3, dtype=torch.float64, requires_grad=True)
        gradient = eq.Implicit(stop=eq.Stop(1e-12, 500), longest=longest)
        stop = eq.Stop(1e-12, 5000)
        found = eq.fixed_point(
            lambda z: r * z + w,
            torch.zeros(4, 3, dtype=torch.float64),
            stop=stop,
            gradient=gradient,
        )
        g = torch.arange(1.0, 13, dtype=torch.float64).view(4, 3)
        (u,) = torch.autograd.grad((found.value * g).sum(), w)
        return u, g, found.adjoint

    def test_a_sample_is_shortened_to_it_and_the_others_stay_exact(self):
        u, g, adjoint = self.gradients(5.0)
        expected = torch.tensor([2, 5, 5, 2 / 3], dtype=torch.float64)[:, None] * g
        assert torch.allclose(u, expected, rtol=1e-9)
        assert adjoint.shortened.tolist() == [False, True, True, False]

    def test_by_default_nothing_is(self):
        u, g, adjoint = self.gradients(float("inf"))
        expected = torch.tensor([2, 10, 100, 2 / 3], dtype=torch.float64)[:, None] * g
        assert torch.allclose(u, expected, rtol=1e-8)
        assert adjoint.shortened is None
        assert eq.Implicit().longest == float("inf")

    def test_a_derivative_of_it_takes_the_factor_for_a_constant(self):
        w = torch.tensor([[1.0]], dtype=torch.float64, requires_grad=True)
        gradient = eq.Implicit(stop=eq.Stop(1e-13, 500), longest=1.5)
        start = torch.zeros(1, 1, dtype=torch.float64)
        # z = 0.8 z + w², so dz/dw = 10 w, shortened to 1.5 · 2 w
        found = eq.fixed_point(
            lambda z: 0.8 * z + w**2, start, stop=eq.Stop(1e-13, 2000), gradient=gradient
        )
        (first,) = torch.autograd.grad(found.value.sum(), w, create_graph=True)
        assert float(first.detach()) == pytest.approx(3.0)
        (second,) = torch.autograd.grad(first.sum(), w)
        assert float(second) == pytest.approx(3.0)

    def test_it_must_be_positive(self):
        with pytest.raises(ValueError, match="longest must be > 0, got 0"):
            eq.Implicit(longest=0.0)
