"""Laws of the operator of some samples: what it does to them is what the whole does to all."""

from __future__ import annotations

import warnings

import deepinv
import pytest
import torch
from deepinv.physics import LinearPhysics

import equipoise as eq
from equipoise.imaging.scaled import Scaled
from equipoise.imaging.selection import differs_per_sample, select, selector

SIZE, COUNT = 8, 3


def selectable(*of):
    return selector(*of) is not None


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inpainting(shape=(1, SIZE, SIZE), seed=0):
    return deepinv.physics.Inpainting(shape, mask=(randn(COUNT, *shape, seed=seed) > 0).float())


def after(second, first):
    """The composition, first ``first``."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "At least one input physics is a Decomposable")
        return second * first


def mri(kind, *shape):
    physics = kind(img_size=shape)
    mask = (randn(COUNT, *[1] * (len(physics.mask.shape) - 3), *shape[-2:]) > 0).float()
    if kind is deepinv.physics.DynamicMRI:
        mask = (randn(COUNT, 1, *shape[-3:]) > 0).float()
    physics.update(mask=mask.expand(-1, 2, *mask.shape[2:]).contiguous())
    return physics


def coils(own_mask):
    maps = torch.complex(randn(COUNT, 4, SIZE, SIZE), randn(COUNT, 4, SIZE, SIZE, seed=1))
    physics = deepinv.physics.MultiCoilMRI(
        mask=torch.ones(SIZE, SIZE), coil_maps=maps, img_size=(SIZE, SIZE)
    )
    if own_mask:
        physics.update(mask=(randn(COUNT, 2, SIZE, SIZE, seed=2) > 0).float())
    return physics


def blur(kind):
    filters = randn(COUNT, 1, 3, 3).abs()
    if kind is deepinv.physics.Blur:
        return kind(filter=filters, padding="circular")
    if kind is deepinv.physics.Downsampling:
        return kind((1, SIZE, SIZE), filter=filters, factor=2)
    return kind((1, SIZE, SIZE), filter=filters)


class Weighted(LinearPhysics):
    """Of one's own: weights for each sample, in a buffer, a parameter or a plain attribute."""

    def __init__(self, where, img_size=None):
        super().__init__(img_size=img_size)
        weights = randn(COUNT, 1, SIZE, SIZE)
        if where == "buffer":
            self.register_buffer("weights", weights)
        elif where == "parameter":
            self.weights = torch.nn.Parameter(weights)
        else:
            self.weights = weights

    def A(self, x, **kwargs):
        return self.weights * x

    def A_adjoint(self, y, **kwargs):
        return self.weights * y


class Mixing(LinearPhysics):
    """Of one's own: a matrix that has as many rows as there are samples, and is shared."""

    def __init__(self, img_size=None):
        super().__init__(img_size=img_size)
        self.register_buffer("matrix", randn(COUNT, SIZE))

    def A(self, x, **kwargs):
        return self.matrix @ x

    def A_adjoint(self, y, **kwargs):
        return self.matrix.T @ y


