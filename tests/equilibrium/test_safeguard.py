"""What stands behind accelerated steps: laws of single steps, fed by hand."""

from __future__ import annotations

import pytest
import torch

import equipoise as eq
from equipoise.equilibrium.safeguard import WINDOW, Trust

ACCELERATED = [eq.Anderson(memory=6), eq.Broyden(memory=6)]


def problem(n=12, rate=0.9):
    M = rate * torch.linalg.qr(torch.randn(n, n))[0]
    b = torch.randn(2, n)
    return lambda z: torch.tanh(z @ M) + b


def by_two_points(solver, z0, fz0, z1, fz1):
    """Where a solver goes that knows two evaluations only."""
    s, g0, g1 = z1 - z0, fz0 - z0, fz1 - z1
    y = g1 - g0
    if isinstance(solver, eq.Anderson):
        gamma = (y * g1).sum(1) / (y * y).sum(1)
        return fz1 - gamma[:, None] * (fz1 - fz0)
    # Broyden, H₀ = −1: H₁ = −1 + (s + y) sᵀ / (sᵀy) and the next point is z₁ − H₁ g₁.
    return z1 + g1 - (s + y) * ((s * g1).sum(1) / (s * y).sum(1))[:, None]


@pytest.mark.parametrize("solver", ACCELERATED, ids=repr)
class TestAStepThatMadeTheResidualGrow:
    def run(self, solver, factor):
        """Four evaluations; at the fourth, sample 0 has ``factor`` times its smallest residual."""
        f = problem()
        z = torch.zeros(2, 12)
        state = solver.init(z)
        evaluations = []
        for _ in range(3):
            fz = f(z)
            evaluations.append((z, fz))
            z, state = solver.step(z, fz, state)
        smallest = min(float((fz - z)[0].norm()) for z, fz in evaluations)
        fz = f(z)
        direction = torch.randn(12)
        fz[0] = z[0] + factor * smallest * direction / direction.norm()
        evaluations.append((z, fz))
        z, state = solver.step(z, fz, state)
        return f, evaluations, z, state

    def test_it_is_taken_back_and_the_next_one_is_picards(self, solver):
        _, evaluations, z, _ = self.run(solver, 2.1)
        _, fz_before = evaluations[-2]
        assert torch.equal(z[0], fz_before[0])
        assert not torch.allclose(z[1], fz_before[1])  # the other sample goes its way

    def test_a_smaller_growth_is_accepted(self, solver):
        _, evaluations, z, _ = self.run(solver, 1.9)
        assert not torch.allclose(z[0], evaluations[-2][1][0])

    def test_the_memory_is_cleared(self, solver):
        """The step after knows two evaluations: the last accepted one and the new one."""
        f, evaluations, z, state = self.run(solver, 2.1)
        before = evaluations[-2]
        fz = f(z)
        following, _ = solver.step(z, fz, state)
        expected = by_two_points(solver, *before, z, fz)
        assert torch.allclose(following[0], expected[0], rtol=1e-9)
        assert not torch.allclose(following[1], expected[1], rtol=1e-3)

    def test_without_the_safeguard_a_solve_would_be_lost(self, solver):
        """A map with a cliff: beyond it, what was learnt on this side is worth nothing."""
        M = 0.95 * torch.linalg.qr(torch.randn(12, 12))[0]
        b = torch.randn(2, 12)

        def f(z):
            far = (z - centre).norm(dim=1, keepdim=True) > 3 * radius
            return torch.where(far, -20 * z, (z - centre) @ M + centre) + 0 * b

        centre, radius = torch.ones(2, 12), torch.ones(2, 12).norm()
        r = eq.solve(f, torch.zeros(2, 12), solver=solver, stop=eq.Stop(1e-8, 600))
        assert r.converged.all()


def test_broyden_clears_a_full_memory():
    solver = eq.Broyden(memory=3)
    f = problem()
    z = torch.zeros(2, 12)
    state = solver.init(z)
    evaluations = []
    for k in range(5):
        fz = f(z)
        evaluations.append((z, fz))
        z, state = solver.step(z, fz, state)
        if k in (1, 4):  # the first update, and the first after three
            expected = by_two_points(solver, *evaluations[-2], *evaluations[-1])
            assert torch.allclose(z, expected, rtol=1e-9)
        if k in (2, 3):
            expected = by_two_points(solver, *evaluations[-2], *evaluations[-1])
            assert not torch.allclose(z, expected, rtol=1e-3)


