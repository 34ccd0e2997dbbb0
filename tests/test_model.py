"""Laws of the steps, the model, its penalty and the objectives."""

from __future__ import annotations

import deepinv
import pytest
import torch

import equipoise as eq
from equipoise.imaging.draws import seeded
from equipoise.imaging.mri import cartesian_mask
from equipoise.learning.objectives import Splitting, Weighted
from equipoise.reconstruction.contraction import measure


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


def test_penalty_lowers_the_gain(tiny):
    _, physics, y = tiny
    torch.manual_seed(0)
    denoiser = eq.ConvDenoiser(channels=8, layers=3).double()
    with torch.no_grad():
        denoiser.convolutions[-1].weight.mul_(-25)
    model = eq.EquilibriumReconstructor(eq.GradientStep(denoiser), on_failure="ignore")
    penalty = eq.JacobianPenalty(weight=1.0, bound=0.5)
    x = torch.rand(3, 1, 12, 12, dtype=torch.float64)
    penalty(x_net=x * torch.nan, y=y, physics=physics, model=model)
    assert not penalty.gain.isfinite().any()
    assert penalty.direction.isfinite().all()  # processes share it, whether or not theirs told them one
    for _ in range(30):  # its direction is remembered, and turns to where Jᵀ gains most
        penalty(x_net=x, y=y, physics=physics, model=model)
    radius = measure(model.step.bind(y, physics), x, iterations=60).radius
    assert penalty.gain[0] > 0.95 * radius[0]
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    before = float(penalty(x_net=x, y=y, physics=physics, model=model))
    assert before > 0.01
    for _ in range(60):
        optimizer.zero_grad()
        penalty(x_net=x, y=y, physics=physics, model=model).backward()
        optimizer.step()
    assert float(penalty(x_net=x, y=y, physics=physics, model=model)) < 0.2 * before


class TestObjectives:
    def test_whitened_misfit_is_the_visible_error(self):
        """With floor δ it is the mean squared error of the image along the operator's range, up to δ."""
        physics = eq.ParallelBeam(8, 30, normalize=True)
        x = torch.rand(2, 1, 8, 8, dtype=torch.float64)
        e = torch.randn_like(x)
        plain = eq.MeasurementConsistency()(x_net=x + e, y=physics.A(x), physics=physics)
        assert torch.allclose(plain, physics.A(e).square().flatten(1).mean(1))
        seen = eq.MeasurementConsistency(floor=1e-6)(x_net=x + e, y=physics.A(x), physics=physics)
        assert torch.allclose(seen, e.square().flatten(1).mean(1), rtol=0.05)

    def test_equivariance_vanishes_for_a_perfect_reconstructor(self):
        physics = eq.ParallelBeam(8, 30)
        x = torch.rand(2, 1, 8, 8, dtype=torch.float64)
        dense = physics.A(torch.eye(64, dtype=torch.float64).reshape(64, 1, 8, 8)).flatten(1)
        perfect = lambda y, p: (torch.linalg.pinv(dense.T) @ y.flatten(1).T).T.reshape(-1, 1, 8, 8)  # noqa: E731
        loss = eq.Equivariance(eq.Rotations(), noise=False)
        assert float(loss(x_net=x, y=None, physics=physics, model=perfect).max()) < 1e-12
        assert float(loss(x_net=x, y=None, physics=physics, model=lambda y, p: 0.9 * perfect(y, p)).min()) > 1e-3

    def test_stop_gradient(self):
        physics = eq.ParallelBeam(8, 4)
        x = torch.rand(1, 1, 8, 8, requires_grad=True)
        blind = lambda y, p: torch.zeros(1, 1, 8, 8)  # noqa: E731
        loss = eq.Equivariance(eq.Reflections(), noise=False)(x_net=x, physics=physics, model=blind)
        assert not loss.requires_grad
        assert eq.Equivariance(eq.Reflections(), noise=False, stop_gradient=False)(
            x_net=x, physics=physics, model=blind
        ).requires_grad

    def test_what_is_unrolled_does_not_start_at_the_answer(self):
        """It would remember what it is asked to predict."""
        physics = eq.ParallelBeam(16, 10, normalize=True)
        y = physics.A(eq.phantoms(2, 16))
        model = eq.EquilibriumReconstructor(eq.GradientStep(eq.ConvDenoiser(channels=4, layers=2)), gradient=eq.Unrolled(2))
        losses = [Splitting(parts=5), eq.Equivariance(eq.Rotations(), noise=False)]
        for loss in losses:
            torch.manual_seed(0)
            here = loss(x_net=(x := model(y, physics)), y=y, physics=physics, model=model)
            torch.manual_seed(0)
            plain = loss(x_net=x, y=y, physics=physics, model=lambda y, physics: model(y, physics))
            assert torch.equal(here, plain)

    def test_splitting_sees_only_the_rest(self):
        physics = eq.ParallelBeam(8, 10)
        shapes = []

        def model(y, p):
            shapes.append(tuple(y.shape))
            return p.A_dagger(y)

        y = physics.A(torch.rand(2, 1, 8, 8))
        assert Splitting(parts=5)(x_net=y, y=y, physics=physics, model=model).shape == (2,)
        assert shapes == [(2, 1, 8, physics.measurement_shape[2])]

    def test_ours_work_in_deepinvs_trainer_and_theirs_with_our_model(self, tmp_path):
        physics = eq.ParallelBeam(16, 8, normalize=True)
        model = eq.EquilibriumReconstructor(eq.ProximalStep(eq.load_denoiser(), 0.1), stop=eq.Stop(1e-2, 20), on_failure="ignore")
        y = physics.A(torch.rand(4, 1, 16, 16))
        data = torch.utils.data.TensorDataset(torch.full((4, 1, 16, 16), float("nan")), y)
        before = [p.clone() for p in model.parameters()]
        trainer = deepinv.Trainer(
            model=model,
            physics=physics,
            optimizer=torch.optim.Adam(model.parameters(), 1e-4),
            train_dataloader=torch.utils.data.DataLoader(data, 2),
            losses=[eq.MeasurementConsistency(), eq.Equivariance(eq.Rotations()), deepinv.loss.EILoss(eq.Shifts())],
            metrics=[],
            epochs=1,
            save_path=str(tmp_path),
            show_progress_bar=False,
            verbose=False,
            plot_images=False,
        )
        trainer.train()
        assert all(p.isfinite().all() for p in model.parameters())
        assert any((p != q).any() for p, q in zip(model.parameters(), before))


