"""Laws of the fixed point and its derivative, in float64."""

from __future__ import annotations

import gc
import warnings
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import equipoise as eq

TIGHT = eq.Stop(rtol=1e-13, max_steps=600)
SOLVERS = [eq.Picard(), eq.Picard(damping=0.7), eq.Anderson(memory=5), eq.Broyden(), eq.GMRES(memory=20)]
NONLINEAR = SOLVERS[:-1]


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def symmetric(n: int = 200, top: float = 0.99) -> tuple[torch.Tensor, torch.Tensor]:
    """A symmetric matrix with eigenvalues spread evenly over 0 … top, and a right-hand side."""
    rng = torch.Generator().manual_seed(0)
    Q, _ = torch.linalg.qr(torch.randn(n, n, generator=rng))
    return Q @ torch.diag(torch.linspace(0, top, n)) @ Q.T, torch.randn(1, n, generator=rng)


class TestSolvers:
    @pytest.mark.parametrize("solver", SOLVERS, ids=repr)
    def test_reaches_the_solution(self, solver):
        M, b = symmetric(50, 0.9)
        r = eq.solve(lambda z: z @ M + b, torch.zeros(1, 50), solver=solver, stop=eq.Stop(1e-12, 2000))
        exact = torch.linalg.solve(torch.eye(50) - M, b.T).T
        assert r.converged.all()
        assert (r.value - exact).norm() < 1e-10 * exact.norm()
        fz = r.value @ M + b
        assert float((fz - r.value).norm() / fz.norm()) == pytest.approx(float(r.residual), rel=1e-6)
        assert r.trace.shape == (int(r.steps.max()), 1)
        assert r.trace[-1] == r.residual

    @pytest.mark.parametrize(
        ("solver", "most"), [(eq.Anderson(memory=10), 130), (eq.Broyden(), 160), (eq.GMRES(memory=60), 70)], ids=repr
    )
    def test_evaluations_on_the_symmetric_problem(self, solver, most):
        M, b = symmetric()
        r = eq.solve(lambda z: z @ M + b, torch.zeros(1, 200), solver=solver, stop=eq.Stop(1e-8, 2000))
        assert r.converged.all()
        assert int(r.steps) <= most

    @pytest.mark.parametrize("solver", NONLINEAR, ids=repr)
    def test_a_sample_does_not_depend_on_its_batchmates(self, solver):
        rates = torch.tensor([0.3, 0.9, 0.6, 0.0])[:, None]
        W, y = torch.linalg.qr(torch.randn(30, 30))[0], torch.randn(4, 30)

        def f(rate, y):
            return lambda z: rate * torch.tanh(z @ W) + y

        together = eq.solve(f(rates, y), torch.zeros(4, 30), solver=solver, stop=eq.Stop(1e-9, 400))
        for i in range(4):
            alone = eq.solve(f(rates[i : i + 1], y[i : i + 1]), torch.zeros(1, 30), solver=solver, stop=eq.Stop(1e-9, 400))
            assert (alone.value - together.value[i]).abs().max() <= 1e-10
            assert int(alone.steps) == int(together.steps[i])
            assert int(alone.status) == int(together.status[i])

    def test_finished_samples_are_left_out_where_f_allows_it(self):
        rates = torch.tensor([0.3, 0.9, 0.99])[:, None]
        seen = []

        class F:
            def __init__(self, rates, y):
                self.rates, self.y = rates, y

            def __call__(self, z):
                seen.append(len(z))
                return self.rates * torch.cos(z) + self.y

            def restrict(self, index):
                return F(self.rates[index], self.y[index])

        r = eq.solve(F(rates, torch.randn(3, 5)), torch.zeros(3, 5), solver=eq.Picard(), stop=eq.Stop(1e-8, 2000))
        assert r.converged.all()
        assert sum(seen) == int(r.steps.sum())

    @pytest.mark.parametrize("solver", SOLVERS, ids=repr)
    @pytest.mark.parametrize("scale", [1e-6, 1e6])
    def test_scale_of_the_data_does_not_matter(self, solver, scale):
        M, b = symmetric(60, 0.95)
        steps = [
            int(eq.solve(lambda z, s=s: z @ M + s * b, torch.zeros(1, 60), solver=solver, stop=eq.Stop(1e-8, 3000)).steps)
            for s in (1.0, scale)
        ]
        assert abs(steps[0] - steps[1]) <= 1

    @pytest.mark.parametrize("solver", [eq.Anderson(), eq.Broyden()], ids=repr)
    @pytest.mark.parametrize(("rate", "rtol"), [(0.5, 1e-8), (0.9, 1e-8), (0.99, 1e-8), (0.999, 1e-3)])
    @pytest.mark.parametrize("kind", ["symmetric", "skew", "ill-conditioned", "relu", "kinks", "averaged", "averaged relu"])
    def test_never_much_slower_than_picard(self, solver, rate, rtol, kind):
        rng = torch.Generator().manual_seed(3)
        n = 40
        G = torch.randn(n, n, generator=rng)
        b = torch.randn(2, n, generator=rng)
        Q, turn = torch.linalg.qr(G)[0], torch.linalg.matrix_exp(G - G.T)
        M = {
            "symmetric": symmetric(n, rate)[0],
            "ill-conditioned": Q @ torch.diag(rate * torch.logspace(-8, 0, n)) @ Q.T,
            "relu": G / torch.linalg.matrix_norm(G, 2) * rate,
        }.get(kind, rate * turn)

        def f(z):
            if kind == "relu":
                return torch.relu(z @ M + b)
            if kind == "kinks":
                return (z @ M).abs() + b
            if kind == "averaged":
                return 0.5 * z + 0.5 * (z @ M + b)
            if kind == "averaged relu":
                return 0.3 * z + 0.7 * torch.relu(z @ M + b)
            return z @ M + b

        stop = eq.Stop(rtol, 30000)
        picard = eq.solve(f, torch.zeros(2, n), solver=eq.Picard(), stop=stop)
        most = int(1.2 * picard.steps.max()) + 1
        other = eq.solve(f, torch.zeros(2, n), solver=solver, stop=eq.Stop(rtol, most), on_failure="ignore")
        assert other.converged.all()
        assert (other.steps <= 1.2 * picard.steps + 1).all()

    def test_plain_windows_do_no_harm_where_the_plain_iteration_expands(self):
        """f = Q(1.05 z) has no contraction, but a fixed point that acceleration finds."""
        Q = torch.linalg.qr(torch.randn(30, 30))[0]
        r = eq.solve(lambda z: 1.05 * z @ Q + 1, torch.zeros(1, 30), solver=eq.Anderson(memory=40), stop=eq.Stop(1e-8, 200))
        assert r.converged.all()

    def test_exact_degeneracy_never_fails(self):
        for solver in SOLVERS:
            r = eq.solve(lambda z: z, torch.ones(3, 4), solver=solver)
            assert r.converged.all()
            assert (r.steps == 1).all()
            r = eq.solve(lambda z: torch.ones_like(z), torch.zeros(3, 4), solver=solver)
            assert r.converged.all()
            r = eq.solve(lambda z: z + 1, torch.zeros(3, 4), solver=solver, on_failure="ignore")
            assert r.value.isfinite().all()

    def test_bad_settings_are_refused(self):
        for make in (
            lambda: eq.Stop(rtol=-1),
            lambda: eq.Stop(max_steps=0),
            lambda: eq.Picard(damping=0),
            lambda: eq.Anderson(memory=0),
            lambda: eq.Anderson(ridge=2),
            lambda: eq.Phantom(steps=0),
            lambda: eq.Unrolled(steps=0),
            lambda: eq.Neumann(terms=-1),
        ):
            with pytest.raises(ValueError, match="must be"):
                make()