KNOWN = {
    "inpainting": lambda: inpainting(),
    "vectors": lambda: inpainting((SIZE,)),
    "mri": lambda: mri(deepinv.physics.MRI, SIZE, SIZE),
    "dynamic mri": lambda: mri(deepinv.physics.DynamicMRI, 2, 4, SIZE, SIZE),
    "coil maps": lambda: coils(False),
    "coil maps and masks": lambda: coils(True),
    "blur": lambda: blur(deepinv.physics.Blur),
    "blur, by its spectrum": lambda: blur(deepinv.physics.BlurFFT),
    "super-resolution": lambda: blur(deepinv.physics.Downsampling),
    "inpainting after CT": lambda: after(inpainting((1, 5, 12)), eq.ParallelBeam(SIZE, 5)),
    "inpainting after coils": lambda: after(inpainting((2, 4, SIZE, SIZE)), coils(True)),
    "blur after inpainting": lambda: after(blur(deepinv.physics.Blur), inpainting()),
    "stacked": lambda: inpainting().stack(eq.ParallelBeam(SIZE, 5)).stack(inpainting(seed=1)),
    "scaled": lambda: Scaled(inpainting(), 0.3),
    "scaled after": lambda: Scaled(after(inpainting((1, 5, 12)), eq.ParallelBeam(SIZE, 5)), 0.3),
}
SHARED = {
    "CT": lambda: eq.ParallelBeam(SIZE, COUNT),  # as many views as samples
    "fan": lambda: eq.FanBeam(SIZE, COUNT, 30.0, 10.0),
    "one mask": lambda: deepinv.physics.Inpainting((1, SIZE, SIZE), mask=randn(1, SIZE, SIZE)),
    "one row of pixels": lambda: deepinv.physics.Inpainting((COUNT, 1, 1), mask=randn(COUNT, 1, 1)),
    "as many measurements": lambda: deepinv.physics.CompressedSensing(COUNT, (1, SIZE, SIZE)),
    "deepinv's CT": lambda: deepinv.physics.Tomography(angles=COUNT, img_width=SIZE),
    "one blur": lambda: deepinv.physics.Blur(filter=torch.ones(1, 1, 3, 3) / 9),
}
OWN = {
    "buffer": lambda: Weighted("buffer"),
    "parameter": lambda: Weighted("parameter"),
    "attribute": lambda: Weighted("attribute"),
    "shared matrix": lambda: Mixing(),
    "within": lambda: Scaled(Weighted("attribute"), 0.5),
    "after another": lambda: after(Weighted("attribute"), inpainting()),
}


def images(physics, name=""):
    if "coil" in name or name == "mri":
        return randn(COUNT, 2, SIZE, SIZE, seed=7)
    if name == "dynamic mri":
        return randn(COUNT, 2, 4, SIZE, SIZE, seed=7)
    if name == "vectors":
        return randn(COUNT, SIZE, seed=7)
    if name == "one row of pixels":
        return randn(COUNT, COUNT, 1, 1, seed=7)
    return randn(COUNT, 1, SIZE, SIZE, seed=7)


def listed(y):
    """What a stack measures is a list."""
    return [y] if isinstance(y, torch.Tensor) else list(y)


def close(a, b):
    """To rounding, which depends on the size of a batch."""
    return a.shape == b.shape and bool((a - b).abs().max() <= 1e-5 * b.abs().max())


def assert_restricts(physics, part, x, index):
    whole, some = physics.A(x), part.A(x[index])
    assert all(close(a, b[index]) for a, b in zip(listed(some), listed(whole)))
    assert close(part.A_adjoint(some), physics.A_adjoint(whole)[index])


@pytest.mark.parametrize("index", [[2], [1, 0], [0, 0, 2, 1], [0, 1, 2]], ids=str)
@pytest.mark.parametrize("name", [*KNOWN, *SHARED])
def test_known_operators(name, index):
    physics, index = {**KNOWN, **SHARED}[name](), torch.tensor(index)
    assert selectable(physics, COUNT)
    assert_restricts(physics, select(physics, index, COUNT), images(physics, name), index)
    assert differs_per_sample(physics, COUNT) == (name in KNOWN)
    assert (select(physics, index, COUNT) is physics) == (name in SHARED)


@pytest.mark.parametrize("name", OWN)
def test_operators_of_ones_own(name):
    """They are tried out, on what they measure or on images of their size."""
    index = torch.tensor([2, 0])
    physics = OWN[name]()
    x = images(physics)
    y = physics.A(x)
    assert selectable(physics, COUNT, y)
    assert_restricts(physics, select(physics, index, COUNT, y), x, index)
    assert not selectable(physics, COUNT)  # it says nothing about its images
    with pytest.raises(ValueError, match="cannot be told from that of all"):
        select(physics, index, COUNT)
    assert differs_per_sample(physics, COUNT)


def test_an_operator_of_ones_own_is_tried_out_once():
    products = []

    class Counted(Weighted):
        def A(self, x, **kwargs):
            products.append(len(x))
            return super().A(x, **kwargs)

    physics = Counted("buffer")
    x = images(physics)
    y = physics.A(x)
    products.clear()
    chosen = selector(physics, COUNT, y)
    tried = len(products)
    parts = [chosen(torch.tensor([i])) for i in range(COUNT)]
    assert len(products) == tried > 0
    assert all(close(part.A(x[i : i + 1]), y[i : i + 1]) for i, part in enumerate(parts))


