"""Laws of the losses, whichever trainer calls them."""

from __future__ import annotations

import math

import deepinv
import pytest
import torch

import equipoise as eq
from equipoise.equilibrium.flat import FlatMap
from equipoise.imaging.draws import seeded
from equipoise.imaging.mri import cartesian_mask
from equipoise.learning.losses import (
    Equivariance,
    Example,
    JacobianPenalty,
    MeasurementConsistency,
    MultiOperator,
    Recorrupted,
    Splitting,
    Supervised,
    Weighted,
    contraction,
    evaluate,
)
from equipoise.reconstruction.contraction import measure, row_norms

from .examples import ct, images, mri, small_model


class TestConsistency:
    def test_whitened_misfit_is_the_visible_error(self):
        """With floor δ it is the mean squared error of the image along the operator's range, up to
        δ."""
        physics = eq.ParallelBeam(8, 30, normalize=True)
        x = torch.rand(2, 1, 8, 8, dtype=torch.float64)
        e = torch.randn_like(x)
        plain = MeasurementConsistency()(x_net=x + e, y=physics.A(x), physics=physics)
        assert torch.allclose(plain, physics.A(e).square().flatten(1).mean(1))
        visible = MeasurementConsistency(floor=1e-6)(x_net=x + e, y=physics.A(x), physics=physics)
        assert torch.allclose(visible, e.square().flatten(1).mean(1), rtol=0.05)
        alone = MeasurementConsistency(floor=1e-6)(
            x_net=(x + e)[:1], y=physics.A(x)[:1], physics=physics
        )
        assert torch.allclose(alone, visible[:1], rtol=1e-4)

    def test_stacked_physics_count_every_measurement_once(self):
        parts = [eq.ParallelBeam(8, n, normalize=True) for n in (3, 5)]
        physics = deepinv.physics.StackedLinearPhysics(parts)
        x, e = torch.rand(2, 2, 1, 8, 8, dtype=torch.float64)
        value = MeasurementConsistency(weight=2.0)(x_net=x + e, y=physics.A(x), physics=physics)
        missed = torch.cat([part.A(e).flatten(1) for part in parts], 1)
        assert torch.allclose(value, 2 * missed.square().mean(1))

    def test_weights_count_squares(self):
        """Of a measurement's shape or one that broadcasts to it, with a floor and without."""
        physics = ct().double()
        x = images(2).double()
        e = torch.randn_like(x)
        y = physics.A(x)
        weights = torch.rand(y.shape[-2:], dtype=torch.float64)[None]
        squares = (weights * physics.A(e).square()).flatten(1)
        plain = MeasurementConsistency(weights=weights)
        assert torch.allclose(plain(x_net=x + e, y=y, physics=physics), squares.mean(1))
        per_pixel = MeasurementConsistency(floor=1e-3, weights=weights)
        wanted = squares.sum(1) / x[0].numel()
        assert torch.allclose(per_pixel(x_net=x + e, y=y, physics=physics), wanted)

    def test_with_a_mask_weights_of_one_change_nothing(self):
        """But the floor, of which (mask + δ)⁻¹ is 1 / (1 + δ)."""
        physics = mri()
        x = images(2, 2)
        e = torch.randn_like(x)
        found = []
        for weights in (None, torch.ones(1, 1, 1, dtype=torch.float64)):
            loss = MeasurementConsistency(floor=1e-3, weights=weights)
            found.append(loss(x_net=x + e, y=physics.A(x), physics=physics))
        assert torch.allclose(found[0] * 1.001, found[1], rtol=1e-6)

    def test_supervised_is_the_mean_squared_error(self):
        x, e = torch.rand(2, 3, 1, 8, 8)
        value = Supervised(weight=0.5)(x_net=x + e, x=x)
        assert torch.allclose(value, 0.5 * e.square().flatten(1).mean(1))