class TestRandomness:
    @pytest.mark.parametrize("n", [1, 3])
    def test_one_batch_gives_the_same_loss_in_parts(self, tiny, n):
        denoiser, physics, y = tiny
        physics.noise_model = deepinv.physics.GaussianNoise(0.01)
        model = eq.EquilibriumReconstructor(eq.GradientStep(denoiser).double(), stop=eq.Stop(1e-11, 500))
        loss = eq.Equivariance(eq.Rotations(n_trans=n))

        def of(index):
            with seeded((5,), index), torch.no_grad():
                x = model(y[index], physics)
                return loss(x_net=x, y=y[index], physics=physics, model=model)

        whole, parts = of([0, 1, 2]), [of([i]) for i in range(3)]
        assert len(whole) == 3 * n
        for i in range(3):
            assert torch.allclose(whole[i::3], parts[i], rtol=1e-6)


class TestOtherObjectives:
    @pytest.mark.parametrize("which", ["r2r", "sure"])
    def test_estimates_of_the_risk_are_unbiased(self, which):
        """Of a linear reconstruction, against the risk that only the truth can tell."""
        sigma, a, c = 0.3, 0.5, 0.8
        physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(sigma))
        x = torch.rand(1500, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        torch.manual_seed(1)
        y = physics(x)

        def model(y, physics):
            return c * y

        given = {"x_net": model(y, physics), "y": y, "physics": physics, "model": model}
        if which == "r2r":
            value = eq.Recorrupted(sigma, a=a)(**given).mean() - sigma**2 * (1 + 1 / a**2)
            risk = (model(y + a * sigma * torch.randn_like(y), physics) - x).square().mean()
        else:
            value = Weighted(deepinv.loss.SureGaussianLoss(sigma), 2.0)(**given).mean() / 2
            risk = (c * y - x).square().mean()
        assert abs(float(value / risk) - 1) < 0.03

    def test_multi_operator_imaging_uses_the_operator_of_another_sample(self):
        masks = torch.stack([cartesian_mask(16, 16, 2.0, 0.2, seed=k) for k in range(3)])[:, None]
        physics = deepinv.physics.MRI(mask=masks, img_size=(16, 16))
        x, seen = torch.rand(3, 2, 16, 16), []

        def model(y, physics):
            seen.append(physics.mask)
            return x

        assert eq.MultiOperator()(x_net=x, physics=physics, model=model).abs().max() == 0
        assert torch.equal(seen[0], physics.mask.roll(1, 0))
