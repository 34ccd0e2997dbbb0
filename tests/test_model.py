"""Laws of the steps, the model, its penalty and the objectives."""

from __future__ import annotations

from itertools import pairwise

import deepinv
import pytest
import torch

import equipoise as eq
from equipoise.imaging.draws import seeded, shared
from equipoise.imaging.linear import norm
from equipoise.imaging.mri import cartesian_mask
from equipoise.reconstruction.contraction import convolution_norm, measure
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


STEPS = {
    "gradient": lambda D: eq.GradientStep(D, learnable=True),
    "proximal": lambda D: eq.ProximalStep(D, strength=0.1, learnable=True),
    "red": lambda D: eq.RED(D, strength=0.3, learnable=True),
    "douglas_rachford": lambda D: eq.DouglasRachford(D, strength=0.5, learnable=True),
    "admm": lambda D: eq.ADMM(D, strength=0.5, learnable=True),
    "primal_dual": lambda D: eq.PrimalDual(D, step_size=0.9, learnable=True),
    "mirror": lambda D: eq.MirrorStep(D, learnable=True),
}


@pytest.mark.parametrize("which", STEPS)
def test_two_pass_ei_gradient_through_the_model(tiny, which):
    """Weights, step parameters and measurements: within 1e-9 of 600 unrolled steps, in float64."""
    denoiser, physics, y = tiny
    step, y = STEPS[which](denoiser).double(), y.clone().requires_grad_()
    stop = eq.Stop(1e-13, 800)
    model = eq.EquilibriumReconstructor(step, stop=stop, gradient=eq.Implicit(stop=stop), on_failure="ignore")
    theta = torch.tensor([33.0, -20.0, 75.0], dtype=torch.float64)

    def loss(reconstruct):
        x = reconstruct(y)
        moved = eq.Rotations().transform(x, theta=theta)
        return (physics.A(x) - y).square().sum() + (reconstruct(physics.A(moved)) - moved).square().sum()

    def unrolled(y):
        f = step.bind(y, physics)
        with torch.no_grad():
            z = step.lift(step.start(y, physics), y, physics)
        for _ in range(600):
            z = f(z)
        return step.image(z, y, physics)

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


@pytest.mark.parametrize("which", STEPS)
def test_the_fixed_point_is_one(tiny, which):
    """And ``lift`` finds the whole state that belongs to its image."""
    denoiser, physics, y = tiny
    step = STEPS[which](denoiser)
    if hasattr(step, "tol"):
        step.tol = 1e-12
    model = eq.EquilibriumReconstructor(step.double(), stop=eq.Stop(1e-10, 800))
    r = model.equilibrium(y, physics)
    assert r.converged.all()
    z = step.lift(r.value, y, physics)
    for a, b in zip(*(t if isinstance(t, tuple) else (t,) for t in (step(z, y, physics), z))):
        assert (a - b).norm() < 1e-7 * b.norm()
    again = model.equilibrium(y, physics, x0=torch.rand_like(r.value))
    assert (again.value - r.value).norm() < 1e-7 * r.value.norm()


def test_steps_that_share_their_equilibria(tiny):
    """Splitting methods differ in how they get there: with λ = 1/η all stand at x = D(x − η Aᵀ(A x − y))."""
    denoiser, physics, y = tiny
    same = [
        eq.GradientStep(denoiser, 0.8),
        eq.PrimalDual(denoiser, 0.8),
        eq.ADMM(denoiser, strength=1 / 0.8, tol=1e-12),
        eq.DouglasRachford(denoiser, strength=1 / 0.8, tol=1e-12),
    ]
    first, *others = [eq.EquilibriumReconstructor(step.double(), stop=eq.Stop(1e-11, 800))(y, physics) for step in same]
    assert all((other - first).norm() < 1e-7 * first.norm() for other in others)


def test_red_of_a_linear_denoiser(tiny):
    """D(x) = x / 2: (AᵀA + λ/2) x = Aᵀy."""
    _, physics, y = tiny
    step = eq.RED(lambda x, sigma: x / 2, strength=0.3).double()
    x = eq.EquilibriumReconstructor(step, stop=eq.Stop(1e-12, 800))(y, physics)
    assert (physics.A_adjoint(physics.A(x) - y) + 0.15 * x).norm() < 1e-7 * x.norm()


def test_mirror_descent_raises_the_likelihood_of_counts(tiny):
    _, physics, _ = tiny
    x = 0.2 + torch.rand(2, 1, 12, 12, dtype=torch.float64)
    step = eq.MirrorStep(lambda x, sigma: x).double()
    counts = physics.A(x)
    assert (step(x, counts, physics) - x).abs().max() < 1e-10  # data without noise: the truth is an equilibrium
    counts = torch.poisson(200 * counts) / 200

    def loss(z):
        seen = physics.A(z).clamp_min(1e-3)
        return float((seen - counts * seen.log()).sum())

    z, values = torch.ones_like(x), []
    for _ in range(20):
        z = step(z, counts, physics)
        values.append(loss(z))
    assert all(b < a for a, b in pairwise(values))
    assert (z >= 0).all()


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


