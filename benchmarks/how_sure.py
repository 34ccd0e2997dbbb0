"""Is the equivariant bootstrap true? Coverage of its 90 % bounds, and predicted against true error,
on held-out CT slices, beside the parametric bootstrap (no moves) and after calibration.

    python benchmarks/how_sure.py [--size 64] [--views 20] [--images 8] [--samples 30]
    python benchmarks/how_sure.py --run RUN --run RUN …      # seeds of one configuration

Runs are looked at one by one, each on what its configuration holds out (data.validation,
data.holdout); the last lines are the means over all, with intervals by patient and run. Without
--run, the model is the shipped denoiser in the proximal step, before any training. Factors are
learnt on the first half of the images, or on measurements that were left out, and coverage is that
of the second half.

With --others, beside the first: total variation under the same bootstrap, deepinv's unadjusted
Langevin sampler (ULA) with the same denoiser, and an ensemble of the runs that are named.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import DATA, arguments, is_there, parser, start_model

from equipoise.assessment.baselines import total_variation
from equipoise.assessment.diagnose import range_and_null
from equipoise.assessment.metrics import magnitude
from equipoise.assessment.uncertainty import (
    Reliability,
    Uncertainty,
    calibrated_on_measurements,
    calibrated_on_truths,
    reliability,
    uncertainty,
)
from equipoise.comparison.statistics import bootstrap
from equipoise.config import Config, parse
from equipoise.data.dataset import Dataset
from equipoise.data.scan import Scan
from equipoise.imaging.groups import named_group
from equipoise.imaging.sizes import shown_size
from equipoise.run import load_data, load_run, unseen

#: The 90 % quantile of |v|, v standard normal.
NORMAL_90 = 1.6449
#: What the denoiser is told in Langevin sampling.
LANGEVIN_SIGMA = 0.02


def problem(a: Any, folder: Path | None) -> tuple[Any, Dataset]:
    """The model, and slices of patients that it has not seen."""
    if folder is not None:
        run = load_run(folder)
        return run.model, unseen(run.config, run.scan)[0].spread(a.images)
    config: Config = parse(
        {
            "data": {"kind": "images", "path": str(a.data), "size": a.size},
            "model": {"denoiser": a.denoiser},
            "physics": {
                "kind": a.kind,
                **({"angles": a.views} if a.kind != "mri" else {"acceleration": 4}),
            },
        },
        "coverage",
    )
    scan = Scan.planned(config.physics, a.size, a.seed)
    dataset = load_data(config, scan, seed=a.seed).spread(a.images)
    model = start_model(config, dataset.scan)
    model.stop = config.model.test_stop()
    return model.eval(), dataset


def from_spread(value: torch.Tensor, std: torch.Tensor, like: Uncertainty) -> Uncertainty:
    """The record of a method that gives a mean and a standard deviation: normal bounds."""
    rmse = std.double().square().flatten(1).mean(1).sqrt()
    half = NORMAL_90 * std
    return replace(
        like,
        value=value,
        std=std,
        lower=value - half,
        upper=value + half,
        mean=value,
        rmse=rmse,
        rmse_upper=rmse,
        widths=None,
    )


def langevin(model: Any, y: torch.Tensor, physics: Any, noise: float, a: Any) -> Any:
    """deepinv's ULA: the posterior's mean and standard deviation, (B, C, H, W) each."""
    from deepinv.optim import L2, ScorePrior
    from deepinv.sampling import ULA

    denoiser = model.step.denoiser
    sampler = ULA(
        prior=ScorePrior(denoiser),
        data_fidelity=L2(sigma=max(noise, 0.01)),
        step_size=0.5 / (1 / max(noise, 0.01) ** 2 + 1 / LANGEVIN_SIGMA**2),
        sigma=LANGEVIN_SIGMA,
        alpha=1.0,
        max_iter=a.langevin,
        thinning=2,
        burnin_ratio=0.3,
        clip=(-1.0, 2.0),
        verbose=False,
    )
    torch.manual_seed(a.seed)
    mean, variance = sampler(y, physics)
    return mean, variance.sqrt()


def beside_others(a: Any, model: Any, dataset: Dataset, u: Uncertainty, truth: Any) -> None:
    """Coverage and width of other methods, on the same images."""
    y, physics, _ = dataset.batch(torch.arange(len(dataset)))

    def tv(y: torch.Tensor, physics: Any) -> torch.Tensor:
        return total_variation(y, physics, a.tv)

    for name, group in (("moves", named_group("rotations")), ("no moves", None)):
        start = time.perf_counter()
        found = uncertainty(tv, y, physics, group, a.samples, seed=a.seed, quantity=magnitude)
        print(line(f"TV {a.tv:g}, bootstrap, {name}", found, truth), seconds_since(start))
    if len(a.run or ()) > 1:
        images = torch.stack([load_run(r).model(y, physics).detach() for r in a.run])
        shown = torch.stack([magnitude(x) for x in images])
        found = from_spread(shown.mean(0), shown.std(0), u)
        print(line(f"ensemble of {len(a.run)} seeds", found, truth))
    start = time.perf_counter()
    try:
        mean, std = langevin(model, y, physics, dataset.scan.noise, a)
        found = from_spread(mean, std, u)
        print(line(f"deepinv's ULA, {a.langevin} steps", found, truth), seconds_since(start))
    except Exception as error:  # whatever another library raises
        print(f"deepinv's ULA: {type(error).__name__}: {error}")


def seconds_since(start: float) -> str:
    return f"  {time.perf_counter() - start:.0f} s"


def part(u: Uncertainty, index: torch.Tensor) -> Uncertainty:
    """Of some images."""
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


def equivariant(a: Any, model: Any, dataset: Dataset, found: Found) -> None:
    """The bootstrap with moves, corrected and calibrated; and beside it, for the first model alone,
    the parametric one and the methods of others."""
    y, physics, truth = dataset.batch(torch.arange(len(dataset)))
    assert truth is not None
    shown = magnitude(truth)
    half = len(dataset) // 2
    first, second = torch.arange(half), torch.arange(half, len(dataset))
    group = named_group("rotations")
    start = time.perf_counter()
    keep = truth.shape[1] == 1
    u = bounds(a, model, y, physics, group, keep)
    found.add("equivariant (rotations)", u, shown, dataset, seconds_since(start), unfinished(u))
    found.add("  bias corrected", u.corrected(), shown, dataset)
    on_truths = calibrated_on_truths(part(u, first), shown[first])
    scaled = part(u, second).scaled(on_truths.factor)
    rest = dataset.some(second)
    name = "  calibrated on truths (other half)"
    found.add(name, scaled, shown[second], rest, on_truths.words)
    few, few_physics, _ = dataset.batch(first[:2])
    on_y = calibrated_on_measurements(model, few, few_physics, group, samples=10)
    name = "  calibrated on measurements"
    found.add(name, u.scaled(on_y.factor), shown, dataset, on_y.words)
    if keep:
        print("  " + error_parts(physics, u.value, u, shown))
    if found.models == 1:
        if a.others:
            beside_others(a, model, dataset, u, shown)
        start = time.perf_counter()
        u = bounds(a, model, y, physics, None, False)
        name = "parametric (no moves)"
        found.add(name, u, shown, dataset, seconds_since(start), unfinished(u))


def bounds(a: Any, model: Any, y: Any, physics: Any, group: Any, keep: bool) -> Uncertainty:
    keys = range(len(y))
    return uncertainty(
        model, y, physics, group, a.samples, seed=a.seed, keep=keep, quantity=magnitude, keys=keys
    )


def unfinished(u: Uncertainty) -> str:
    return f"{int(u.unfinished.sum())} unfinished"


class Found:
    """What the bounds held, row by row, over the models."""

    def __init__(self) -> None:
        self.models = 0
        self.rows: dict[str, list[Reliability]] = {}
        self.patients: dict[str, list[str]] = {}

    def add(
        self, name: str, u: Uncertainty, truth: torch.Tensor, dataset: Dataset, *words: str
    ) -> None:
        """Prints a row, and keeps it."""
        print(line(name, u, truth), *words, flush=True)
        self.rows.setdefault(name, []).append(reliability(u, truth))
        self.patients[name] = dataset.patients

    def summary(self) -> None:
        """Over all models: means, with intervals of 95 % by patient and model."""
        print(f"\n{self.models} models; 95 % intervals by patient and model")
        for name, rows in self.rows.items():
            if len({len(row.covered[0]) for row in rows}) > 1:
                print(f"{name:<42} the runs hold out different images")
                continue
            covered = torch.stack([row.covered[0].double() for row in rows])
            held = bootstrap(covered, self.patients[name])
            ratio = sum(row.ratio for row in rows) / len(rows)
            ranks = ", ".join(f"{row.correlation:.2f}" for row in rows)
            print(
                f"{name:<42} {held.mean:7.1%} [{held.low:.1%}, {held.high:.1%}]   "
                f"predicted / true {ratio:.2f}   rank {ranks}"
            )


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--size", type=int, default=64)
    p.add_argument("--views", type=int, default=20)
    p.add_argument("--kind", default="parallel_beam")
    p.add_argument("--images", type=int, default=8)
    p.add_argument("--samples", type=int, default=30)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--run", type=Path, action="append", help="folder of a run; several: seeds")
    p.add_argument("--others", action="store_true")
    p.add_argument("--tv", type=float, default=3e-4, help="weight of total variation")
    p.add_argument("--langevin", type=int, default=2000, help="steps")
    p.add_argument("--denoiser", default="shipped")
    p.add_argument("--data", type=Path, default=DATA / "ct" / "val.h5")
    a = arguments(p, size=16, views=6, images=4, samples=10, others=True, langevin=20)
    if not is_there(a.data):
        return
    warnings.simplefilter("ignore")
    found = Found()
    for run in a.run or [None]:
        model, dataset = problem(a, run)
        found.models += 1
        size = shown_size(dataset.scan.image_shape[-2:])
        kind = "before training" if run is None else run
        print(f"{kind}: {len(dataset)} images of {size}, {a.samples} samples, seed {a.seed}")
        print(
            "bounds at 90 %                              covered   per image          "
            " pred/true   rank   width"
        )
        equivariant(a, model, dataset, found)
    found.summary()


if __name__ == "__main__":
    main()
