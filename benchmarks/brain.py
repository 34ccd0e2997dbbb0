"""A real 8-coil acquisition (../shared/data/mri), reconstructed by every method from 85 % of what was measured outside the centre.

    pip install -e '.[mri]'
    python benchmarks/brain.py [--steps 20] [--out results]

There is no ground truth, so what is scored is prediction: of the points outside the fully sampled centre, 5 % choose each
method's setting and another 10 % score it, by the relative misfit of the coils' k-space there. Noise that nobody can predict
sets a floor, which is printed. "trained" starts from "equilibrium" and learns from the 85 % alone, by splitting them.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

import deepinv
import matplotlib.pyplot as plt
import torch

from equipoise import EquilibriumReconstructor, Implicit, ProximalStep, Stop, load_denoiser
from equipoise.assessment.baselines import total_variation
from equipoise.assessment.metrics import magnitude
from equipoise.config import Learning
from equipoise.imaging.data import read_kspace
from equipoise.imaging.linear import least_squares
from equipoise.imaging.mri import acquisition, calibration_size, sampled
from equipoise.learning.objectives import MeasurementConsistency, Splitting
from equipoise.learning.train import Trainer
from equipoise.reconstruction.contraction import JacobianPenalty
from equipoise.reconstruction.denoisers import ComplexDenoiser

FILE = Path(__file__).parents[2] / "shared" / "data" / "mri" / "brain_8coil_kspace.npy"


def parts(mask, seed=0):
    """Masks of the points to reconstruct from, to choose by, and to score on."""
    side = calibration_size(mask)
    outside = mask.clone()
    top, left = mask.shape[0] // 2 - side // 2, mask.shape[1] // 2 - side // 2
    outside[top : top + side, left : left + side] = 0
    points = outside.flatten().nonzero()[:, 0]
    points = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))]
    out = []
    for some in (points[: len(points) // 20], points[len(points) // 20 : 3 * len(points) // 20]):
        part = torch.zeros(mask.numel())
        part[some] = 1
        out.append(part.reshape(mask.shape))
    return mask - out[0] - out[1], *out


def only(physics, mask):
    return deepinv.physics.MultiCoilMRI(mask=mask, coil_maps=physics.coil_maps, img_size=mask.shape)


def equilibrium(sigma, noise):
    step = ProximalStep(
        ComplexDenoiser(load_denoiser()), strength=(noise / sigma) ** 2, sigma=sigma
    )
    return EquilibriumReconstructor(
        step, stop=Stop(1e-3, 60), gradient=Implicit(stop=Stop(1e-2, 40)), on_failure="ignore"
    )


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--out", type=Path, default=Path("results"))
    a = p.parse_args()
    if not FILE.is_file():
        print(f"skipped: {FILE} is not there")
        return
    kspace = read_kspace(FILE)[0]
    found = acquisition(kspace)
    physics, noise = found.physics, found.noise
    use, choose, score = (only(physics, m) for m in parts(sampled(kspace)))
    y = use.mask[:, :, None] * found.y

    def misfit(x, part):
        truth = part.mask[:, :, None] * found.y
        return float((part.A(x) - truth).norm() / truth.norm())

    points = int(score.mask[0, 0].sum())
    truth = score.mask[:, :, None] * found.y
    floor = noise * (2 * points * found.y.shape[2]) ** 0.5 / float(truth.norm())
    print(
        f"{found.y.shape[2]} coils, {float(physics.mask[0, 0].mean()):.1%} of k-space measured, centre {found.calibration}²"
    )
    print(f"scored on {points} points; the noise alone there: {floor:.3f}")
    print(f"{'method':<16}{'setting':<24}{'misfit':>8}{'seconds':>9}")
    families = {
        "zero-filled": {"": use.A_adjoint},
        "least squares": {
            f"{n} iterations": lambda y, n=n: least_squares(use.A, use.A_adjoint, y, 0, n).value
            for n in (3, 5, 8, 12, 20)
        },
        "TV": {
            f"weight {w:g}": partial(total_variation, physics=use, weight=w)
            for w in (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
        },
        "equilibrium": {
            f"sigma {s:g}": lambda y, s=s: equilibrium(s, noise)(y, use)
            for s in (0.02, 0.04, 0.08, 0.16)
        },
    }
    images, chosen = {}, {}
    with torch.no_grad():
        for name, settings in families.items():
            best = None
            for setting, method in settings.items():
                start = time.perf_counter()
                x = method(y)
                row = misfit(x, choose), setting, x, time.perf_counter() - start
                best = row if best is None or row[0] < best[0] else best
            _, chosen[name], images[name], seconds = best
            print(
                f"{name:<16}{chosen[name]:<24}{misfit(images[name], score):8.3f}{seconds:9.1f}",
                flush=True,
            )
    model = equilibrium(float(chosen["equilibrium"].split()[1]), noise)
    settings = Learning(steps=a.steps, batch=1, lr=2e-4, warmup=5, ema=0.9)
    losses = {
        "consistency": MeasurementConsistency(0.1, 1e-2),
        "splitting": Splitting(5, 1.0, 1e-2),
        "contraction": JacobianPenalty(0.1, 0.9),
    }
    model.stop = Stop(1e-2, 30)
    trainer = Trainer(model, use, y, losses, settings, 0)
    start = time.perf_counter()
    skipped = 0
    while trainer.step < settings.steps:
        report = trainer.advance()
        skipped += bool(report.skipped)
        if trainer.step % 5 == 0:
            print(
                f"  step {trainer.step}: loss {report.loss:.2e}, {1 / report.images_per_second:.0f} s a step",
                flush=True,
            )
    model.load_state_dict(trainer.averaged())
    model.stop = Stop(1e-3, 60)
    with torch.no_grad():
        solved = model.equilibrium(y, use)
    images["trained"] = solved.value
    chosen["trained"] = f"{settings.steps} steps ({skipped} skipped)"
    seconds = time.perf_counter() - start
    print(
        f"{'trained':<16}{chosen['trained']:<24}{misfit(images['trained'], score):8.3f}{seconds:9.1f}"
    )
    print(
        f"the trained equilibrium's residual: {float(solved.residual):.0e} after {int(solved.steps)} evaluations"
    )

    fig, axes = plt.subplots(2, len(images), figsize=(2.3 * len(images), 5.6), layout="constrained")
    for column, (name, x) in zip(axes.T, images.items()):
        picture = magnitude(x)[0, 0]
        top = float(magnitude(images["TV"]).quantile(0.995))
        column[0].imshow(picture, cmap="gray", vmin=0, vmax=top)
        column[0].set_title(f"{name}\nheld-out misfit {misfit(x, score):.3f}", fontsize=8)
        column[1].imshow(picture[85:150, 55:120], cmap="gray", vmin=0, vmax=top)
        for axis in column:
            axis.axis("off")
    fig.savefig(a.out / "brain_8coil.png", dpi=110)
    print(f"wrote {a.out / 'brain_8coil.png'}")


if __name__ == "__main__":
    main()