class Wild:
    """Picard, but where it would go from a residual below ``bound`` is far off."""

    def __init__(self, bound):
        self.bound = bound

    def init(self, z):
        return ()

    def step(self, z, fz, state):
        close = (fz - z).norm(dim=1, keepdim=True) < self.bound * fz.norm(dim=1, keepdim=True)
        return torch.where(close, fz + 100, fz), state


class TestOneStepAhead:
    """The application of f that carries the graph is made one step ahead of the iterate that converged."""

    def solve(self, solver, rtol=1e-4):
        M, b = symmetric(30, 0.9)
        b = torch.cat([b, 3 * b, b**3]).requires_grad_()
        seen = []

        def f(z):
            seen.append(z)
            return torch.tanh(z @ M) + b

        z0 = torch.zeros(3, 30)
        r = eq.fixed_point(f, z0, solver=solver, stop=eq.Stop(rtol, 300))
        count = len(seen)
        fz = f(r.value)
        return r, eq.solve(f, z0, solver=solver, stop=eq.Stop(rtol, 300)), (fz - r.value).norm(dim=1) / fz.norm(dim=1), count

    @pytest.mark.parametrize("solver", [eq.Picard(), eq.Anderson(), eq.Broyden()], ids=repr)
    def test_it_is_an_evaluation_like_any_other(self, solver):
        r, plain, residual, count = self.solve(solver)
        assert r.converged.all()
        assert (r.residual <= plain.residual).all()
        assert (r.residual - residual.detach()).abs().max() < 1e-12
        assert (r.steps == plain.steps + 1).all()
        assert count == int(r.steps.max())  # none too many
        assert (r.trace[-1] == r.residual).all()
        assert r.trace.shape == (int(r.steps.max()), 3)

    def test_a_step_that_loses_the_tolerance_is_taken_back(self):
        r, plain, residual, _ = self.solve(Wild(1e-4))
        assert r.converged.all()
        assert (r.steps == plain.steps).all()
        assert (residual <= 1e-4).all()
        assert torch.equal(r.value.detach(), plain.value.detach())
        r.value.sum().backward()
        assert r.adjoint.converged.all()

    def test_a_converged_start_stays(self):
        b = torch.ones(2, 3, requires_grad=True)
        r = eq.fixed_point(lambda z: 0.5 * z + b, torch.full((2, 3), 2.0 + 1e-7), stop=eq.Stop(1e-4))
        assert (r.steps == 1).all()
        assert (r.value == 2.0 + 1e-7).all()


