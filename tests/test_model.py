"""Laws of the steps, the model, its penalty and the objectives."""

from __future__ import annotations

import deepinv
import pytest
import torch

import equipoise as eq
from equipoise.imaging.mri import cartesian_mask
from equipoise.learning.objectives import Splitting
from equipoise.reconstruction.contraction import measure
from equipoise.reconstruction.denoisers import ComplexDenoiser, save_denoiser


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


def steps(denoiser):
    return [eq.GradientStep(denoiser, learnable=True), eq.ProximalStep(denoiser, strength=0.1, learnable=True)]


@pytest.mark.parametrize("which", [0, 1])
def test_two_pass_ei_gradient_through_the_model(tiny, which):
    """Weights, step parameters and measurements: within 1e-9 of 1,500 unrolled steps, in float64."""
    denoiser, physics, y = tiny
    step, y = steps(denoiser)[which].double(), y.clone().requires_grad_()
    stop = eq.Stop(1e-13, 800)
    model = eq.EquilibriumReconstructor(step, stop=stop, gradient=eq.Implicit(stop=stop), on_failure="ignore")
    theta = torch.tensor([33.0, -20.0, 75.0], dtype=torch.float64)

    def loss(reconstruct):
        x = reconstruct(y)
        moved = eq.Rotations().transform(x, theta=theta)
        return (physics.A(x) - y).square().sum() + (reconstruct(physics.A(moved)) - moved).square().sum()

    def unrolled(y):
        x, f = step.start(y, physics).detach(), step.bind(y, physics)
        for _ in range(1500):
            x = f(x)
        return x

    inputs = [y, *model.parameters()]
    exact = torch.autograd.grad(loss(unrolled), inputs)
    ours = torch.autograd.grad(loss(lambda y: model(y, physics)), inputs)
    for a, b in zip(ours, exact):
        assert (a - b).norm() <= 1e-9 * b.norm() + 1e-16


def test_denoisers_are_given_channels_last_and_those_that_cannot_take_it_the_other(tiny):
    _, physics, y = tiny
    layouts = []

    class Viewing(torch.nn.Module):
        def __init__(self, flatten):
            super().__init__()
            torch.manual_seed(0)
            self.first = torch.nn.Conv2d(1, 4, 3, padding=1).double()
            self.last = torch.nn.Conv2d(4, 1, 3, padding=1).double()
            self.flatten = flatten

        def forward(self, x, sigma):
            h = self.first(x)
            layouts.append(h.is_contiguous(memory_format=torch.channels_last))
            return 0.5 * torch.tanh(self.last(self.flatten(h, len(h), -1).reshape(h.shape)))

    strict, easy = (eq.GradientStep(Viewing(flatten)) for flatten in (torch.Tensor.view, torch.Tensor.reshape))
    outs = [eq.EquilibriumReconstructor(step, stop=eq.Stop(1e-10, 200))(y, physics) for step in (easy, strict)]
    assert layouts[0]
    assert not layouts[-1]
    assert (outs[0] - outs[1]).abs().max() < 1e-9

    def broken(x, sigma):
        raise RuntimeError("out of coffee")

    with pytest.raises(RuntimeError, match="coffee"):
        eq.GradientStep(broken).denoise(y)


def test_the_fixed_point_is_one(tiny):
    denoiser, physics, y = tiny
    for step in steps(denoiser):
        model = eq.EquilibriumReconstructor(step, stop=eq.Stop(1e-10, 500))
        r = model.equilibrium(y, physics)
        assert r.converged.all()
        assert (step(r.value, y, physics) - r.value).norm() < 1e-9 * r.value.norm()
        again = model.equilibrium(y, physics, x0=torch.randn_like(r.value))
        assert (again.value - r.value).norm() < 1e-8 * r.value.norm()


def test_an_image_does_not_depend_on_its_batchmates(tiny):
    denoiser, physics, y = tiny
    model = eq.EquilibriumReconstructor(eq.GradientStep(denoiser), stop=eq.Stop(1e-8, 500))
    together = model(y, physics)
    for i in range(3):
        assert (model(y[i : i + 1], physics) - together[i]).abs().max() < 1e-10


