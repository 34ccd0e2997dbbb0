"""A gradient is right or refused, and what is refused is refused in one clear sentence."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch
from fixed_point_problems import Imaging, ei_loss, relative
from torch import nn
from torch.utils.checkpoint import checkpoint

import equipoise as eq

TIGHT = eq.Stop(1e-12, 500)
EXACT = {"stop": TIGHT, "gradient": eq.Implicit(stop=TIGHT)}


class TestInPlace:
    def test_what_the_derivative_needs_may_not_be_changed(self):
        W = torch.tensor(0.7, requires_grad=True)
        r = eq.fixed_point(lambda z: torch.exp(-W * z).mul_(0.5), torch.zeros(1, 1), **EXACT)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            r.value.sum().backward()

    def test_nor_afterwards(self):
        W = torch.full((2, 2), 0.2, requires_grad=True)
        scale = torch.ones(2)
        r = eq.fixed_point(lambda z: scale * torch.tanh(z @ W) + W[0], torch.zeros(1, 2), **EXACT)
        scale.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            r.value.sum().backward()

    @pytest.mark.parametrize(
        "gradient", [eq.Implicit(stop=TIGHT), eq.Phantom(80, 1.0), eq.Unrolled(200)], ids=repr
    )
    def test_what_it_does_not_need_may(self, gradient):
        b = torch.randn(2, 3, requires_grad=True)

        def gradient_of(f):
            r = eq.fixed_point(f, torch.zeros(2, 3), stop=TIGHT, gradient=gradient)
            return torch.autograd.grad(r.value.square().sum(), b)

        exact = gradient_of(lambda z: 0.5 * torch.sin(z) + b)
        assert relative(gradient_of(lambda z: torch.sin(z).mul_(0.5).add_(b)), exact) < 1e-9

    @pytest.mark.parametrize("solver", [eq.Picard(), eq.Picard(0.5), eq.Anderson(), eq.Broyden()])
    def test_f_may_work_on_its_argument_and_on_a_buffer_of_its_own(self, solver):
        b = torch.randn(2, 3)
        buffer = torch.empty(2, 3)

        def on_argument(z):
            return z.mul_(0.5).add_(b)

        def on_buffer(z):
            return torch.add(0.5 * z, b, out=buffer)

        with torch.no_grad():
            for f in (on_argument, on_buffer):
                for mode in (torch.no_grad, torch.inference_mode):
                    with mode():
                        r = eq.fixed_point(f, torch.zeros(2, 3), solver=solver, stop=TIGHT)
                    assert r.converged.all()
                    assert (r.value - 2 * b).abs().max() < 1e-10


class Memo:
    """Makes ``p * 2`` on its first call and keeps it."""

    def __init__(self, p):
        self.p, self.c = p, None

    def __call__(self, z):
        if self.c is None:
            self.c = self.p * 2
        return 0.5 * torch.sin(z) + self.c


class TestMemo:
    @pytest.mark.parametrize(
        "gradient",
        [
            eq.Implicit(stop=TIGHT),
            eq.Neumann(60),
            eq.JacobianFree(),
            eq.Phantom(80, 1.0),
            eq.Unrolled(200),
        ],
        ids=repr,
    )
    def test_what_f_keeps_from_its_first_call_has_its_gradient(self, gradient):
        p = torch.randn(2, 3, requires_grad=True)

        def gradient_of(f):
            r = eq.fixed_point(f, torch.zeros(2, 3), stop=TIGHT, gradient=gradient)
            return torch.autograd.grad(r.value.square().sum(), p)

        exact = gradient_of(lambda z: 0.5 * torch.sin(z) + 2 * p)
        assert relative(gradient_of(Memo(p)), exact) < 1e-9

    def test_a_solve_without_gradient_before_does_no_harm(self):
        p = torch.randn(2, 3, requires_grad=True)
        f = Memo(p)
        eq.solve(f, torch.zeros(2, 3))
        (g,) = torch.autograd.grad(eq.fixed_point(f, torch.zeros(2, 3)).value.sum(), p)
        assert (g != 0).all()

    def test_second_derivatives(self):
        p = torch.randn(2, 3, requires_grad=True)

        def solve(f):
            return eq.fixed_point(f, torch.zeros(2, 3), **EXACT).value

        assert torch.autograd.gradgradcheck(lambda p: solve(Memo(p)), p)

    def test_without_gradients_nothing_is_recorded(self):
        p = torch.randn(2, 3, requires_grad=True)
        f = Memo(p)
        with torch.no_grad():
            eq.solve(f, torch.zeros(2, 3))
        assert f.c.grad_fn is None


class TestSamplesThatDependOnEachOther:
    def problem(self, n=50):
        M = torch.randn(n, n)
        M = 0.9 * M / torch.linalg.matrix_norm(M, 2)
        return M, torch.randn(n, requires_grad=True)

    @pytest.mark.parametrize("solver", [eq.Picard(), eq.Picard(0.8)], ids=repr)
    @pytest.mark.parametrize("rtol", [1e-3, 1e-8])
    def test_a_state_without_a_batch_is_refused(self, solver, rtol):
        M, b = self.problem()
        stop = eq.Stop(rtol, 3000)
        for solve in (eq.solve, eq.fixed_point):
            with pytest.raises(RuntimeError, match=r"depend on each other.*z0\[None\]") as info:
                solve(lambda z: M @ z + b, torch.zeros(50), solver=solver, stop=stop)
            assert len(str(info.value)) <= 600

    def test_the_remedy_helps(self):
        M, b = self.problem()
        r = eq.fixed_point(lambda z: (M @ z[0] + b)[None], torch.zeros(1, 50), **EXACT)
        z = torch.linalg.solve(torch.eye(50) - M, b)
        ours = torch.autograd.grad(r.value.square().sum(), b)
        assert relative(ours, torch.autograd.grad(z.square().sum(), b)) < 1e-9

    def test_it_is_noticed_in_the_adjoint_if_not_before(self):
        """All samples of the forward solve are done at once: it starts at the solution."""
        M, b = self.problem()
        z = torch.linalg.solve(torch.eye(50) - M, b.detach())
        gradient = eq.Implicit(eq.Picard(), eq.Stop(1e-3, 500))
        r = eq.fixed_point(lambda z: M @ z + b, z, stop=eq.Stop(1e-6), gradient=gradient)
        assert r.converged.all()
        with pytest.raises(RuntimeError, match="depend on each other"):
            r.value.square().sum().backward()

    def test_the_scale_of_a_gradient_does_not_matter(self):
        """Samples that depend on each other have one adjoint equation, which is not rescaled
        sample by sample."""
        weights = torch.tensor([[1.0, 1e-3, 1e3, 1.0]])
        M = 0.5 * torch.eye(4).roll(1, 0)
        b = torch.randn(4, 1, requires_grad=True)
        exact = torch.linalg.solve(torch.eye(4) - M, b)
        r = eq.fixed_point(
            lambda z: M @ z + b,
            exact.detach(),
            stop=eq.Stop(1e-10),
            gradient=eq.Implicit(eq.Picard(), eq.Stop(0.0, 32)),
            on_failure="ignore",
        )
        ours = torch.autograd.grad((weights @ r.value).sum(), b)
        assert relative(ours, torch.autograd.grad((weights @ exact).sum(), b)) < 1e-6

    def test_a_wrong_restriction_is_refused(self):
        """``restrict`` forgets that the samples have different right-hand sides."""
        b = torch.tensor([[1.0], [2.0], [-3.0]], requires_grad=True)
        rates = torch.tensor([[0.1], [0.5], [0.9]])

        class F:
            def __init__(self, rates, b):
                self.rates, self.b = rates, b

            def __call__(self, z):
                return self.rates * z + self.b

            def restrict(self, index):
                return F(self.rates[index], self.b[: len(index)])

        with pytest.raises(RuntimeError, match="restrict"):
            eq.fixed_point(F(rates, b), torch.zeros(3, 1), solver=eq.Picard())

    def test_a_map_that_draws_is_refused(self):
        b = torch.ones(2, 3, requires_grad=True)

        def f(z):
            return 0.5 * z + b + 0.1 * torch.rand(2, 3)

        with pytest.raises(RuntimeError, match=r"draws"):
            eq.fixed_point(f, torch.zeros(2, 3), stop=eq.Stop(5e-3, 5000), on_failure="ignore")


class PerSample:
    """f(z) = tanh(z W) + y, which can leave samples out."""

    def __init__(self, W, y):
        self.W, self.y = W, y

    def __call__(self, z):
        return torch.tanh(z @ self.W + self.y) + self.y

    def restrict(self, index):
        return PerSample(self.W, self.y[index])


class TestOneSampleIsNotFinite:
    def problem(self):
        W = (0.6 * torch.linalg.qr(torch.randn(3, 3))[0]).requires_grad_()
        y = torch.randn(4, 3)
        y[1, 2] = float("nan")
        return W, y.requires_grad_()

    @pytest.mark.parametrize(
        "gradient",
        [
            eq.Implicit(stop=TIGHT),
            eq.JacobianFree(),
            eq.Neumann(80),
            eq.Phantom(100, 1.0),
            eq.Implicit(eq.Anderson(), TIGHT, inexact=1e-9),
        ],
        ids=repr,
    )
    def test_the_others_are_solved_and_differentiated_as_without_it(self, gradient):
        W, y = self.problem()
        good = torch.tensor([0, 2, 3])
        z0 = torch.zeros(4, 3)
        with pytest.warns(eq.EquilibriumWarning, match="1 of 4 samples met a value that is not"):
            r = eq.fixed_point(PerSample(W, y), z0, stop=TIGHT, gradient=gradient)
        assert r.status.tolist() == [0, eq.Status.NONFINITE, 0, 0]
        assert r.value.isfinite().all()
        alone = eq.fixed_point(PerSample(W, y[good]), z0[good], stop=TIGHT, gradient=gradient)
        exact = torch.autograd.grad(alone.value.square().sum(), [W, y])
        ours = torch.autograd.grad(r.value.square().sum(), [W, y])
        assert relative([ours[0], ours[1][good]], [exact[0], exact[1][good]]) < 1e-8
        assert (ours[1][1] == 0).all()
        if isinstance(gradient, eq.Implicit):
            assert r.adjoint.status.tolist() == [0, eq.Status.NONFINITE, 0, 0]
            assert r.adjoint.value.shape == (4, 3)
            assert (r.adjoint.steps[good] == alone.adjoint.steps).all()
            assert r.adjoint.steps[1] == 0

    def test_a_map_that_cannot_leave_samples_out(self):
        W, y = self.problem()
        f = PerSample(W, y).__call__
        good = torch.tensor([0, 2, 3])
        r = eq.fixed_point(f, torch.zeros(4, 3), **EXACT, on_failure="ignore")
        assert r.status.tolist() == [0, eq.Status.NONFINITE, 0, 0]
        alone = eq.fixed_point(PerSample(W, y[good]), torch.zeros(3, 3), **EXACT)
        exact = torch.autograd.grad(alone.value.square().sum(), y)
        ours = torch.autograd.grad(r.value.square().sum(), y)
        assert relative([ours[0][good]], [exact[0][good]]) < 1e-9

    def test_second_derivatives(self):
        W, y = self.problem()
        good = torch.tensor([0, 2, 3])

        def solve(W, part):
            whole = y.detach().index_copy(0, good, part)
            r = eq.fixed_point(PerSample(W, whole), torch.zeros(4, 3), **EXACT, on_failure="ignore")
            return r.value

        part = y.detach()[good].requires_grad_()
        assert torch.autograd.gradcheck(solve, (W, part))
        assert torch.autograd.gradgradcheck(solve, (W, part))

    def test_no_sample_is_finite(self):
        y = torch.full((2, 3), float("nan"), requires_grad=True)
        for gradient in (eq.Implicit(), eq.Phantom(), eq.Unrolled(3)):
            r = eq.fixed_point(
                lambda z: 0.5 * z + y, torch.zeros(2, 3), gradient=gradient, on_failure="ignore"
            )
            assert (r.status == eq.Status.NONFINITE).all()


class TestTransforms:
    def f(self, y):
        return eq.fixed_point(lambda z: 0.5 * z + y, torch.zeros(2, 3)).value

    def test_torch_func_is_refused_in_one_sentence(self):
        y = torch.ones(2, 3)
        many = torch.ones(4, 2, 3)
        solve = lambda y: eq.solve(lambda z: 0.5 * z + y, torch.zeros(2, 3)).value  # noqa: E731
        for call, remedy in (
            (lambda: torch.func.grad(lambda y: self.f(y).sum())(y), "backward"),
            (lambda: torch.func.jacrev(self.f)(y), "backward|first dimension"),
            (lambda: torch.func.vmap(self.f)(many), "first dimension"),
            (lambda: torch.func.vmap(solve)(many), "first dimension"),
            (lambda: torch.func.jacfwd(self.f)(y), "first dimension"),
            (
                lambda: torch.autograd.functional.jacobian(self.f, y, vectorize=True),
                "functional.jacobian",
            ),
            (
                lambda: torch.func.jvp(lambda y: torch.func.jvp(self.f, (y,), (y,))[1], (y,), (y,)),
                "functional.jvp",
            ),
        ):
            with pytest.raises(RuntimeError, match=remedy) as info:
                call()
            assert "z = f(z) cannot be solved inside" in str(info.value)
            assert len(str(info.value)) < 400

    def test_what_the_remedies_name_works(self):
        y = torch.ones(2, 3)
        J = torch.autograd.functional.jacobian(self.f, y)
        assert (J.reshape(6, 6) - 2 * torch.eye(6)).abs().max() < 1e-3
        _, tangent = torch.autograd.functional.jvp(self.f, y, torch.ones_like(y))
        assert (tangent - 2).abs().max() < 1e-3
        constant = torch.func.grad(
            lambda y: (y * eq.solve(lambda z: 0.5 * z + y, torch.zeros(2, 3)).value).sum()
        )(y)
        assert (constant - 2).abs().max() < 1e-3  # a solve without a gradient is a constant


class TestWholeNumbers:
    def test_a_float_that_is_whole_is_one(self):
        assert eq.Stop(1e-3, 100.0).max_steps == 100
        for made, name in (
            (eq.Stop(1e-3, 100.0), "max_steps"),
            (eq.Anderson(5.0), "memory"),
            (eq.Broyden(5.0), "memory"),
            (eq.GMRES(5.0), "memory"),
            (eq.Neumann(5.0), "terms"),
            (eq.Phantom(5.0), "steps"),
            (eq.Unrolled(5.0), "steps"),
        ):
            assert type(getattr(made, name)) is int
        r = eq.solve(lambda z: 0.5 * z + 1, torch.zeros(1, 2), solver=eq.Anderson(5.0))
        assert r.converged.all()

    @pytest.mark.parametrize("value", [2.5, "5", None, True, float("nan"), float("inf"), 0])
    def test_anything_else_is_refused(self, value):
        for make in (
            lambda: eq.Stop(1e-3, value),
            lambda: eq.Anderson(value),
            lambda: eq.Broyden(value),
            lambda: eq.GMRES(value),
            lambda: eq.Phantom(value),
            lambda: eq.Unrolled(value),
        ):
            with pytest.raises(ValueError, match="must be an integer >= 1"):
                make()
        if value != 0:
            with pytest.raises(ValueError, match="must be an integer >= 0"):
                eq.Neumann(value)


class TestArguments:
    """What cannot work is refused before f is called."""

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"solver": "anderson"}, "a solver is an object"),
            ({"solver": eq.Anderson}, "a solver is an object"),
            ({"stop": 1e-4}, "stop must be a Stop"),
            ({"gradient": "implicit"}, "gradient must be"),
            ({"gradient": eq.Implicit}, "gradient must be"),
        ],
        ids=str,
    )
    def test_they_are_checked(self, arguments, words):
        with pytest.raises(TypeError, match=words):
            eq.fixed_point(None, torch.zeros(1, 2), **arguments)
        if "gradient" not in arguments:
            with pytest.raises(TypeError, match=words):
                eq.solve(None, torch.zeros(1, 2), **arguments)
            with pytest.raises(TypeError, match=words):
                eq.Implicit(**arguments)

    def test_a_tolerance_is_a_number(self):
        for bad in ("1e-4", -1.0, float("nan")):
            with pytest.raises(ValueError, match="rtol must be a finite number"):
                eq.Stop(bad)


class TestAutocast:
    """f runs under autocast, whoever calls it; the solver keeps the precision of the state."""

    def test_value_and_gradient(self):
        layer = nn.Linear(20, 20).float()
        y = torch.randn(3, 20).float()

        def solve(autocast):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                r = eq.fixed_point(
                    lambda z: 0.6 * torch.tanh(layer(z)) + y,
                    torch.zeros(3, 20).float(),
                    stop=eq.Stop(1e-3, 60),
                    gradient=eq.Implicit(stop=eq.Stop(1e-2, 60)),
                )
            assert r.converged.all()
            assert r.value.dtype == torch.float32
            return r, torch.autograd.grad(r.value.square().sum(), layer.weight)

        plain, exact = solve(False)
        cast, ours = solve(True)
        assert (plain.value - cast.value).norm() < 1e-2 * plain.value.norm()
        assert 1e-5 < relative(ours, exact) < 3e-2

    def test_the_arithmetic_of_solvers_keeps_its_precision(self):
        M = 0.95 * torch.linalg.qr(torch.randn(30, 30))[0].float()
        b = torch.randn(2, 30).float().requires_grad_()

        def f(z):
            with torch.autocast("cpu", enabled=False):
                return z @ M + b

        for solver in (eq.Anderson(), eq.Broyden(), eq.GMRES(30)):
            plain = eq.solve(f, torch.zeros(2, 30).float(), solver=solver, stop=eq.Stop(1e-5, 500))
            with torch.autocast("cpu", torch.bfloat16):
                r = eq.fixed_point(
                    f,
                    torch.zeros(2, 30).float(),
                    solver=solver,
                    stop=eq.Stop(1e-5, 500),
                    gradient=eq.Implicit(solver, eq.Stop(1e-5, 500)),
                )
                r.value.sum().backward()
            assert (r.steps - plain.steps).abs().max() <= 1
            assert r.adjoint.converged.all()

    def test_second_derivatives_see_the_same_map(self):
        layer = nn.Linear(6, 6).float()
        y = torch.randn(2, 6).float()
        calls = []

        def f(z):
            calls.append(layer(z).dtype)
            return 0.5 * torch.tanh(layer(z)) + y

        with torch.autocast("cpu", torch.bfloat16):
            r = eq.fixed_point(f, torch.zeros(2, 6).float(), stop=eq.Stop(1e-2, 60))
        (g,) = torch.autograd.grad(r.value.sum(), layer.weight, create_graph=True)
        g.sum().backward()
        assert set(calls) == {torch.bfloat16}


class TestHooks:
    def test_checkpoint_with_a_map_that_calls_torch_func_is_told_or_right(self):
        """torch.func does not work inside checkpoint; without it, f is applied without hooks."""
        net, y = Imaging(), torch.randn(2, 9, requires_grad=True)
        exact = torch.autograd.grad(ei_loss(net, net.unrolled, y), [net.W])
        f = net.f
        count = []

        def through_func(y):
            F = f(y)

            def wrapped(z):
                count.append(1)
                return torch.func.vjp(lambda u: u, torch.zeros_like(z))[1](F(z))[0]

            return wrapped

        net.f = through_func
        ours = torch.autograd.grad(ei_loss(net, net.implicit, y), [net.W])
        assert relative(ours, exact) < 1e-9
        with pytest.raises(RuntimeError):
            checkpoint(net.implicit, y, use_reentrant=False)

    def test_an_error_of_f_comes_through_as_it_is(self):
        b = torch.ones(1, 3, requires_grad=True)
        calls = []

        def f(z):
            calls.append(1)
            if z.requires_grad:
                raise RuntimeError("out of memory, say")
            return 0.5 * z + b

        with pytest.raises(RuntimeError, match="out of memory, say"):
            eq.fixed_point(f, torch.zeros(1, 3))


MEMORY = """
import torch, equipoise as eq
torch.set_num_threads(1)
b = torch.randn(2, 8, 128, 128)
megabytes = []

