"""Converged means converged: f, evaluated afresh at what is returned, says so."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from fixed_point_problems import NONLINEAR, SOLVERS
from hypothesis import given, settings

import equipoise as eq

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def norms(v):
    """(B,) in float64, without overflow or underflow."""
    v = v if isinstance(v, tuple) else (v,)
    parts = [torch.view_as_real(p) if p.is_complex() else p for p in v]
    return torch.cat([p.double().flatten(1) for p in parts], 1).norm(dim=1)


def difference(a, b):
    if isinstance(a, tuple):
        return tuple(
            x.to(torch.complex128 if x.is_complex() else torch.float64) - y for x, y in zip(a, b)
        )
    return a.to(torch.complex128 if a.is_complex() else torch.float64) - b


def fresh(f, r):
    """‖f(z) − z‖ and ‖f(z)‖ at the value."""
    fz = f(r.value)
    return norms(difference(fz, r.value)), norms(fz)


class Met:
    """f, and the smallest ‖f(z) − z‖ of each sample that it was evaluated at."""

    def __init__(self, f):
        self.f, self.smallest = f, None

    def __call__(self, z):
        fz = self.f(z)
        change = norms(difference(fz, z)).nan_to_num(nan=float("inf"))
        self.smallest = change if self.smallest is None else torch.minimum(self.smallest, change)
        return fz


def tolerances_hold(f, r, stop, dtype):
    change, size = fresh(f, r)
    rounding = 8 * torch.finfo(dtype).eps * size
    asked = 1.001 * stop.rtol * size + rounding * (stop.rtol < 1e-5) + stop.atol
    return bool((change <= asked)[r.converged].all())


class TestConvergedMeansConverged:
    @pytest.mark.parametrize("solver", NONLINEAR, ids=repr)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_overshoot(self, solver, dtype):
        """exp has no real fixed point, however large the values on the way."""
        for start in (1.5, -3.0, 0.0, 5.0):
            z0 = torch.full((1, 1), start, dtype=dtype)
            met = Met(torch.exp)
            r = eq.solve(met, z0, solver=solver, on_failure="ignore")
            assert not r.converged.any()
            change, _ = fresh(torch.exp, r)
            assert (change <= met.smallest * (1 + 1e-6)).all()

    @pytest.mark.parametrize("solver", SOLVERS, ids=repr)
    @pytest.mark.parametrize("rtol", [1e-2, 1e-3])
    def test_drift(self, solver, rtol):
        stop = eq.Stop(rtol, int(2.2 / rtol))
        for shift in (1000.0, 1e-3, torch.tensor([1.0, -2.0, 3.0])):
            r = eq.solve(
                lambda x, shift=shift: x + shift,
                torch.zeros(2, 3),
                solver=solver,
                stop=stop,
                on_failure="ignore",
            )
            assert (r.status == eq.Status.MAX_STEPS).all()

    def test_drift_that_begins_with_a_transient(self):
        start = torch.tensor([[0.0, 1e5, 1.0]])

        def f(x):
            return torch.stack([x[:, 0] + 1000, 0.5 * x[:, 1], -x[:, 2]], 1)

        r = eq.solve(f, start, solver=eq.Picard(), stop=eq.Stop(1e-3, 6000), on_failure="ignore")
        assert not r.converged.any()
        for steps in (1500, 4000):
            gradient = eq.Unrolled(steps)
            with torch.no_grad():
                r = eq.fixed_point(
                    f, start, gradient=gradient, stop=eq.Stop(1e-3), on_failure="ignore"
                )
            assert not r.converged.any()

    @pytest.mark.parametrize("rate", [0.9, 0.99, 0.995, 0.997, 0.9976, 0.9978, 0.998, 0.999])
    def test_a_slow_contraction_is_no_drift(self, rate):
        """A rate of 1 − rtol or less costs no evaluation more than the relative residual asks."""
        stop = eq.Stop(1e-3, 5000)
        r = eq.solve(lambda z: rate * z + 1, torch.zeros(1, 2), solver=eq.Picard(), stop=stop)
        q = 1e-3 / (1e-3 + 1 - rate)  # the change at which it holds, over the first
        assert int(r.steps) <= torch.tensor(q).log() / torch.tensor(rate).log() + 2

    @pytest.mark.parametrize("solver", SOLVERS, ids=repr)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_a_solution_that_is_zero(self, solver, dtype):
        r = eq.solve(
            lambda z: 0.9 * z,
            torch.ones(2, 3, dtype=dtype),
            solver=solver,
            stop=eq.Stop(1e-4, 500),
        )
        assert r.converged.all()
        assert (r.value == 0).all()

    def test_zero_is_tried_and_is_not_taken_for_the_solution(self):
        """The state becomes a millionth of its start, but zero is not where it goes."""
        b = torch.full((1, 3), 1e-9)
        r = eq.solve(
            lambda z: 0.5 * z + b,
            torch.ones(1, 3),
            solver=eq.Picard(),
            stop=eq.Stop(1e-6, 200),
        )
        assert r.converged.all()
        assert (r.value - 2 * b).abs().max() < 1e-5 * 2e-9

    def test_absolute_tolerance(self):
        """For what is zero but for the rounding inside f."""

        def f(z):
            rounding = torch.cos(1e12 * (1 + torch.arange(3.0)) * z.sum(1, keepdim=True))
            return 0.9 * z + 1e-10 * rounding

        def solve(atol):
            stop = eq.Stop(1e-8, 400, atol)
            return eq.solve(f, torch.ones(1, 3), solver=eq.Picard(), stop=stop, on_failure="ignore")

        assert solve(0.0).status == eq.Status.MAX_STEPS
        r = solve(1e-9)
        assert r.converged.all()
        assert (fresh(f, r)[0] <= 1e-9).all()
        for bad in (-1.0, float("nan"), float("inf")):
            with pytest.raises(ValueError, match="atol must be"):
                eq.Stop(atol=bad)

    def test_the_best_iterate_is_the_last_where_all_components_vanish(self):
        a = torch.tensor([[0.9, 0.99, 0.999]])
        met = Met(lambda z: a * z)
        stop = eq.Stop(1e-4, 300)
        r = eq.solve(met, torch.ones(1, 3), solver=eq.Picard(), stop=stop, on_failure="ignore")
        assert r.status == eq.Status.MAX_STEPS
        assert torch.allclose(r.value, a**299, rtol=1e-10)
        assert fresh(met.f, r)[0] <= met.smallest * (1 + 1e-12)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("solver", NONLINEAR, ids=repr)
    def test_the_value_is_what_was_evaluated_though_a_state_holds_few_digits(self, solver, dtype):
        W = 0.8 * torch.linalg.qr(torch.randn(8, 8))[0]
        b = torch.randn(6, 8)

        def f(z):
            return (torch.tanh(z.double() @ W) + b).to(dtype)

        for rtol in (1e-1, 1e-2, 1e-3, 1e-4):
            stop = eq.Stop(rtol, 60)
            r = eq.solve(
                f, torch.zeros(6, 8, dtype=dtype), solver=solver, stop=stop, on_failure="ignore"
            )
            change, size = fresh(f, r)
            assert (change <= rtol * size * 1.001)[r.converged].all()
            assert torch.allclose(r.residual.double(), change / size, rtol=1e-3)

    @settings(max_examples=80, deadline=None, derandomize=True)
    @given(data=st.data())
    def test_for_every_map_solver_scale_and_dtype(self, data):
        seed = data.draw(st.integers(0, 10**6))
        rng = torch.Generator().manual_seed(seed)
        solver = data.draw(st.sampled_from(SOLVERS))
        dtype = data.draw(st.sampled_from(DTYPES))
        rate = data.draw(st.sampled_from([0.3, 0.9, 0.99, 1.2]))
        scale = 10.0 ** data.draw(
            st.integers(-4, 3) if dtype == torch.float16 else st.integers(-12, 12)
        )
        start = data.draw(st.sampled_from([0.0, 1.0, 1e3]))
        stop = eq.Stop(data.draw(st.sampled_from([1e-1, 1e-2, 1e-3, 1e-5])), 60)
        kind = data.draw(st.sampled_from(["affine", "kinks", "smooth"]))
        W = rate * torch.linalg.qr(torch.randn(7, 7, generator=rng))[0]
        speeds = torch.tensor([[0.1], [0.7], [1.0]])
        b = scale * torch.randn(3, 7, generator=rng)

        class Map:
            def __init__(self, speeds, b):
                self.speeds, self.b = speeds, b

            def __call__(self, z):
                v = self.speeds * (z.double() @ W)
                if kind == "kinks":
                    v = v.abs()
                if kind == "smooth":
                    v = scale * torch.sin(v / scale)
                return (v + self.b).to(dtype)

        class Restricted(Map):
            def restrict(self, index):
                return Restricted(self.speeds[index], self.b[index])

        f = data.draw(st.sampled_from([Map, Restricted]))(speeds, b)
        z0 = (start * scale * torch.randn(3, 7, generator=rng)).to(dtype)
        r = eq.solve(f, z0, solver=solver, stop=stop, on_failure="ignore")
        assert tolerances_hold(f, r, stop, dtype)
        if type(f) is Map:
            met = Met(f)
            again = eq.solve(met, z0, solver=solver, stop=stop, on_failure="ignore")
            unfinished = again.status == eq.Status.MAX_STEPS
            worse = fresh(f, again)[0] > met.smallest * (1 + 1e-3)
            assert not (unfinished & worse).any()

    @pytest.mark.parametrize(
        "gradient", [eq.Implicit(), eq.Phantom(8, 0.9), eq.Unrolled(80)], ids=repr
    )
    def test_with_gradients(self, gradient):
        """J is far from normal: one more step of the plain iteration makes the residual grow."""
        J = torch.triu(torch.randn(10, 10), 1)
        J = 0.3 * torch.eye(10) + 30 * J / torch.linalg.matrix_norm(J, 2)
        b = torch.randn(4, 10, requires_grad=True)
        f = lambda z: z @ J + b  # noqa: E731
        for rtol in (1e-2, 1e-4):
            stop = eq.Stop(rtol, 80)
            r = eq.fixed_point(
                f, torch.zeros(4, 10), stop=stop, gradient=gradient, on_failure="ignore"
            )
            change, size = fresh(f, r)
            assert (change <= 1.001 * rtol * size)[r.converged].all()
            assert torch.allclose((change / size)[r.converged], r.residual[r.converged], rtol=1e-3)

    def test_what_is_unrolled_is_evaluated_before_it_is_called_converged(self):
        """The last iteration starts close to f, and ends beyond a cliff."""

        def f(z):
            return torch.where(z <= 1, z + 1e-5, -5.0)

        for steps in (1, 4):
            r = eq.fixed_point(
                f,
                torch.full((1, 1), 1 - 1e-5 * (steps - 1)),
                gradient=eq.Unrolled(steps),
                on_failure="ignore",
            )
            change, size = fresh(f, r)
            assert r.status == eq.Status.MAX_STEPS
            assert r.residual == pytest.approx(float(change / size))
            assert r.trace.shape == (steps + 1, 1)

    def test_complex_numbers_and_tuples(self):
        M = 0.9 * torch.linalg.qr(torch.randn(5, 5, dtype=torch.complex128))[0].to(torch.complex64)
        b = torch.randn(3, 5, dtype=torch.complex64)

        def f(z):
            x, y = z
            return 0.5 * x.tanh() + y.real[:, :2].double(), y @ M + b

        z0 = (torch.zeros(3, 2, dtype=torch.float64), torch.zeros(3, 5, dtype=torch.complex64))
        for solver in NONLINEAR:
            r = eq.solve(f, z0, solver=solver, stop=eq.Stop(1e-4, 300), on_failure="ignore")
            assert r.converged.any()
            change, size = fresh(f, r)
            assert (change <= 1.001e-4 * size)[r.converged].all()