class TestEquivariance:
    def test_it_vanishes_for_a_perfect_reconstructor(self):
        physics = eq.ParallelBeam(8, 30)
        x = torch.rand(2, 1, 8, 8, dtype=torch.float64)
        basis = torch.eye(64, dtype=torch.float64).reshape(64, 1, 8, 8)
        inverse = torch.linalg.pinv(physics.A(basis).flatten(1).T)

        def perfect(y, p):
            return (inverse @ y.flatten(1).T).T.reshape(-1, 1, 8, 8)

        def dim(y, p):
            return 0.9 * perfect(y, p)

        loss = Equivariance(eq.Rotations(), noise=False)
        assert float(loss(x_net=x, y=None, physics=physics, model=perfect).max()) < 1e-12
        assert float(loss(x_net=x, y=None, physics=physics, model=dim).min()) > 1e-3

    def test_stop_gradient(self):
        physics = eq.ParallelBeam(8, 4)
        x = torch.rand(1, 1, 8, 8, requires_grad=True)

        def blind(y, p):
            return torch.zeros(1, 1, 8, 8)

        values = [
            Equivariance(eq.Reflections(), noise=False, stop_gradient=stop)(
                x_net=x, physics=physics, model=blind
            )
            for stop in ("image", True, False)
        ]
        assert [value.requires_grad for value in values] == [False, False, True]

    def test_what_may_be_held_fixed(self):
        with pytest.raises(ValueError, match=r'stop_gradient must be .* "image", got \'target\''):
            Equivariance(eq.Reflections(), stop_gradient="target")

    @pytest.mark.parametrize(("stop", "flows"), [("image", False), (True, True), (False, True)])
    def test_a_constant_is_one_as_what_is_measured_too(self, stop, flows):
        physics = eq.ParallelBeam(8, 4)
        x = torch.rand(1, 1, 8, 8, requires_grad=True)
        loss = Equivariance(eq.Reflections(), noise=False, stop_gradient=stop)
        value = loss(x_net=x, physics=physics, model=lambda y, p: p.A_adjoint(y))
        assert value.requires_grad == flows
        assert loss.needs_gradient == flows

    @pytest.mark.parametrize("draws", [1, 3])
    def test_one_batch_gives_the_same_loss_in_parts(self, draws):
        physics, model = ct(), small_model(rtol=1e-11)
        y = physics.A(images(3))
        loss = Equivariance(eq.Rotations(n_trans=draws))

        def loss_of(index):
            with seeded((5,), index), torch.no_grad():
                x = model(y[index], physics)
                return loss(x_net=x, y=y[index], physics=physics, model=model)

        whole = loss_of([0, 1, 2])
        assert len(whole) == 3 * draws
        for i in range(3):
            assert torch.allclose(whole[i::3], loss_of([i]), rtol=1e-6)

    def test_multi_operator_imaging_uses_the_operator_of_another_sample(self):
        masks = [cartesian_mask(16, 16, 2.0, 0.2, seed=k) for k in range(3)]
        physics = deepinv.physics.MRI(mask=torch.stack(masks)[:, None], img_size=(16, 16))
        x = torch.rand(3, 2, 16, 16)
        used = []

        def model(y, physics):
            used.append(physics.mask)
            return x

        value = MultiOperator()(x_net=x, physics=physics, model=model)
        assert value.abs().max() == 0
        assert torch.equal(used[0], physics.mask.roll(1, 0))


class TestSplitting:
    def test_what_is_unrolled_does_not_start_at_the_answer(self):
        """It would remember what it is asked to predict."""
        physics = eq.ParallelBeam(16, 10, normalize=True)
        y = physics.A(eq.phantoms(2, 16))
        step = eq.GradientStep(eq.ConvDenoiser(channels=4, layers=2))
        model = eq.EquilibriumReconstructor(step, gradient=eq.Unrolled(2))
        for loss in (Splitting(parts=5), Equivariance(eq.Rotations(), noise=False)):
            x = model(y, physics)
            torch.manual_seed(0)
            here = loss(x_net=x, y=y, physics=physics, model=model)
            torch.manual_seed(0)
            plain = loss(x_net=x, y=y, physics=physics, model=lambda y, p: model(y, p))
            assert torch.equal(here, plain)

    def test_it_sees_only_the_rest(self):
        physics = eq.ParallelBeam(8, 10)
        shapes = []

        def model(y, p):
            shapes.append(tuple(y.shape))
            return p.A_dagger(y)

        y = physics.A(torch.rand(2, 1, 8, 8))
        value = Splitting(parts=5)(x_net=y, y=y, physics=physics, model=model)
        assert value.shape == (2,)
        assert shapes == [(2, 1, 8, physics.measurement_shape[2])]


class TestRiskEstimates:
    @pytest.mark.parametrize("which", ["r2r", "sure"])
    def test_estimates_of_the_risk_are_unbiased(self, which):
        """Of a linear reconstruction, against the risk that only the truth can tell."""
        sigma, a, c = 0.3, 0.5, 0.8
        physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(sigma))
        rng = torch.Generator().manual_seed(0)
        x = torch.rand(1500, 1, 8, 8, generator=rng, dtype=torch.float64)
        torch.manual_seed(1)
        y = physics(x)

        def model(y, physics):
            return c * y

        given = {"x_net": model(y, physics), "y": y, "physics": physics, "model": model}
        if which == "r2r":
            constant = sigma**2 * (1 + 1 / a**2)
            value = Recorrupted(sigma, a=a)(**given).mean() - constant
            risk = (model(y + a * sigma * torch.randn_like(y), physics) - x).square().mean()
        else:
            value = Weighted(deepinv.loss.SureGaussianLoss(sigma), 2.0)(**given).mean() / 2
            risk = (c * y - x).square().mean()
        assert abs(float(value / risk) - 1) < 0.03