def test_broyden_satisfies_the_secant_equation():
    """H y = s for the last step, where H⁻¹ stands for the Jacobian of g."""
    solver = eq.Broyden(memory=5)
    f = problem()
    z = torch.zeros(2, 12)
    state = solver.init(z)
    last = None
    for k in range(5):
        fz = f(z)
        g = fz - z
        following, state = solver.step(z, fz, state)
        if last is not None:
            s, y = z - last[0], g - last[1]
            Hy = -y + (state.U.transpose(1, 2) @ (state.V @ y[:, :, None]))[:, :, 0]
            assert torch.allclose(Hy, s, atol=1e-10), k
        last, z = (z, g), following


def test_gmres_stays_orthonormal_where_differences_are_nearly_parallel():
    """Orthogonalised once, Q would lose seven digits here."""
    n = 40
    solver = eq.GMRES(memory=20)
    Q = torch.linalg.qr(torch.randn(n, n))[0]
    J = torch.eye(n) - Q @ torch.diag(torch.logspace(-9, 0, n)) @ Q.T
    b = torch.randn(3, n)
    z = torch.zeros(3, n)
    state = solver.init(z)
    for _ in range(19):
        z, state = solver.step(z, z @ J + b, state)
    q = state.PQ[:, :18, n:]
    gram = q @ q.transpose(1, 2)
    gap = (gram - torch.diag_embed(gram.diagonal(dim1=1, dim2=2))).abs().max()
    assert gap < 1e-13


def test_gmres_is_gmres():
    """Its minimiser has the smallest residual over the Krylov space, and restarts from there."""
    n, m = 15, 6
    J = torch.randn(n, n) / n**0.5
    b = torch.randn(1, n)
    solver = eq.GMRES(memory=m)
    z = torch.zeros(1, n)
    state = solver.init(z)
    A = torch.eye(n) - J
    krylov = []
    v = b[0]
    for k in range(m):
        z, state = solver.step(z, z @ J.T + b, state)
        if k:
            krylov.append(v)
            v = A @ v
            K = torch.stack(krylov, 1)
            c = torch.linalg.lstsq(A @ K, b[0]).solution
            smallest = (b[0] - A @ K @ c).norm()
            best = solver.candidate(state)
            residual = (best @ J.T + b - best).norm()
            assert residual == pytest.approx(float(smallest), rel=1e-6)


class TestRotations:
    """The plain iteration contracts by the same factor in all directions, and two of them are all
    there is to learn."""

    @pytest.mark.parametrize("solver", [eq.Broyden(), eq.Anderson()], ids=repr)
    @pytest.mark.parametrize("n", [2, 4, 6])
    def test_acceleration_wastes_a_fifth_at_most(self, solver, n):
        rng = torch.Generator().manual_seed(n)
        for rate in (0.9, 0.95, 0.98):
            for _ in range(4):
                G = torch.randn(n, n, generator=rng)
                M = rate * torch.linalg.matrix_exp(3 * (G - G.T))
                b = torch.randn(8, n, generator=rng)
                f = lambda z, M=M, b=b: z @ M + b  # noqa: E731
                stop = eq.Stop(1e-8, 5000)
                plain = eq.solve(f, torch.zeros(8, n), solver=eq.Picard(), stop=stop)
                r = eq.solve(f, torch.zeros(8, n), solver=solver, stop=stop, on_failure="ignore")
                assert r.converged.all()
                assert (r.steps <= 1.2 * plain.steps + 1).all()