def test_operators_of_ones_own_that_say_their_size():
    index = torch.tensor([2, 0])
    for physics in (Weighted("attribute", (1, SIZE, SIZE)), Mixing((1, SIZE, SIZE))):
        assert selectable(physics, COUNT)
        assert_restricts(physics, select(physics, index, COUNT), images(physics), index)


def test_what_hides_its_parameters():
    """Nothing can be seen of weights in a closure: samples that are done must ride along."""
    weights = randn(COUNT, 1, SIZE, SIZE)
    physics = LinearPhysics(A=lambda x: weights * x, A_adjoint=lambda y: weights * y)
    y = physics.A(randn(COUNT, 1, SIZE, SIZE))
    assert not selectable(physics, COUNT)
    assert not selectable(physics, COUNT, y)
    with pytest.raises(ValueError, match="one row for each sample, in buffers or attributes"):
        select(physics, torch.tensor([0]), COUNT, y)


def test_what_has_no_parameters():
    physics = LinearPhysics(A=lambda x: 2 * x, A_adjoint=lambda y: 2 * y)
    y = physics.A(randn(COUNT, 1, SIZE, SIZE))
    assert selectable(physics, COUNT, y)
    assert torch.equal(select(physics, torch.tensor([1]), COUNT).A(y[:1]), 2 * y[:1])
    assert not selectable(physics, COUNT)  # nobody knows


def test_another_number_of_samples():
    with pytest.raises(ValueError, match=r"a mask for each of 3 samples, but there are 5"):
        select(inpainting(), torch.tensor([0]), 5)
    assert not selectable(inpainting(), 5)
    physics = inpainting()
    assert select(physics, torch.tensor([0, 0]), 1) is physics
    assert selectable(physics, 1)


def test_noise_of_ones_own():
    physics = inpainting()
    physics.noise_model = deepinv.physics.GaussianNoise(torch.tensor([0.0, 1.0, 5.0]))
    part = select(physics, torch.tensor([2, 0]), COUNT)
    assert part.noise_model.sigma.tolist() == [5, 0]
    assert physics.noise_model.sigma.tolist() == [0, 1, 5]
    shared = eq.ParallelBeam(SIZE, 5)
    shared.noise_model = physics.noise_model
    assert select(shared, torch.tensor([1]), COUNT).noise_model.sigma.tolist() == [1]
    assert shared.noise_model.sigma.tolist() == [0, 1, 5]


def test_nothing_happens_to_the_operator():
    physics = Scaled(after(inpainting((1, 5, 12)), eq.ParallelBeam(SIZE, 5)), 0.3)
    before = {name: b.clone() for name, b in physics.named_buffers()}
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    select(physics, torch.tensor([2]), COUNT)
    select(Weighted("buffer", (1, SIZE, SIZE)), torch.tensor([2]), COUNT)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(before[name], b) for name, b in physics.named_buffers())


def test_gradients_reach_the_parameters():
    physics = inpainting()
    physics.mask.requires_grad_()
    select(physics, torch.tensor([1]), COUNT).A(torch.ones(1, 1, SIZE, SIZE)).sum().backward()
    assert physics.mask.grad.flatten(1).sum(1).tolist() == [0, SIZE * SIZE, 0]


@pytest.mark.parametrize(
    "name", ["inpainting", "blur", "coil maps and masks", "inpainting after CT", "scaled"]
)
def test_a_batch_is_solved_as_its_samples_are(name):
    """Where one sample is done before the others."""
    physics = KNOWN[name]()
    x = images(physics, name)
    x[1] = 0
    y = physics.A(x)
    step = eq.ProximalStep(deepinv.models.MedianFilter(3), strength=0.5, tol=1e-8)
    model = eq.EquilibriumReconstructor(
        step, solver=eq.Picard(), stop=eq.Stop(1e-4, 40), on_failure="ignore"
    )
    with torch.no_grad():
        together = model.equilibrium(y, physics)
        for i in range(COUNT):
            one = select(physics, torch.tensor([i]), COUNT)
            alone = model.equilibrium(y[i : i + 1], one)
            assert torch.allclose(together.value[i], alone.value[0], atol=1e-4)
    assert int(together.steps[1]) < int(together.steps.max())