@pytest.mark.parametrize("options", [{"sigma": 0.0}, {"sigma": -1.0}, {"sigma": 0.1, "a": 0.0}])
def test_nothing_is_recorrupted_without_noise(options):
    with pytest.raises(ValueError, match="sigma and a must be > 0"):
        Recorrupted(**options)


class TestPenalty:
    def test_it_lowers_the_gain(self):
        torch.manual_seed(0)
        physics = eq.ParallelBeam(12, 5, normalize=True)
        y = physics.A(torch.rand(3, 1, 12, 12, dtype=torch.float64))
        denoiser = eq.ConvDenoiser(channels=8, layers=3).double()
        with torch.no_grad():
            denoiser.convolutions[-1].weight.mul_(-25)
        model = eq.EquilibriumReconstructor(eq.GradientStep(denoiser), on_failure="ignore")
        penalty = JacobianPenalty(weight=1.0, bound=0.5, along="memory")
        x = torch.rand(3, 1, 12, 12, dtype=torch.float64)
        lost = penalty.evaluate(Example(x * torch.nan, y, physics, model))
        assert not lost.gain.isfinite().any()
        assert lost.direction.isfinite().all()  # processes share it, whether theirs is known or not
        direction = None
        for _ in range(30):  # it turns to where Jᵀ gains most
            found = penalty.evaluate(Example(x, y, physics, model, direction=direction))
            direction = found.direction
        radius = measure(model.step.bind(y, physics), x, iterations=60).radius
        assert found.gain[0] > 0.95 * radius[0]
        optimizer = torch.optim.Adam(model.parameters(), 2e-3)
        for _ in range(30):  # called as deepinv's trainer does, it remembers the direction itself
            before = float(penalty(x_net=x, y=y, physics=physics, model=model))
        assert before == pytest.approx(float(found.value), rel=1e-3)
        assert before > 0.01
        for _ in range(60):
            optimizer.zero_grad()
            penalty(x_net=x, y=y, physics=physics, model=model).backward()
            optimizer.step()
        assert float(penalty(x_net=x, y=y, physics=physics, model=model)) < 0.2 * before

    @pytest.mark.parametrize("solver", [eq.Picard(), eq.Anderson()])
    @pytest.mark.parametrize(("slow", "scale"), [(0.97, 1.0), (0.93, 1e-3), (0.8, 1.0)])
    def test_what_is_left_of_a_solve_tells_where_it_is_slow(self, slow, scale, solver):
        """In one call: f(x) = T (x − y) + y, slow in one direction, which is not known."""
        n = 16
        direction = torch.randn(n * n, dtype=torch.float64)
        direction /= direction.norm()

        class Slow(eq.GradientStep):
            def forward(self, x, y, A):
                e = (x - y).flatten(1)
                along = (e @ direction)[:, None] * direction
                return (0.3 * e + (slow - 0.3) * along).reshape(x.shape) + y

        y = scale * torch.randn(2, 1, n, n, dtype=torch.float64)
        physics = deepinv.physics.Denoising()
        model = eq.EquilibriumReconstructor(Slow(small_model().step.denoiser), solver=solver)
        model.stop = eq.Stop(1e-7, 2000)
        x = model.equilibrium(y, physics, x0=y + scale * torch.randn_like(y)).value.detach()
        found = JacobianPenalty(1.0, 0.9).evaluate(Example(x, y, physics, model))
        assert found.gain.tolist() == pytest.approx([slow, slow], rel=0.02)
        assert float(found.value) == pytest.approx(max(0, slow - 0.9) ** 2, abs=2e-3)
        assert found.direction is None
        there = JacobianPenalty().evaluate(Example(y, y, physics, model))
        assert there.gain.isfinite().all(), "at the equilibrium itself nothing is left"

    @pytest.mark.parametrize("awake", [0, 1, 3])
    def test_only_samples_that_gain_too_much_are_differentiated(self, awake):
        """The value and the gradient are those of the formula over all samples."""
        physics, model = ct().double(), small_model()
        y = physics.A(images(3).double())
        x = model(y, physics).detach()
        F = FlatMap(model.step.bind(y, physics), x)
        z = F.pack(x).requires_grad_()
        gains = JacobianPenalty().evaluate(Example(x, y, physics, model)).gain
        ordered = gains.sort(descending=True).values.tolist()
        edges = [1.01 * ordered[0], *ordered[1:], 0.99 * ordered[-1]]
        bound = 0.5 * (ordered[0] + ordered[1]) if awake == 1 else edges[awake]
        if bound >= 1:
            pytest.skip("everything gains more than that")
        parameters = [p for p in model.parameters() if p.requires_grad]
        value = JacobianPenalty(2.0, bound).evaluate(Example(x, y, physics, model)).value
        found = torch.autograd.grad(value, parameters, allow_unused=True)
        fz = F(z)
        v = contraction._slowest(z, fz)
        (Jv,) = torch.autograd.grad(fz, z, v, create_graph=True)
        wanted_value = 2.0 * torch.relu(row_norms(Jv) - bound).square().mean()
        assert int((gains > bound).sum()) == awake
        assert torch.allclose(value.to(wanted_value), wanted_value, rtol=1e-10, atol=1e-14)
        wanted = torch.autograd.grad(wanted_value, parameters, allow_unused=True)
        for a, b in zip(found, wanted):
            if a is not None or b is not None:
                assert torch.allclose(_or_zero(a, b), _or_zero(b, a), rtol=1e-8, atol=1e-14)

    def test_a_penalty_that_sleeps_can_be_differentiated(self):
        physics, model = ct().double(), small_model()
        y = physics.A(images(2).double())
        value = JacobianPenalty(1.0, 0.999)(
            x_net=model(y, physics), y=y, physics=physics, model=model
        )
        value.backward()
        assert float(value) == 0

    def test_where_it_looks_is_one_of_two(self):
        with pytest.raises(ValueError, match="along must be"):
            JacobianPenalty(along="nowhere")


