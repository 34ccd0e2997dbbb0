"""Laws of the reconstructor."""

from __future__ import annotations

import deepinv
import pytest
import torch

import equipoise as eq
from equipoise.reconstruction.model import ModelSettings

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
    model = eq.EquilibriumReconstructor(
        step, stop=stop, gradient=eq.Implicit(stop=stop), on_failure="ignore"
    )
    theta = torch.tensor([33.0, -20.0, 75.0], dtype=torch.float64)

    def loss(reconstruct):
        x = reconstruct(y)
        moved = eq.Rotations().transform(x, theta=theta)
        return (physics.A(x) - y).square().sum() + (
            reconstruct(physics.A(moved)) - moved
        ).square().sum()

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

    model = eq.EquilibriumReconstructor(
        eq.GradientStep(Half(), step_size=0.3), stop=eq.Stop(1e-5, 200)
    )
    r = model.equilibrium(y, physics)
    assert r.converged.all()
    assert int(r.steps[0]) < int(r.steps[1])
    assert eq.MeasurementConsistency()(x_net=r.value, y=y, physics=physics).shape == (3,)


class TestWhatAModelIsGiven:
    """Whatever is no measurement, or no operator, is refused in words of ours."""

    @pytest.fixture
    def parts(self):
        torch.manual_seed(0)
        physics = eq.ParallelBeam(12, 5, normalize=True)
        step = eq.ProximalStep(eq.ConvDenoiser(channels=4, layers=3))
        model = eq.EquilibriumReconstructor(step, stop=eq.Stop(1e-2, 5), on_failure="ignore")
        return model, physics, physics.A(torch.rand(2, 1, 12, 12))

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda y: y.double(), r"y is torch\.float64 and the model torch\.float32"),
            (lambda y: y.numpy(), r"y: measurements are a tensor.* torch\.as_tensor"),
            (lambda y: y.to("meta"), "y is on meta and the model on cpu"),
        ],
        ids=["double", "numpy", "device"],
    )
    def test_measurements(self, parts, change, words):
        model, physics, y = parts
        with pytest.raises(TypeError, match=words):
            model(change(y), physics)

    def test_whole_numbers_are_measurements(self, parts):
        model, physics, y = parts
        counts = (100 * y).long()
        assert torch.equal(model(counts, physics), model(counts.float(), physics))

    def test_no_operator(self, parts):
        model, _, y = parts
        with pytest.raises(TypeError, match=r"needs the operator that made y .* got NoneType"):
            model(y, None)

    def test_what_the_solve_says_itself_is_not_explained_away(self, parts):
        """A denoiser may take other numbers than its own, and a lone number goes with any: that
        works, and a solve that fails says so."""
        _, physics, y = parts

        class Half(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.share = torch.nn.Parameter(torch.tensor([0.5]))

            def forward(self, x, sigma):
                return self.share.to(x) * x

        step = eq.GradientStep(Half(), step_size=0.3, learnable=True)
        model = eq.EquilibriumReconstructor(step, stop=eq.Stop(1e-12, 2), on_failure="raise")
        with pytest.raises(eq.EquilibriumError, match="max_steps=2"):
            model(y.double(), physics)

    @pytest.mark.parametrize(
        ("error", "calls"), [(torch.cuda.OutOfMemoryError("full"), 1), (RuntimeError("view"), 2)]
    )
    def test_memory_that_is_full_is_no_matter_of_layout(self, parts, error, calls):
        """Another layout is tried for what a layout may mend."""
        _, physics, y = parts
        seen = []

        class Refuses(torch.nn.Module):
            def forward(self, x, sigma):
                seen.append(x)
                raise error

        step = eq.GradientStep(Refuses())
        with pytest.raises(type(error), match=str(error)):
            step.denoise(physics.A_adjoint(y))
        assert len(seen) == calls
        assert step.any_layout

    def test_unrolled_with_weights_of_their_own(self, parts):
        _, physics, y = parts
        settings = ModelSettings(denoiser="random", gradient={"kind": "unrolled", "untied": True})
        with pytest.raises(TypeError, match=r"y is torch\.float64"):
            settings.make(1, 0.01)(y.double(), physics)


@pytest.mark.parametrize("untied", [False, True])
def test_unrolled_steps_that_come_to_nothing_are_told(untied):
    physics = eq.ParallelBeam(12, 5, normalize=True)
    gradient = {"kind": "unrolled", "steps": 3, "untied": untied}
    model = ModelSettings(denoiser="random", gradient=gradient).make(1, 0.01)
    y = physics.A(torch.rand(2, 1, 12, 12))
    model.on_failure = "warn"
    with pytest.warns(eq.EquilibriumWarning, match=r"take more steps \(Unrolled\(steps="):
        model(y, physics)
    y[1, 0, 0, 0] = torch.nan
    model.on_failure = "ignore"
    assert model.equilibrium(y, physics).status[1] == eq.Status.NONFINITE
    model.on_failure = "raise"
    with pytest.raises(eq.EquilibriumError, match="1 of 2 samples met a value that is not finite"):
        model(y, physics)


def test_no_measurement_at_all_is_told():
    model = eq.EquilibriumReconstructor(eq.ProximalStep(eq.load_denoiser("unet"), 0.1, 0.02))
    with pytest.raises(ValueError, match=r"y holds no measurement, its shape is \(0, 1, 4, 9\)"):
        model(torch.zeros(0, 1, 4, 9), eq.ParallelBeam(8, 4, 9))