class TestWindows:
    """A scripted residual: g(z) has the norm that is asked for."""

    def judge(self, norms):
        """The verdicts on evaluations with these norms (one sample's, or a tuple of several), the
        first of which starts the trust."""
        norms = [torch.tensor(norm).reshape(-1, 1) for norm in norms]
        trust = Trust.start(torch.zeros(len(norms[0]), 3))
        verdicts = []
        for k, norm in enumerate(norms):
            z = torch.full((len(norm), 3), float(k))
            fz = z + norm * torch.tensor([[1.0, 0.0, 0.0]])
            if k == 0:
                trust = trust.first(z, fz)
                continue
            verdict = trust.judge(k, z, fz)
            trust = verdict.trust
            verdicts.append(verdict)
        return verdicts

    def plain(self, norms):
        """1 where the next step is Picard's."""
        return [int(v.plain is not None and bool(v.plain)) for v in self.judge(norms)]

    def test_progress_is_left_alone(self):
        assert not any(self.plain([0.9**k for k in range(60)]))

    def test_what_gains_just_what_is_asked_is_left_alone(self):
        assert not any(self.plain([1.0, *[0.9] * 9, 0.5]))

    def test_a_window_without_progress_brings_five_plain_ones(self):
        slow = [0.99**k for k in range(75)]
        plain = self.plain(slow)
        assert plain[: WINDOW - 1] == [0] * (WINDOW - 1)
        assert plain[WINDOW - 1 : 6 * WINDOW - 1] == [1] * (5 * WINDOW)
        assert plain[6 * WINDOW - 1] == 0  # and then acceleration has another chance

    def test_and_ten_the_next_time(self):
        """The plain windows make the residual fall by 0.99¹⁰, the accelerated ones by less."""
        norms = [1.0]
        for k in range(1, 200):
            accelerated = k <= 10 or 60 < k <= 70
            norms.append(norms[-1] * (0.999 if accelerated else 0.99))
        plain = self.plain(norms)
        assert plain[59:69] == [0] * 10
        assert plain[69:169] == [1] * 100
        assert plain[169] == 0

    def test_what_gains_on_the_plain_windows_is_left_alone(self):
        norms = [1.0]
        for k in range(1, 150):
            norms.append(norms[-1] * (0.999 if k <= 10 else 0.99 if k <= 60 else 0.985))
        assert self.plain(norms)[60:] == [0] * 89

    @pytest.mark.parametrize("growth", [1.01, 1.0])
    def test_plain_windows_end_where_they_do_not_make_the_residual_fall(self, growth):
        norms = [0.999**k for k in range(11)]
        norms += [norms[-1] * growth**k for k in range(1, 20)]
        plain = self.plain(norms)
        assert plain[9:19] == [1] * 10
        assert plain[19] == 0

    def test_what_a_window_lost_is_taken_back(self):
        """By less than the factor that is seen at once."""
        norms = [1.0, *[1.05**k for k in range(1, 11)]]
        verdicts = self.judge(norms)
        assert [v.back is not None and bool(v.back) for v in verdicts] == [False] * 9 + [True]
        assert (verdicts[-1].trust.z == 0).all()
        assert verdicts[-1].trust.norm == 1.0

    def taken_back(self, norms):
        """1 where the evaluation is taken back."""
        return [int(v.back is not None and bool(v.back)) for v in self.judge(norms)]

    def test_growth_is_counted_from_the_smallest_residual_since_the_restart(self):
        assert self.taken_back([1.0, 0.4, 0.7, 0.79, 0.81]) == [0, 0, 0, 1]
        # Taken back to 0.79: from there on, growth is by more than that twice.
        assert self.taken_back([1.0, 0.4, 0.7, 0.79, 0.81, 0.79, 1.57])[-1] == 0
        assert self.taken_back([1.0, 0.4, 0.7, 0.79, 0.81, 0.79, 1.59])[-1] == 1

    def test_a_plain_step_is_not_taken_back(self):
        assert self.taken_back([1.0, 1.0, 2.5, 5.0]) == [0, 1, 0]

    def test_growth_is_counted_anew_after_plain_windows(self):
        norms = [0.99**k for k in range(62)]
        norms[30] = 0.01
        norms[61] = norms[60] * 1.9
        assert sum(self.taken_back(norms)) == 0
        norms[61] = norms[60] * 2.1
        assert self.taken_back(norms)[-1] == 1

    def test_samples_are_judged_each_on_its_own(self):
        """The first rests while the second goes on, and grows at the end."""
        norms = [(0.99**k, 0.8**k) for k in range(16)]
        norms[15] = (norms[15][0], 3 * norms[14][1])
        verdict = self.judge(norms)[-1]
        assert verdict.back.tolist() == [False, True]
        assert verdict.plain.tolist() == [True, True]
        assert self.judge(norms[:15])[-1].plain.tolist() == [True, False]