def _or_zero(gradient, like):
    return torch.zeros_like(like) if gradient is None else gradient


class TestContract:
    def test_what_a_loss_knows_is_in_its_record(self):
        physics, model = ct(), small_model()
        y = physics.A(images(2))
        example = Example(model(y, physics), y, physics, model)
        through = Equivariance(eq.Rotations(), stop_gradient=False)
        for loss in (Splitting(parts=2), through, Recorrupted(0.01)):
            found = evaluate(loss, example)
            assert found.solves
            for solve in found.solves:
                assert solve.value is None
                assert solve.converged.all()
                assert solve.adjoint is None
            found.value.sum().backward(retain_graph=True)
            assert all(solve.adjoint.converged.all() for solve in found.solves)
        constant = Equivariance(eq.Rotations(), stop_gradient="image")
        found = evaluate(constant, example)
        found.value.sum().backward()
        assert [solve.adjoint is None for solve in found.solves] == [True, False]

    def test_any_loss_in_deepinvs_contract_has_a_value(self):
        x = torch.rand(2, 1, 8, 8)
        example = Example(x, x, deepinv.physics.Denoising(), lambda y, p: y, epoch=3)

        class Own(deepinv.loss.Loss):
            def forward(self, x_net, x, y, physics, model):
                return (x_net - y).square().mean() + 1

        assert float(evaluate(Own(), example).value) == 1
        assert evaluate(Own(), example).solves == ()
        assert float(evaluate(lambda epoch, **kwargs: torch.tensor(epoch), example).value) == 3

    def test_ours_work_in_deepinvs_trainer_and_theirs_with_our_model(self, tmp_path):
        physics = eq.ParallelBeam(16, 8, normalize=True)
        model = eq.EquilibriumReconstructor(
            eq.ProximalStep(eq.load_denoiser(), 0.1), stop=eq.Stop(1e-2, 20), on_failure="ignore"
        )
        y = physics.A(torch.rand(4, 1, 16, 16))
        data = torch.utils.data.TensorDataset(torch.full((4, 1, 16, 16), float("nan")), y)
        before = [p.clone() for p in model.parameters()]
        losses = [
            MeasurementConsistency(),
            Equivariance(eq.Rotations()),
            Splitting(parts=2),
            JacobianPenalty(),
            deepinv.loss.EILoss(eq.Shifts()),
        ]
        trainer = deepinv.Trainer(
            model=model,
            physics=physics,
            optimizer=torch.optim.Adam(model.parameters(), 1e-4),
            train_dataloader=torch.utils.data.DataLoader(data, 2),
            losses=losses,
            metrics=[],
            epochs=1,
            save_path=str(tmp_path),
            show_progress_bar=False,
            verbose=False,
            plot_images=False,
        )
        trainer.train()
        after = list(model.parameters())
        assert all(p.isfinite().all() for p in after)
        assert any((p != q).any() for p, q in zip(after, before, strict=True))


@pytest.mark.parametrize("weight", [math.nan, math.inf, -1.0, "1"])
@pytest.mark.parametrize(
    "make",
    [
        lambda weight: eq.MeasurementConsistency(weight),
        lambda weight: eq.Equivariance(eq.Rotations(), weight),
        lambda weight: Splitting(weight=weight),
        lambda weight: Supervised(weight),
    ],
)
def test_a_weight_is_a_number_that_weighs(make, weight):
    with pytest.raises(ValueError, match="weight must be a finite number >= 0, got"):
        make(weight)