@pytest.mark.parametrize("stacked", [False, True])
def test_physics_that_take_whole_batches(stacked):
    """A mask for each sample, or a list of measurements, and one sample that is done at once."""
    torch.manual_seed(0)
    mask = (torch.rand(3, 1, 16, 16) < 0.7).float()
    if stacked:
        one = [eq.ParallelBeam(16, n, normalize=True) for n in (5, 8)]
        physics = deepinv.physics.StackedLinearPhysics(one)
        x = torch.rand(3, 1, 16, 16)
    else:
        physics = deepinv.physics.MRI(mask=mask, img_size=(16, 16))
        x = torch.rand(3, 2, 16, 16)
    x[0] = 0
    y = physics.A(x)

    class Half(torch.nn.Module):
        def forward(self, x, sigma):
            return 0.5 * x

    model = eq.EquilibriumReconstructor(eq.GradientStep(Half(), step_size=0.3), stop=eq.Stop(1e-5, 200))
    r = model.equilibrium(y, physics)
    assert r.converged.all()
    assert int(r.steps[0]) < int(r.steps[1])
    assert eq.MeasurementConsistency()(x_net=r.value, y=y, physics=physics).shape == (3,)


def test_mri_proximal_step_is_the_minimiser():
    physics = deepinv.physics.MRI(mask=cartesian_mask(16, 16, 4, 0.1), img_size=(16, 16))
    step = eq.ProximalStep(ComplexDenoiser(eq.ConvDenoiser(channels=4, layers=2)), strength=0.3)
    x, y = torch.randn(2, 2, 16, 16), physics.A(torch.randn(2, 2, 16, 16))
    u, d = step(x, y, physics), step.denoise(x)
    assert (physics.A_adjoint(physics.A(u) - y) + 0.3 * (u - d)).abs().max() < 1e-5


def test_bad_settings_say_bound_value_and_remedy():
    denoiser = eq.ConvDenoiser(channels=2, layers=2)
    with pytest.raises(ValueError, match=r"step_size must be in \(0, 2.0\), got 3.1; normalise"):
        eq.GradientStep(denoiser, step_size=3.1)
    with pytest.raises(ValueError, match="strength must be > 0"):
        eq.ProximalStep(denoiser, strength=0)
    with pytest.raises(ValueError, match="sigma must be >= 0"):
        eq.ProximalStep(denoiser, sigma=-1)


def test_monitor_and_penalty_know_a_linear_map():
    """f(x) = M x with a known spectral radius and norm."""
    torch.manual_seed(1)
    n = 6
    Q = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0]
    M = torch.diag(torch.linspace(0.1, 0.8, n, dtype=torch.float64))
    M[0, 1] = 2.0
    M = Q @ M @ Q.T
    r = measure(lambda x: x @ M.T, torch.zeros(2, n, dtype=torch.float64), iterations=200)
    assert torch.allclose(r.radius, torch.full((2,), 0.8, dtype=torch.float64), rtol=1e-3)
    assert torch.allclose(r.norm, torch.linalg.matrix_norm(M, 2).expand(2), rtol=1e-3)


def test_penalty_lowers_the_gain(tiny):
    _, physics, y = tiny
    torch.manual_seed(0)
    denoiser = eq.ConvDenoiser(channels=8, layers=3).double()
    with torch.no_grad():
        denoiser.convolutions[-1].weight.mul_(-25)
    model = eq.EquilibriumReconstructor(eq.GradientStep(denoiser), on_failure="ignore")
    penalty = eq.JacobianPenalty(weight=1.0, bound=0.5, iterations=8)
    x = torch.rand(3, 1, 12, 12, dtype=torch.float64)
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
        loss = eq.Equivariance(eq.Reflections(), noise=False, stop_gradient=True)(x_net=x, physics=physics, model=blind)
        assert not loss.requires_grad

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


class TestDenoiser:
    def test_shipped_one_denoises_what_it_never_saw(self):
        clean = eq.phantoms(6, 64, seed=12345)
        noisy = clean + 0.05 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            out = eq.load_denoiser()(noisy, 0.05)
        gain = 10 * torch.log10((noisy - clean).square().mean() / (out - clean).square().mean())
        assert float(gain) > 7

    def test_saved_and_loaded(self, tmp_path):
        a = eq.ConvDenoiser(2, 5, 3)
        save_denoiser(a, tmp_path / "d.safetensors", {"command": "none"})
        b = eq.load_denoiser(tmp_path / "d.safetensors")
        x = torch.rand(2, 2, 9, 9)
        assert torch.equal(a(x, 0.1), b(x, 0.1))
        with pytest.raises(FileNotFoundError, match="equipoise pretrain"):
            eq.load_denoiser(tmp_path / "nothing.safetensors")

    def test_noise_level_per_sample(self):
        d, x = eq.load_denoiser(), torch.rand(2, 1, 16, 16)
        both = d(x, torch.tensor([0.02, 0.1]))
        assert torch.allclose(both[1:], d(x[1:], 0.1), atol=1e-6)
        assert not torch.allclose(both[0], d(x[:1], 0.1)[0], atol=1e-6)
