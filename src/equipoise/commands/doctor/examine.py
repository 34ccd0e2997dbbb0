"""What the doctor looks at, finding by finding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ...config import Config
from ...data.dataset import Dataset
from ...data.scan import Scan
from ...errors import UserError
from ...imaging.linear import least_squares, norm
from ...imaging.tomography import Tomography
from ...run import described, load_training_data
from .cost import training_step
from .finding import Finding, judged
from .fit import fit
from .kspace import acquisition
from .mend import unreadable
from .noise import noise
from .prior import prior
from .scale import scale
from .stripes import stripes
from .tellable import not_tellable
from .values import values

#: Measurements that are looked at closely.
SAMPLES = 4

Say = Callable[[str], None]


def examine(config: Config, say: Say = lambda text: None) -> Iterator[Finding]:
    """The findings, one by one as they are made; nothing is written.

    Args:
        say: is told what is being done, where that takes longer.
    """
    say("reading the data")
    try:
        config = described(config)
        scan = Scan.planned(config.physics, config.data.size, config.seed)
        dataset, _ = load_training_data(config, scan)
        sample = dataset.spread(SAMPLES)
    except UserError as error:
        yield unreadable(config, error)
        return
    physics, y = sample.scan.physics, sample.measurements()
    yield _adjoint(physics, y)
    yield _norm(sample.scan, y)
    yield _data(dataset, y)
    yield from acquisition(sample)
    unlikely = list(values(sample, y))
    yield from unlikely
    if unlikely:  # whatever the geometry is
        return
    say("least squares")
    estimate = least_squares(physics.A, physics.A_adjoint, y, 1e-3, 50).value
    explained = fit(config, sample, estimate, say)
    yield explained
    scaled = _range(sample, estimate, getattr(config.data, "peak", 1.0))
    # An operator that does not explain the data does not tell their scale either.
    yield scaled if explained.verdict != "wrong" else scaled._replace(changes={})
    yield from scale(sample, estimate)
    yield from prior(config, sample)
    if sample.truth is None:
        yield noise(config, sample)
        if isinstance(physics, Tomography):
            yield stripes(sample)
            yield not_tellable(physics)
    yield from _training(config, dataset, sample, estimate, say)


def _training(
    config: Config, dataset: Dataset, sample: Dataset, estimate: Tensor, say: Say
) -> Iterator[Finding]:
    try:
        losses = config.objective.make(dataset.scan, sample.measurements()[:1])
    except UserError as error:
        yield Finding("wrong", str(error))
        return
    chosen = config.objective.explain(dataset.scan)
    if chosen:
        yield Finding("ok", chosen)
    if "equivariance" in losses:
        say("the group")
        yield commuting(
            dataset.spread(SAMPLES).scan.physics, losses["equivariance"].group, estimate
        )
    say("a training step")
    yield from training_step(config, dataset, losses)


def _adjoint(physics: Any, y: Tensor) -> Finding:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(physics.A_adjoint(y).shape, generator=rng, dtype=y.dtype)
    v = torch.randn(y.shape, generator=rng, dtype=y.dtype)
    Ax, Atv = physics.A(x), physics.A_adjoint(v)
    difference = (Ax * v).sum().double() - (x * Atv).sum().double()
    gap = float(difference.abs() / (Ax.norm() * v.norm() + x.norm() * Atv.norm()))
    return judged(
        gap <= 1e-4,
        f"adjoint: ⟨A x, y⟩ and ⟨x, Aᵀ y⟩ differ by {gap:.0e} of their size (allowed: 1e-4)",
        "A_adjoint must be the transpose of A: derive it with torch.func.vjp, as docs/operator.md "
        "shows",
    )


def _norm(scan: Scan, y: Tensor) -> Finding:
    physics: Any = scan.physics
    largest = norm(physics.A, physics.A_adjoint, physics.A_adjoint(y))
    if not largest > 0.01:
        return Finding(
            "wrong",
            f"norm: ‖A‖ = {largest:.3g}: the operator sees nothing of any image",
            "check mask, coil maps and geometry",
        )
    return judged(
        largest < 1.01,
        f"norm: ‖A‖ = {largest:.3f}; measurements are multiplied by {scan.gain:.3g} to make it so",
        "scale coil maps or operator to ‖A‖ = 1, or steps may diverge",
    )


def _data(dataset: Dataset, y: Tensor) -> Finding:
    patients = len(set(dataset.patients))
    what = (
        f"data: {len(dataset)} measurements of shape {tuple(y.shape[1:])} from {patients} "
        f"patient(s) or file(s), values {float(y.min()):.3g} … {float(y.max()):.3g}"
    )
    is_double = any("identical" in note or "missing" in note for note in dataset.notes)
    return judged(
        not dataset.notes,
        "; ".join([what, *dataset.notes[:5]]),
        "what is there twice, leave out; what is missing, complete" if is_double else "",
        otherwise="note",
    )


def _range(sample: Dataset, x: Tensor, peak: float = 1.0) -> Finding:
    few_enough_to_sort = x.numel() < 1 << 24
    top = float(x.flatten().abs().quantile(0.999)) if few_enough_to_sort else float(x.abs().max())
    what = f"range: the images reach {top:.2g}, where 1 is expected"
    is_fine = 0.2 <= top <= 3
    if sample.items[0].holds == "measurement":
        peak = float(f"{peak * max(top, 1e-30):.2g}")
        remedy = (
            f"set data.peak to about {top:.2g} times what it is ({peak:g}), so that images lie in "
            "[0, 1]"
        )
        return judged(is_fine, what, remedy, changes={"data.peak": peak})
    remedy = (
        "images in [0, 1] are what the denoiser knows: rescale them, or leave out slices that are "
        "empty"
    )
    return judged(is_fine, what, remedy, otherwise="note")


def commuting(physics: Any, group: Any, x: Tensor) -> Finding:
    """Whether moved images have parts that the operator cannot see.

    If T_g keeps the range of Aᵀ, then A T_g A† A = A T_g: what it would tell about the null space
    is nothing (Chen, Tachella and Davies, ICCV 2021, section 3).

    Args:
        x: images of the shape that the operator measures.
    """

    def unseen_share(v: Tensor) -> float:
        seen = least_squares(physics.A, physics.A_adjoint, physics.A(v), 1e-4, 100).value
        return float((v - seen).norm() / v.norm().clamp_min(1e-30))

    rng = torch.Generator().manual_seed(0)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        v = torch.randn(physics.A(x).shape, generator=rng, dtype=x.dtype)
        visible = physics.A_adjoint(v)
        before = unseen_share(visible)
        after = unseen_share(group(visible.flatten(1, -3)).reshape(visible.shape))
    return judged(
        after >= max(0.02, 2 * before),
        f"group: moving what A sees puts {after:.1%} of it where A is blind (numerical error "
        f"{before:.1%})",
        "this group commutes with the operator, so the equivariance term teaches nothing: choose "
        "another objective.equivariance.group, or set objective.equivariance=0",
    )