class TestFailure:
    def test_expansion_is_told(self):
        with pytest.warns(eq.EquilibriumWarning, match="2 of 2 samples"):
            r = eq.solve(lambda z: 2 * z + 1, torch.ones(2, 3), solver=eq.Picard(), stop=eq.Stop(max_steps=10))
        assert (r.status == eq.Status.MAX_STEPS).all()
        assert (r.residual == r.trace.min(0).values).all()

    def test_nan_stops_its_sample_alone_and_the_best_iterate_is_kept(self):
        poison = torch.tensor([[0.0], [float("nan")]])
        calls = []

        def f(z):
            calls.append(1)
            return 0.5 * z + 1 + (poison if len(calls) > 3 else 0)

        with pytest.warns(eq.EquilibriumWarning, match="not finite"):
            r = eq.solve(f, torch.zeros(2, 1), solver=eq.Picard(), stop=eq.Stop(1e-10, 100))
        assert r.status.tolist() == [eq.Status.CONVERGED, eq.Status.NONFINITE]
        assert r.value.isfinite().all()
        assert r.value[1] == pytest.approx(1.5)  # 0, 1, 1.5 were evaluated, and the next was NaN

    def test_limit_cycle_and_raise(self):
        with pytest.raises(eq.EquilibriumError, match="max_steps"):
            eq.solve(lambda z: 1 - z, torch.zeros(1, 1), solver=eq.Picard(), on_failure="raise")

    def test_failing_adjoint_warns(self):
        y = torch.randn(1, 3, requires_grad=True)
        r = eq.fixed_point(
            lambda z: 0.99 * z + y, torch.zeros(1, 3), solver=eq.Anderson(), gradient=eq.Implicit(eq.Picard(), eq.Stop(1e-8, 5))
        )
        assert r.adjoint is None
        with pytest.warns(eq.EquilibriumWarning, match="adjoint"):
            r.value.sum().backward()
        assert (r.adjoint.status == eq.Status.MAX_STEPS).all()

    def test_wrong_maps_are_refused(self):
        with pytest.raises(ValueError, match="keep the shape"):
            eq.solve(lambda z: z[:, :1], torch.zeros(2, 3))
        with pytest.raises(TypeError, match="keep the dtype"):
            eq.solve(lambda z: z.float(), torch.zeros(2, 3))
        with pytest.raises(TypeError, match="floating-point"):
            eq.solve(lambda z: z, torch.zeros(2, 3, dtype=torch.long))
        with pytest.raises(ValueError, match="on_failure"):
            eq.solve(lambda z: z, torch.zeros(2, 3), on_failure="shout")

    def test_empty_batch(self):
        y = torch.zeros(0, 3, requires_grad=True)
        r = eq.fixed_point(lambda z: 0.5 * z + y, torch.zeros(0, 3))
        assert r.value.shape == (0, 3)
        assert r.trace.shape == (0, 0)


