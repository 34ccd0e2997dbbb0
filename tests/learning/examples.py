"""Small problems for the tests of training."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepinv
import numpy as np
import torch
from torch import Tensor

from equipoise.data.dataset import Dataset, Streamed
from equipoise.data.item import Item
from equipoise.data.scan import Scan
from equipoise.equilibrium import Implicit, Stop
from equipoise.imaging.mri import cartesian_mask
from equipoise.imaging.phantoms import phantoms
from equipoise.imaging.settings import InpaintingSettings
from equipoise.imaging.tomography import ParallelBeam
from equipoise.learning.losses import MeasurementConsistency
from equipoise.learning.settings import LearningSettings
from equipoise.learning.trainer import Trainer
from equipoise.reconstruction.denoisers import ComplexDenoiser, ConvDenoiser
from equipoise.reconstruction.model import EquilibriumReconstructor
from equipoise.reconstruction.steps import GradientStep

SIZE = 16


class Shrunk(torch.nn.Module):
    """factor · D: a contraction, if D is nearly non-expansive."""

    def __init__(self, denoiser: torch.nn.Module, factor: float):
        super().__init__()
        self.denoiser = denoiser
        self.factor = factor

    def forward(self, x: Tensor, sigma: Any) -> Tensor:
        return self.factor * self.denoiser(x, sigma)


def small_model(
    channels: int = 1, rtol: float = 1e-3, seed: int = 0, double: bool = True
) -> EquilibriumReconstructor:
    """A gradient step with a random denoiser that contracts."""
    torch.manual_seed(seed)
    denoiser: torch.nn.Module = ConvDenoiser(channels=4, layers=2)
    if channels == 2:
        denoiser = ComplexDenoiser(denoiser)
    step = GradientStep(Shrunk(denoiser, 0.8))
    model = EquilibriumReconstructor(
        step.double() if double else step,
        stop=Stop(rtol, 100),
        gradient=Implicit(stop=Stop(1e-2, 50)),
        on_failure="ignore",
    )
    return model


def ct(views: int = 6) -> Any:
    physics = ParallelBeam(SIZE, views, normalize=True)
    physics.noise_model = deepinv.physics.GaussianNoise(0.01)
    return physics


def mri(samples: int = 1) -> Any:
    """With masks of their own, if there are several samples."""
    masks = [cartesian_mask(SIZE, SIZE, 2.0, 0.2, seed=k) for k in range(samples)]
    physics = deepinv.physics.MRI(mask=torch.stack(masks)[:, None], img_size=(SIZE, SIZE))
    physics.noise_model = deepinv.physics.GaussianNoise(0.01)
    return physics.double()


def images(count: int, channels: int = 1) -> Tensor:
    x = phantoms(count, SIZE, 5).double()
    return x if channels == 1 else torch.cat([x, 0.3 * x], 1)


def dataset_of(
    physics: Any, y: Tensor | Streamed, truth: Tensor | None = None, channels: int = 1
) -> Dataset:
    """A data set of measurements that are in the units of the model."""
    shape = tuple(y[0].shape)
    items = [Item(f"sample_{i}", Path("memory"), shape, lambda: np.zeros(1)) for i in range(len(y))]
    settings = InpaintingSettings()  # of no meaning here: the operator is at hand
    scan = Scan(settings, physics, 1.0, (channels, SIZE, SIZE), shape)
    return Dataset(items, scan, y, truth)


def ct_dataset(count: int = 5, views: int = 6, with_truth: bool = False) -> Dataset:
    physics = ct(views)
    x = images(count)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        y = physics(x)
    return dataset_of(physics, y, x if with_truth else None)


def small_trainer(
    losses: dict[str, Any] | None = None,
    dataset: Dataset | None = None,
    model: EquilibriumReconstructor | None = None,
    seed: int = 0,
    **learning: Any,
) -> Trainer:
    options = {"steps": 8, "batch": 3, "warmup": 0, "lr": 1e-3, **learning}
    return Trainer(
        small_model() if model is None else model,
        ct_dataset() if dataset is None else dataset,
        {"consistency": MeasurementConsistency()} if losses is None else losses,
        LearningSettings(**options),
        seed,
    )


def gradient_of(trainer: Trainer) -> Tensor:
    """All gradients of a trainer's parameters, side by side."""
    return torch.cat([p.grad.flatten() for p in trainer.parameters.values()])


CPU = torch.device("cpu")


@dataclass
class OneOf:
    """A process among several, which add up what they know when all have said it."""

    global_rank: int
    world_size: int
    said: list
    barrier: threading.Barrier
    device: torch.device = CPU

    def all_reduce(self, values, reduce_op):
        self.said[self.global_rank] = values.clone()
        self.barrier.wait(timeout=60)
        stack = torch.stack(self.said)
        self.barrier.wait(timeout=60)
        return stack.sum(0) if reduce_op == "sum" else stack.amax(0)

    def broadcast(self, value, src=0):
        self.said[self.global_rank] = value
        self.barrier.wait(timeout=60)
        found = self.said[src]
        self.barrier.wait(timeout=60)
        return found


def in_processes(world: int, run: Any) -> list[Any]:
    """What ``run`` answers in each of ``world`` processes."""
    said, barrier, answers = [None] * world, threading.Barrier(world), [None] * world

    def one(rank):
        answers[rank] = run(OneOf(rank, world, said, barrier))

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    return answers
