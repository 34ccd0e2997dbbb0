"""A real 8-coil acquisition (../shared/data/mri), reconstructed by every method from 85 % of what
was measured outside the centre.

    pip install -e '.[mri]'
    python benchmarks/brain.py [--steps 20] [--lr 1e-4] [--out results]

There is no ground truth, so what is scored is prediction: of the points outside the fully sampled
centre, 5 % choose each method's setting and another 10 % score it, by the relative misfit of the
coils' k-space there. Noise that nobody can predict sets a floor, which is printed. "trained" starts
from "equilibrium" and learns from the 85 % alone, by splitting them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import deepinv
import matplotlib.pyplot as plt
import torch
from common import DATA, arguments, is_there, parser
from torch import Tensor

from equipoise import EquilibriumReconstructor, Implicit, ProximalStep, Stop, load_denoiser
from equipoise.assessment.baselines import total_variation, truncated_least_squares
from equipoise.assessment.metrics import magnitude
from equipoise.config import parse
from equipoise.data.dataset import Dataset
from equipoise.data.formats import open_path
from equipoise.data.scan import Scan
from equipoise.imaging.mri import Acquisition, acquisition, calibration_size, sampled
from equipoise.imaging.settings import MRISettings
from equipoise.learning.trainer import Trainer
from equipoise.reconstruction.denoisers import ComplexDenoiser

FILE = DATA / "mri" / "brain_8coil_kspace.npy"
#: A method's settings, each with what it does to measurements.
Settings = dict[str, Callable[[Tensor], Tensor]]


class Parts(NamedTuple):
    """Operators of the points to reconstruct from, to choose by, and to score on."""

    use: Any
    choose: Any
    score: Any


class Chosen(NamedTuple):
    setting: str
    image: Tensor
    seconds: float


def parts(found: Acquisition, mask: Tensor, seed: int = 0) -> Parts:
    side = calibration_size(mask)
    outside = mask.clone()
    top = mask.shape[0] // 2 - side // 2
    left = mask.shape[1] // 2 - side // 2
    outside[top : top + side, left : left + side] = 0
    points = outside.flatten().nonzero()[:, 0]
    points = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))]
    end = len(points) // 20
    choose = mask_of(points[:end], mask)
    score = mask_of(points[end : 3 * len(points) // 20], mask)
    masks = (mask - choose - score, choose, score)
    return Parts(*(with_mask(found.physics, part) for part in masks))


def mask_of(points: Tensor, mask: Tensor) -> Tensor:
    part = torch.zeros(mask.numel())
    part[points] = 1
    return part.reshape(mask.shape)


def with_mask(physics: Any, mask: Tensor) -> Any:
    maps = physics.coil_maps
    return deepinv.physics.MultiCoilMRI(mask=mask, coil_maps=maps, img_size=mask.shape)


def of_part(y: Tensor, part: Any) -> Tensor:
    """The measurements of a part alone."""
    return part.mask[:, :, None] * y


def misfit(x: Tensor, y: Tensor, part: Any) -> float:
    """‖A x − y‖ / ‖y‖ on the points of a part."""
    measured = of_part(y, part)
    return float((part.A(x) - measured).norm() / measured.norm())


def equilibrium(sigma: float, strength: float, max_steps: int) -> EquilibriumReconstructor:
    step = ProximalStep(ComplexDenoiser(load_denoiser("unet")), strength, sigma)
    gradient = Implicit(stop=Stop(1e-2, 40))
    return EquilibriumReconstructor(
        step, None, Stop(1e-3, max_steps), gradient, on_failure="ignore"
    )


def methods(use: Any, max_steps: int, quick: bool) -> dict[str, Settings]:
    iterations = (3,) if quick else (3, 5, 8, 12, 20)
    weights = (3e-3,) if quick else (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    sigmas = (0.05,) if quick else (0.03, 0.05, 0.08, 0.16)
    strengths = (0.1,) if quick else (0.03, 0.1, 0.3)
    tv = partial(total_variation, physics=use, iterations=5 if quick else 120)
    least_squares: Settings = {
        f"{n} iterations": partial(truncated_least_squares, physics=use, iterations=n)
        for n in iterations
    }
    learned: Settings = {
        f"σ {sigma:g}, λ {strength:g}": partial(
            equilibrium(sigma, strength, max_steps), physics=use
        )
        for sigma in sigmas
        for strength in strengths
    }
    return {
        "zero-filled": {"": use.A_adjoint},
        "least squares": least_squares,
        "TV": {f"weight {w:g}": partial(tv, weight=w) for w in weights},
        "equilibrium": learned,
    }


def best(settings: Settings, y: Tensor, use: Any, choose: Any, all_measured: Tensor) -> Chosen:
    """The setting that predicts the points of ``choose`` best."""
    found: list[tuple[float, Chosen]] = []
    for setting, method in settings.items():
        start = time.perf_counter()
        with torch.no_grad():
            x = method(y)
        seconds = time.perf_counter() - start
        found.append((misfit(x, all_measured, choose), Chosen(setting, x, seconds)))
    return min(found, key=lambda pair: pair[0])[1]


def trained(
    model: EquilibriumReconstructor, y: Tensor, use: Any, noise: float, a: argparse.Namespace
) -> Chosen:
    """The model after training on the points of ``use`` alone, by splitting them."""
    tree = {
        "physics": {"kind": "mri"},
        "objective": {"exact": False, "equivariance": 0},
        "learning": {"steps": a.steps, "batch": 1, "lr": a.lr},
    }
    config = parse(tree, "benchmark")
    dataset = dataset_of(y, use, noise)
    losses = config.objective.make(dataset.scan, y)
    usual = model.stop
    model.stop = Stop(1e-3, 3 if a.quick else 60)
    trainer = Trainer(model, dataset, losses, config.learning, 0)
    start = time.perf_counter()
    skipped = 0
    while trainer.step < a.steps:
        report = trainer.advance()
        skipped += bool(report.skipped)
        if trainer.step % 5 == 0:
            pace = 1 / report.images_per_second
            print(f"  step {trainer.step}: loss {report.loss:.2e}, {pace:.0f} s a step", flush=True)
    model.load_state_dict(trainer.averaged())
    model.stop = usual
    with torch.no_grad():
        solved = model.equilibrium(y, use)
    residual = float(solved.residual)
    print(f"the trained equilibrium's residual: {residual:.0e} after {int(solved.steps)} steps")
    seconds = time.perf_counter() - start
    return Chosen(f"{a.steps} steps ({skipped} skipped)", solved.value, seconds)


def dataset_of(y: Tensor, use: Any, noise: float) -> Dataset:
    """One measurement, as the trainer takes it."""
    items = open_path(FILE)
    shape = tuple(y.shape[1:])
    scan = Scan(MRISettings(), use, 1.0, (2, *use.mask.shape[-2:]), shape).with_noise(noise)
    return Dataset(items, scan, y)


def picture(images: dict[str, Chosen], y: Tensor, score: Any, file: Path) -> None:
    fig, axes = plt.subplots(2, len(images), figsize=(2.3 * len(images), 5.6), layout="constrained")
    top = float(magnitude(images["TV"].image).quantile(0.995))
    for column, (name, chosen) in zip(axes.T, images.items()):
        shown = magnitude(chosen.image)[0, 0]
        column[0].imshow(shown, cmap="gray", vmin=0, vmax=top)
        held_out = misfit(chosen.image, y, score)
        column[0].set_title(f"{name}\nheld-out misfit {held_out:.3f}", fontsize=8)
        column[1].imshow(shown[85:150, 55:120], cmap="gray", vmin=0, vmax=top)
        for axis in column:
            axis.axis("off")
    fig.savefig(file, dpi=110)
    print(f"wrote {file}")


def noise_floor(found: Acquisition, score: Any) -> float:
    """The misfit on the points of ``score`` of an image without any error."""
    points = int(score.mask[0, 0].sum())
    measured = of_part(found.y, score)
    numbers = 2 * points * found.y.shape[2]
    print(f"scored on {points} points")
    return found.noise * numbers**0.5 / float(measured.norm())


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--lr", type=float, default=1e-4)
    p.add_argument("--out", type=Path, default=Path("results"))
    a = arguments(p, steps=1)
    if not is_there(FILE):
        return
    kspace = torch.tensor(open_path(FILE)[0].array())
    found = acquisition(kspace)
    use, choose, score = parts(found, sampled(kspace))
    y = of_part(found.y, use)
    share = float(found.physics.mask[0, 0].mean())
    coils = found.y.shape[2]
    print(f"{coils} coils, {share:.1%} of k-space measured, centre {found.calibration}²")
    print(f"the noise alone there: {noise_floor(found, score):.3f}")
    print(f"{'method':<16}{'setting':<24}{'misfit':>8}{'seconds':>9}")
    max_steps = 3 if a.quick else 60
    images: dict[str, Chosen] = {}

    def add(name: str, chosen: Chosen) -> None:
        images[name] = chosen
        error = misfit(chosen.image, found.y, score)
        print(f"{name:<16}{chosen.setting:<24}{error:8.3f}{chosen.seconds:9.1f}", flush=True)

    for name, settings in methods(use, max_steps, a.quick).items():
        add(name, best(settings, y, use, choose, found.y))
    sigma, strength = (float(word.split()[1]) for word in images["equilibrium"].setting.split(","))
    model = equilibrium(sigma, strength, max_steps)
    add("trained", trained(model, y, use, found.noise, a))
    if not a.quick:
        picture(images, found.y, score, a.out / "brain_8coil.png")


if __name__ == "__main__":
    main()