# -------------------------------------------------------------------------------------------------------- gradients


class Imaging(nn.Module):
    """A small learned gradient step: f(x) = 0.9 tanh(W (x − η Aᵀ(A x − y))), with everything differentiable."""

    def __init__(self, n: int = 16, m: int = 9):
        super().__init__()
        self.W = nn.Parameter(0.6 * torch.linalg.qr(torch.randn(n, n))[0] + 0.1 * torch.eye(n))
        A = torch.randn(m, n)
        self.A = nn.Parameter(A / torch.linalg.matrix_norm(A, 2))
        self.n = n

    def f(self, y):
        return lambda x: 0.9 * torch.tanh((x - (x @ self.A.T - y) @ self.A) @ self.W)

    def implicit(self, y, **kwargs):
        kwargs = {"gradient": eq.Implicit(stop=TIGHT), "stop": TIGHT, "on_failure": "ignore"} | kwargs
        return eq.fixed_point(self.f(y), torch.zeros(len(y), self.n), **kwargs).value

    def unrolled(self, y, steps=1500):
        x, f = torch.zeros(len(y), self.n), self.f(y)
        for _ in range(steps):
            x = f(x)
        return x


def ei_loss(net: Imaging, solve, y, passes: int = 2):
    """Measurement consistency, and "move (flip), measure, reconstruct" once or twice."""
    x = solve(y)
    loss = ((x @ net.A.T - y) ** 2).sum()
    for _ in range(passes - 1):
        moved = x.flip(1)
        x = solve(moved @ net.A.T)
        loss = loss + ((x - moved) ** 2).sum()
    return loss


def relative(a, b):
    return max(float((x - y).norm() / y.norm()) for x, y in zip(a, b))


