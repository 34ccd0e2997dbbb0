"""Laws of the loop: what it reports, and what it says when it fails."""

from __future__ import annotations

import pytest
import torch

import equipoise as eq


class TestFailure:
    def test_expansion_is_told(self):
        with pytest.warns(eq.EquilibriumWarning, match="2 of 2 samples"):
            r = eq.solve(
                lambda z: 2 * z + 1,
                torch.ones(2, 3),
                solver=eq.Picard(),
                stop=eq.Stop(max_steps=10),
            )
        assert (r.status == eq.Status.MAX_STEPS).all()
        # ‖f(z) − z‖ is 2, 4, 8, … ‖1‖: the best iterate is the first, though ‖f(z)‖ grows faster
        assert (r.value == 1).all()
        assert (r.residual == r.trace[0]).all()
        assert (r.trace.min(0).values < r.residual).all()

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
            lambda z: 0.99 * z + y,
            torch.zeros(1, 3),
            solver=eq.Anderson(),
            gradient=eq.Implicit(eq.Picard(), eq.Stop(1e-8, 5)),
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

    def test_a_finished_sample_whose_residual_grows_a_little_is_told_as_it_is(self):
        """f stops an iteration of its own on the whole batch, say."""
        others = []

        def f(z):
            others.append(1)
            late = 3e-3 if len(others) > 6 else 0.0
            return torch.cat([0.5 * z[:1] + 1 + late, 0.9 * z[1:] + 1])

        start = torch.tensor([[2.0], [0.0]])
        r = eq.solve(f, start, solver=eq.Picard(), stop=eq.Stop(1e-3, 200), on_failure="ignore")
        assert r.status.tolist() == [eq.Status.MAX_STEPS, eq.Status.CONVERGED]
        assert r.residual[0] == pytest.approx(3e-3 / 2.003)
        assert r.steps[0] == 1

    def test_states_without_numbers(self):
        r = eq.solve(lambda z: z, torch.zeros(3, 0))
        assert r.converged.all()

    def test_a_start_that_is_not_finite(self):
        def solve(f, start):
            z0 = torch.full((1, 2), float(start))
            return eq.solve(f, z0, on_failure="ignore")

        assert solve(lambda z: 0.5 * torch.tanh(z) + 1, "inf").converged.all()
        assert solve(lambda z: 0.5 * z + 1, "nan").status == eq.Status.NONFINITE


@pytest.mark.parametrize("out", [None, 0.5, [1], (), "z"], ids=repr)
def test_what_is_no_state_is_told(out):
    for z in (torch.ones(2, 3), (torch.ones(2, 3), torch.ones(2))):
        wanted = "one tensor" if isinstance(z, torch.Tensor) else "a tuple of 2 tensors"
        with pytest.raises(TypeError, match=f"f must return {wanted}, like z0; got"):
            eq.solve(lambda z: out, z)
    with pytest.raises(TypeError, match=r"got a tuple of 2 \(Tensor, NoneType\)"):
        eq.solve(lambda z: (z[0], None), (torch.ones(2, 3), torch.ones(2)))
