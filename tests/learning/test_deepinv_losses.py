"""All of deepinv's losses train in our Trainer, on CT and on MRI, where they apply."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import deepinv
import pytest
import torch
from deepinv.physics import GaussianNoise, PoissonGaussianNoise, PoissonNoise
from deepinv.utils import TensorList

import equipoise as eq
from equipoise.data.dataset import Batch, Dataset
from equipoise.imaging.mri import birdcage, cartesian_mask
from equipoise.learning.losses import Equivariance, JacobianPenalty, MeasurementConsistency

from .examples import SIZE, ct, dataset_of, images, mri, small_model, small_trainer

L = deepinv.loss


class FirmlyNonexpansive(L.Loss):
    """deepinv's regularisers of Jacobians are functions of a map and a point, not of the contract
    of losses: here of the denoiser, at the reconstruction."""

    def __init__(self, regulariser: Any):
        super().__init__()
        self.regulariser = regulariser

    def forward(self, x_net, model, **kwargs):
        x = x_net.detach().clone().requires_grad_()
        denoise = next(m for m in model.modules() if isinstance(m, eq.GradientStep)).denoise
        if isinstance(self.regulariser, L.FNEJacobianSpectralNorm):
            return self.regulariser(x, x, denoise, interpolation=False)
        return self.regulariser(denoise(x), x)


#: Where measurements can be split: everywhere.
SPLIT = ("ct", "fan", "mri", "coils", "inpainting", "blur", "masked ct")


class Case(NamedTuple):
    """A loss, and what it is a loss of."""

    make: Callable[[Any, tuple[int, ...]], Any]  # of the operator, and the shape of one y
    where: tuple[str, ...] = ("ct", "mri")
    supervised: bool = False  # it is told the truth
    noise: Any = None


def bernoulli(shape: tuple[int, ...]) -> Any:
    plane = (shape[0], *shape[-2:])  # the same for all coils
    return deepinv.physics.generator.BernoulliSplittingMaskGenerator(plane, split_ratio=0.8)


def of_physics(physics: Any) -> Any:
    """Two operators for the losses that want several."""
    return [physics, physics]


CASES: dict[str, Case] = {
    "AugmentConsistencyLoss": Case(
        lambda p, s: L.AugmentConsistencyLoss(
            T_i=deepinv.transform.RandomNoise(), T_e=deepinv.transform.Shift()
        )
    ),
    "EILoss": Case(lambda p, s: L.EILoss(deepinv.transform.Shift())),
    "EquivariantSplittingLoss": Case(
        lambda p, s: L.EquivariantSplittingLoss(mask_generator=bernoulli(s)), where=SPLIT
    ),
    "FNEJacobianSpectralNorm": Case(
        lambda p, s: FirmlyNonexpansive(L.FNEJacobianSpectralNorm(max_iter=3))
    ),
    "JacobianSpectralNorm": Case(
        lambda p, s: FirmlyNonexpansive(L.JacobianSpectralNorm(max_iter=3))
    ),
    "MCLoss": Case(lambda p, s: L.MCLoss()),
    "MOEILoss": Case(lambda p, s: L.MOEILoss(deepinv.transform.Shift(), physics=of_physics(p))),
    "MOILoss": Case(lambda p, s: L.MOILoss(physics=of_physics(p))),
    "Neighbor2Neighbor": Case(lambda p, s: L.Neighbor2Neighbor(), where=("denoising",)),
    "R2RLoss": Case(lambda p, s: L.R2RLoss()),
    "ReducedResolutionLoss": Case(lambda p, s: L.ReducedResolutionLoss(), where=("denoising",)),
    "ScoreLoss": Case(lambda p, s: L.ScoreLoss(total_batches=2), where=("denoising",)),
    "SplittingLoss": Case(lambda p, s: L.SplittingLoss(mask_generator=bernoulli(s)), where=SPLIT),
    "StackedPhysicsLoss": Case(
        lambda p, s: L.StackedPhysicsLoss([L.MCLoss(), L.MCLoss()]), where=("stacked",)
    ),
    "SupLoss": Case(lambda p, s: L.SupLoss(), supervised=True),
    "SureGaussianLoss": Case(lambda p, s: L.SureGaussianLoss(0.01)),
    "SurePGLoss": Case(
        lambda p, s: L.SurePGLoss(sigma=0.01, gain=0.01),
        where=("ct",),
        noise=PoissonGaussianNoise(0.01, 0.01, clip_positive=True),
    ),
    "SurePoissonLoss": Case(
        lambda p, s: L.SurePoissonLoss(0.01),
        where=("ct",),
        noise=PoissonNoise(0.01, clip_positive=True),
    ),
    "TVLoss": Case(lambda p, s: L.TVLoss()),
    "BaseLossScheduler": Case(
        lambda p, s: L.BaseLossScheduler(L.MCLoss(), L.EILoss(deepinv.transform.Reflect()))
    ),
    "RandomLossScheduler": Case(lambda p, s: L.RandomLossScheduler(L.MCLoss(), L.TVLoss())),
    "InterleavedLossScheduler": Case(
        lambda p, s: L.InterleavedLossScheduler(L.MCLoss(), Equivariance(eq.Reflections()))
    ),
    "InterleavedEpochLossScheduler": Case(
        lambda p, s: L.InterleavedEpochLossScheduler(L.MCLoss(), L.R2RLoss(eval_n_samples=1))
    ),
    "StepLossScheduler": Case(lambda p, s: L.StepLossScheduler(L.MCLoss(), epoch_thresh=0)),
}


class StackedDataset(Dataset):
    """Measurements by several operators at once, a list of them for all samples."""

    def batch(self, index):
        y = TensorList([part[index] for part in self.y])
        return Batch(y, self.scan.physics, None)


def operator(where: str) -> Any:
    """An operator with noise, of the kind that a case names."""
    noise = GaussianNoise(0.01)
    shape = (1, SIZE, SIZE)
    if where == "denoising":
        return deepinv.physics.Denoising(GaussianNoise(0.05))
    if where == "fan":
        return eq.FanBeam(SIZE, 8, 40.0, 30.0, normalize=True, noise_model=noise)
    if where == "coils":
        mask = cartesian_mask(SIZE, SIZE, 2.0, 0.2, seed=0)
        maps = birdcage(3, SIZE, SIZE)
        physics: Any = deepinv.physics.MultiCoilMRI(mask, maps, img_size=(SIZE, SIZE))
    elif where == "inpainting":
        physics = deepinv.physics.Inpainting(shape, mask=0.6)
    elif where == "blur":
        filter = deepinv.physics.functional.gaussian_blur(sigma=(1.0, 1.0))
        physics = deepinv.physics.Blur(filter=filter, padding="circular")
    elif where == "masked ct":
        rays = ct()
        physics = deepinv.physics.Inpainting(rays.measurement_shape, mask=0.8) * rays
    else:
        return ct() if where == "ct" else mri()
    physics.noise_model = noise
    if where == "coils":  # .double() would leave the real part of its maps
        physics.update(mask=physics.mask.double(), coil_maps=physics.coil_maps.to(torch.complex128))
        return physics
    return physics.double()


def data_of(where: str, noise: Any) -> tuple[Any, Any]:
    """A data set with its truth, and a model for its images."""
    if where == "stacked":
        physics: Any = deepinv.physics.StackedLinearPhysics([ct(6), ct(8)])
        one = dataset_of(ct(), images(4))
        scan = replace(one.scan, physics=physics)
        return StackedDataset(one.items, scan, physics(images(4))), small_model()
    physics = operator(where)
    if noise is not None:
        physics.noise_model = noise
    channels = 2 if where in ("mri", "coils") else 1
    x = images(4, channels)
    torch.manual_seed(1)
    return dataset_of(physics, physics(x), x, channels), small_model(channels)


def test_every_loss_of_deepinv_is_here():
    theirs = {
        name
        for name, kind in vars(L).items()
        if inspect.isclass(kind) and issubclass(kind, L.Loss) and kind is not L.Loss
    }
    assert theirs == CASES.keys()


EVERY = [(name, where) for name, case in CASES.items() for where in case.where]


@pytest.mark.parametrize(("name", "where"), EVERY)
def test_it_trains(name, where):
    case = CASES[name]
    dataset, model = data_of(where, case.noise)
    loss = case.make(dataset.scan.physics, dataset.scan.measurement_shape)
    key = "supervised" if case.supervised else "theirs"
    trainer = small_trainer({key: loss}, dataset, model, batch=2, lr=1e-3)
    before = {k: p.detach().clone() for k, p in trainer.parameters.items()}
    reports = [trainer.advance() for _ in range(5)]  # two epochs and more, for schedulers
    assert not any(report.skipped for report in reports)
    assert all(p.isfinite().all() for p in trainer.parameters.values())
    assert any((p != before[k]).any() for k, p in trainer.parameters.items())
    assert reports[0].forward > 1  # what is solved inside their wrappers is known, too
    assert reports[0].loss != 0 or name == "StepLossScheduler"


def test_a_loss_that_wraps_the_model_leaves_the_others_what_they_are():
    """Whatever deepinv's losses do to the model, ours are those of the equilibrium of y."""
    dataset, _ = data_of("ct", None)
    penalty = JacobianPenalty(bound=0.1, along="memory")  # not where this or that solve ended
    ours = {"consistency": MeasurementConsistency(), "contraction": penalty}
    alone = small_trainer(ours, dataset, batch=2).advance()
    theirs = {
        "r2r": L.R2RLoss(),
        "splitting": L.SplittingLoss(mask_generator=bernoulli((1, 6, 23))),
    }
    both = small_trainer({**theirs, **ours}, dataset, batch=2).advance()
    for name in ours:
        assert both.parts[name] == pytest.approx(alone.parts[name], rel=1e-3)
    assert both.parts["r2r"] > 0
    assert both.parts["splitting"] > 0


def test_a_wrapper_remembers_from_step_to_step():
    dataset, model = data_of("denoising", None)
    trainer = small_trainer({"score": L.ScoreLoss(total_batches=10)}, dataset, model, batch=2)
    for _ in range(3):
        trainer.advance()
    assert trainer.objective.wrappers["score"].counter == 3


def test_size():
    assert SIZE % 2 == 0  # Neighbor2Neighbor needs it