@pytest.mark.parametrize(("out", "inside", "k"), [(4, 3, 3), (1, 5, 5), (6, 6, 1)])
def test_norm_of_a_convolution(out, inside, k):
    """An upper bound, and close: against power iteration on the convolution itself."""
    weight = torch.randn(out, inside, k, k, dtype=torch.float64, generator=torch.Generator().manual_seed(k))
    A = lambda x: torch.nn.functional.conv2d(x, weight, padding=k // 2)  # noqa: E731
    At = lambda y: torch.nn.functional.conv_transpose2d(y, weight, padding=k // 2)  # noqa: E731
    true = norm(A, At, torch.zeros(1, inside, 48, 48, dtype=torch.float64), tol=1e-9, max_iter=3000)
    assert true <= float(convolution_norm(weight)) <= 1.25 * true


def test_bounded_networks_stay_so_whatever_is_learnt():
    torch.manual_seed(0)
    network = eq.bounded(
        torch.nn.Sequential(torch.nn.Conv2d(1, 6, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(6, 1, 3, padding=1))
    )
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(50)
    x, e = torch.randn(2, 8, 1, 16, 16)
    assert ((network(x + e) - network(x)).flatten(1).norm(dim=1) <= e.flatten(1).norm(dim=1) * 1.0001).all()
    with pytest.raises(ValueError, match="stride, dilation and groups 1"):
        eq.bounded(torch.nn.Conv2d(1, 1, 3, stride=2))


class TestPriors:
    def test_invariant_denoisers_commute_with_the_group(self):
        torch.manual_seed(0)
        group = eq.Rotations(multiples=90) * eq.Reflections(("x",))
        denoiser = eq.Invariant(eq.ConvDenoiser(channels=4, layers=2).double(), group)
        assert len(denoiser.moves) == 8
        x = torch.rand(2, 1, 10, 10, dtype=torch.float64)
        for move in denoiser.moves:
            a, b = group.transform(denoiser(x), **move), denoiser(group.transform(x, **move))
            assert (a - b).abs().max() < 1e-14
        assert (denoiser.denoiser(x.rot90(1, (2, 3))) - denoiser.denoiser(x).rot90(1, (2, 3))).abs().max() > 1e-6
        with pytest.raises(ValueError, match="no finite group"):
            eq.Invariant(denoiser, eq.Rotations())

    def test_a_proximal_network_is_a_proximal_map(self):
        torch.manual_seed(0)
        D = eq.ProximalNetwork(channels=6, layers=3).double()
        with torch.no_grad():
            for p in D.parameters():
                p.add_(0.1 * torch.randn_like(p))
        x = torch.rand(1, 1, 6, 6, dtype=torch.float64)
        J = torch.autograd.functional.jacobian(lambda v: D(v, 0.1), x).reshape(36, 36)
        assert (J - J.T).abs().max() < 1e-12
        assert float(torch.linalg.eigvalsh(J).min()) >= D.convexity - 1e-9
        # D(x) minimises ½‖u − x‖² + φ(u): over all u = D(z), at which φ is known
        z = x + 0.5 * torch.randn(200, 1, 6, 6, dtype=torch.float64)
        value = 0.5 * (D(z, 0.1) - x).square().flatten(1).sum(1) + D.prior(z, 0.1)
        assert float(value.min()) >= float(0.5 * (D(x, 0.1) - x).square().sum() + D.prior(x, 0.1))

    def test_a_proximal_network_in_a_model(self):
        torch.manual_seed(0)
        physics = eq.ParallelBeam(8, 6, normalize=True)
        y = physics.A(torch.rand(2, 1, 8, 8, dtype=torch.float64))
        D = eq.ProximalNetwork(channels=4, layers=2).double()
        with torch.no_grad():
            D.Q.weight.mul_(0.7)
        stop = eq.Stop(1e-11, 400)
        model = eq.EquilibriumReconstructor(
            eq.ProximalStep(D, 0.3, tol=1e-13).double(), stop=stop, gradient=eq.Implicit(stop=stop)
        )
        weight = D.Q.weight
        (g,) = torch.autograd.grad(model(y, physics).square().sum(), weight)
        e = torch.randn_like(weight)
        with torch.no_grad():
            values = []
            for h in (1e-5, -1e-5):
                weight.add_(h * e)
                values.append(float(model(y, physics).square().sum()))
                weight.sub_(h * e)
        assert abs((values[0] - values[1]) / 2e-5 - float((g * e).sum())) < 1e-5 * abs(float((g * e).sum()))

    @pytest.mark.parametrize("name", ["shipped", "unet"])
    def test_shipped_weights_denoise(self, name):
        x = eq.phantoms(4, 63, 900)
        noisy = x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            out = eq.load_denoiser(name)(noisy, 0.05)
        assert out.shape == x.shape
        assert (out - x).square().mean() < 0.2 * (noisy - x).square().mean()


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


class TestRandomness:
    def test_what_a_sample_draws_does_not_depend_on_its_batchmates(self):
        x, group = torch.rand(4, 1, 8, 8), eq.Rotations() * eq.Shifts()
        with seeded((3, 7), [0, 1, 2, 3]):
            whole, again = group.get_params(x), group.get_params(x)
        with seeded((3, 7), [2, 3]):
            half = group.get_params(x[2:])
        for key in whole:
            assert torch.equal(whole[key][2:], half[key])
            assert len(whole[key].unique()) > 1
            assert not torch.equal(whole[key], again[key])
        with seeded((3, 8), [2, 3]):
            assert not torch.equal(group.get_params(x[2:])["theta"], half["theta"])

    def test_shared_draws(self):
        def draw(samples):
            with seeded((1, 2), samples):
                return [int(shared(lambda: torch.randint(1000, ()))) for _ in range(4)]

        assert draw([0, 1]) == draw([5])
        assert len(set(draw([0]))) > 1
