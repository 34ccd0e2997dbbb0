"""Is the equivariant bootstrap true? Coverage of its 90 % bounds, and predicted against true error,
on held-out CT slices, beside the parametric bootstrap (no moves) and after calibration.

    python benchmarks/coverage.py [--size 64] [--views 20] [--images 8] [--samples 30] [--run RUN]

Without --run, the model is the shipped denoiser in the proximal step, before any training. Factors
are learnt on the first half of the patients, or on measurements that were left out, and coverage is
that of the second half.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import torch
from common import DATA, arguments, is_there, parser, start_model

from equipoise.assessment.diagnose import range_and_null
from equipoise.assessment.metrics import magnitude
from equipoise.assessment.uncertainty import (
    Uncertainty,
    calibrated_on_measurements,
    calibrated_on_truths,
    reliability,
    uncertainty,
)
from equipoise.config import Config, parse
from equipoise.data.dataset import Dataset
from equipoise.data.scan import Scan
from equipoise.imaging.groups import named_group
from equipoise.run import load_data, load_run

GROUPS = {"equivariant (rotations)": "rotations", "parametric (no moves)": None}


def problem(a: Any) -> tuple[Any, Dataset]:
    """The model, and slices of held-out patients."""
    if a.run is not None:
        run = load_run(a.run)
        dataset = load_data(run.config, run.scan, a.data, a.seed)
        return run.model, dataset.spread(a.images)
    config: Config = parse(
        {
            "data": {"kind": "images", "path": str(a.data), "size": a.size},
            "physics": {"kind": a.kind, **({"angles": a.views} if a.kind != "mri" else {})},
        },
        "coverage",
    )
    scan = Scan.planned(config.physics, a.size, a.seed)
    dataset = load_data(config, scan, seed=a.seed).spread(a.images)
    model = start_model(config, dataset.scan)
    model.stop = config.model.test_stop()
    return model.eval(), dataset


def part(u: Uncertainty, index: torch.Tensor) -> Uncertainty:
    """Of some images."""
    from dataclasses import replace

    names = ("value", "std", "lower", "upper", "mean", "rmse", "rmse_upper", "status", "blind")
    return replace(u, widths=None, **{name: getattr(u, name)[index] for name in names})


def line(name: str, u: Uncertainty, truth: torch.Tensor) -> str:
    found = reliability(u, truth)
    per_image = found.covered[0]
    return (
        f"{name:<42} {found.coverage():7.1%}  {float(per_image.min()):6.1%} … "
        f"{float(per_image.max()):6.1%}   {found.ratio:5.2f}   {found.correlation:6.2f}   "
        f"{float(found.width.mean()):.4f}"
    )


def error_parts(physics: Any, x: torch.Tensor, u: Uncertainty, truth: torch.Tensor) -> str:
    """Predicted and true mean square error in the range of Aᵀ and in the null space."""
    seen, unseen = range_and_null(physics, x - truth)
    assert u.samples is not None
    spread_seen, spread_unseen = [], []
    for one in u.samples[:10]:
        a, b = range_and_null(physics, one - u.value)
        spread_seen.append(float(a.square().mean()))
        spread_unseen.append(float(b.square().mean()))
    mean = lambda values: sum(values) / len(values)  # noqa: E731
    return (
        f"mean square error, predicted / true: range {mean(spread_seen):.2e} / "
        f"{float(seen.square().mean()):.2e}, null space {mean(spread_unseen):.2e} / "
        f"{float(unseen.square().mean()):.2e}"
    )


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--size", type=int, default=64)
    p.add_argument("--views", type=int, default=20)
    p.add_argument("--kind", default="parallel_beam")
    p.add_argument("--images", type=int, default=8)
    p.add_argument("--samples", type=int, default=30)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--run", type=Path, default=None)
    p.add_argument("--data", type=Path, default=DATA / "ct" / "val.h5")
    a = arguments(p, size=16, views=6, images=4, samples=10)
    if not is_there(a.data):
        return
    warnings.simplefilter("ignore")
    model, dataset = problem(a)
    y, physics, truth = dataset.batch(torch.arange(len(dataset)))
    assert truth is not None
    truth = magnitude(truth)
    print(f"{len(dataset)} images of {a.size}², {a.kind}, {a.samples} samples, seed {a.seed}")
    print(
        "bounds at 90 %                              covered   per image          "
        " pred/true   rank   width"
    )
    half = len(dataset) // 2
    first, second = torch.arange(half), torch.arange(half, len(dataset))
    for name, kind in GROUPS.items():
        group = None if kind is None else named_group(kind)
        start = time.perf_counter()
        u = uncertainty(
            model,
            y,
            physics,
            group,
            a.samples,
            seed=a.seed,
            keep=truth.shape[1] == y.shape[1],
            quantity=magnitude,
            keys=range(len(y)),
        )
        seconds = time.perf_counter() - start
        print(line(name, u, truth), f"  {seconds:.0f} s, {int(u.unfinished.sum())} unfinished")
        if kind is None:
            continue
        print(line("  bias corrected", u.corrected(), truth))
        on_truths = calibrated_on_truths(part(u, first), truth[first])
        scaled = part(u, second).scaled(on_truths.factor)
        print(line("  calibrated on truths (other half)", scaled, truth[second]), on_truths.words)
        few, few_physics, _ = dataset.batch(first[:2])
        on_y = calibrated_on_measurements(model, few, few_physics, group, samples=10)
        print(line("  calibrated on measurements", u.scaled(on_y.factor), truth), on_y.words)
        if u.samples is not None:
            print("  " + error_parts(physics, u.value, u, truth))


if __name__ == "__main__":
    main()