class TestGradients:
    @pytest.mark.parametrize("passes", [2, 3])
    def test_ei_gradient_is_that_of_1500_unrolled_steps(self, passes):
        """Weights, measurements and the operator, to 1e-9."""
        net, y = Imaging(), torch.randn(3, 9, requires_grad=True)
        inputs = [net.W, net.A, y]
        exact = torch.autograd.grad(ei_loss(net, net.unrolled, y, passes), inputs)
        ours = torch.autograd.grad(ei_loss(net, net.implicit, y, passes), inputs)
        assert relative(ours, exact) < 1e-9
        wrong = torch.autograd.grad(ei_loss(net, lambda y: net.implicit(y, gradient=eq.JacobianFree()), y, passes), inputs)
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
        ours = torch.autograd.grad(ei_loss(net, lambda y: checkpoint(net.implicit, y, use_reentrant=False), y), inputs)
        assert relative(ours, exact) < 1e-9
        assert len(calls) <= 4  # two solves, each repeated at most once

    def test_f_that_calls_torch_func(self):  # as deepinv's operators with an adjoint by backpropagation do
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

    @pytest.mark.parametrize("solver", [eq.Picard(), eq.Anderson(memory=10), eq.Broyden(), eq.GMRES()], ids=repr)
    def test_every_adjoint_solver_is_exact(self, solver):
        net, y = Imaging(), torch.randn(2, 9, requires_grad=True)
        exact = torch.autograd.grad(net.unrolled(y).square().sum(), [net.W, y])
        stop = eq.Stop(1e-12, 2000)
        ours = torch.autograd.grad(net.implicit(y, gradient=eq.Implicit(solver, stop)).square().sum(), [net.W, y])
        assert relative(ours, exact) < 1e-9

    def test_rougher_gradients_tend_to_the_exact_one(self):
        net, y = Imaging(), torch.randn(2, 9, requires_grad=True)
        exact = torch.autograd.grad(net.unrolled(y).square().sum(), [net.W, y])

        def error(gradient):
            return relative(torch.autograd.grad(net.implicit(y, gradient=gradient).square().sum(), [net.W, y]), exact)

        errors = [error(eq.JacobianFree()), error(eq.Neumann(terms=10)), error(eq.Neumann(terms=300))]
        assert errors[0] > errors[1] > errors[2]
        assert errors[2] < 1e-9
        assert error(eq.Neumann(terms=0)) == pytest.approx(errors[0], rel=1e-9)
        assert error(eq.Phantom(steps=500, damping=0.9)) < 1e-9
        assert error(eq.Unrolled(steps=1500)) < 1e-9
        assert error(eq.Unrolled(steps=900, checkpointing=True)) < 1e-9

    def test_the_adjoint_is_as_inexact_as_the_equilibrium(self):
        """Per sample: a loose forward solve gets a loose adjoint; with c = 0 the adjoint's own tolerance holds."""
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

    def test_several_solves_in_one_graph_and_a_failing_adjoint_that_raises(self):
        net, y = Imaging(), torch.randn(2, 9, requires_grad=True)
        both = lambda solve: (solve(y) * solve(2 * y)).sum() + solve(y).sum()  # noqa: E731
        assert (
            relative(torch.autograd.grad(both(net.implicit), [net.W, y]), torch.autograd.grad(both(net.unrolled), [net.W, y]))
            < 1e-9
        )
        hopeless = eq.Implicit(stop=eq.Stop(1e-12, 2))
        loss = net.implicit(y, gradient=hopeless, on_failure="raise").sum()
        with pytest.raises(eq.EquilibriumError, match="adjoint"):
            loss.backward()

    @pytest.mark.parametrize("solver", [eq.Picard(), eq.Anderson(), eq.GMRES(memory=5), eq.GMRES()], ids=repr)
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
            return eq.fixed_point(f, torch.zeros(2, 4), stop=stop, gradient=eq.Implicit(stop=stop), on_failure="ignore").value

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
        r = eq.fixed_point(lambda z: z @ M + b, torch.zeros_like(b), stop=stop, gradient=eq.Implicit(stop=stop))
        exact = torch.linalg.solve(torch.eye(5) - M, b, left=False)
        loss = lambda z: (z.abs() ** 3).sum()  # noqa: E731
        assert relative(torch.autograd.grad(loss(r.value), [b]), torch.autograd.grad(loss(exact), [b])) < 1e-9

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
        r = eq.fixed_point(lambda z: 0.5 * z + b, torch.zeros(2, 3, dtype=dtype), stop=eq.Stop(1e-2, 30))
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
        r = eq.fixed_point(lambda z: 0.5 * torch.tanh(layer(z)) + 1, torch.randn(2, 6), stop=stop, gradient=eq.Implicit(stop=stop))
        u = layer.parametrizations.weight[0]._u.clone()
        (plain,) = torch.autograd.grad(r.value.square().sum(), W, retain_graph=True)
        (again,) = torch.autograd.grad(r.value.square().sum(), W, create_graph=True)
        assert torch.equal(u, layer.parametrizations.weight[0]._u)
        assert (plain - again).norm() < 1e-9 * plain.norm()

    def test_a_map_that_changed_is_noticed(self):
        b = torch.ones(2, 3, requires_grad=True)
        with pytest.raises(RuntimeError, match="f changed while it was solved"):
            eq.fixed_point(lambda z: 0.5 * z + b + 1e-2 * torch.is_grad_enabled(), torch.zeros(2, 3), stop=eq.Stop(1e-6, 100))

    @pytest.mark.parametrize("module", [nn.Dropout(0.1), nn.BatchNorm1d(3)], ids=repr)
    def test_what_changes_f_is_refused(self, module):
        module = module.double().train()
        with pytest.raises(RuntimeError, match=r"\.eval\(\)"):
            eq.fixed_point(lambda z: 0.5 * module(z), torch.ones(2, 3))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            eq.fixed_point(lambda z: 0.5 * module.eval()(z), torch.ones(2, 3))