def f(z):
    f.count += 1
    if f.count % 300 == 100:
        with open("/proc/self/statm") as file:
            megabytes.append(int(file.read().split()[1]) * 4096 / 1e6)
    return torch.tanh(0.9 * z.flip(-1)) + b

f.count = 0
eq.solve(f, torch.zeros_like(b), solver=eq.Anderson(5), stop=eq.Stop(0.0, 700), on_failure="ignore")
print(*megabytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident size from /proc")
def test_memory_does_not_grow_with_the_evaluations():
    """After 100, 400 and 700 evaluations; a state has one megabyte."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEMORY], capture_output=True, text=True, check=True
    )
    first, *later = map(float, run.stdout.split())
    assert max(later) < first + 20, run.stdout


def test_the_residuals_are_written_into_memory_that_was_there_before():
    """Also beyond the rows that are set aside at first."""
    r = eq.solve(
        lambda z: 0.9999 * z + 1,
        torch.zeros(2, 1),
        solver=eq.Picard(),
        stop=eq.Stop(0.0, 2500),
        on_failure="ignore",
    )
    assert r.trace.shape == (2500, 2)
    assert (r.trace[1:] < r.trace[:-1]).all()


def test_warnings_come_once():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        eq.solve(lambda z: 1 - z, torch.zeros(1, 1), solver=eq.Picard(), stop=eq.Stop(max_steps=5))
    assert len(caught) == 1
