"""equipoise doctor: before hours of training, can this set-up work? Every finding says what to do
about it."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from deepinv.physics import MRI, MultiCoilMRI
from torch import Tensor

from ..assessment.uncertainty import measured_and_invented
from ..assessment.uncertainty.parts import MUCH
from ..config import Config
from ..data.dataset import Dataset
from ..data.scan import Scan
from ..errors import UserError
from ..imaging.linear import least_squares, norm
from ..imaging.tomography import Tomography
from ..learning.log import Report
from ..learning.trainer import Trainer
from ..run import load_training_data
from .causes import likely_cause

#: Measurements that are looked at closely.
SAMPLES = 4
#: The misfit of least squares that is worth a note, and the one that cannot be right.
ODD_MISFIT, WRONG_MISFIT = 0.05, 0.2

Verdict = Literal["ok", "note", "wrong"]


class Finding(NamedTuple):
    verdict: Verdict
    what: str
    remedy: str = ""


def _judged(is_fine: bool, what: str, remedy: str, otherwise: Verdict = "wrong") -> Finding:
    return Finding("ok", what) if is_fine else Finding(otherwise, what, remedy)


def examine(config: Config) -> Iterator[Finding]:
    """The findings, one by one as they are made; nothing is written."""
    scan = Scan.planned(config.physics, config.data.size, config.seed)
    try:
        dataset, _ = load_training_data(config, scan)
        sample = dataset.spread(SAMPLES)
    except UserError as error:
        yield Finding("wrong", f"the data cannot be read: {error}")
        return
    physics, y = sample.scan.physics, sample.measurements()
    yield _adjoint(physics, y)
    yield _norm(sample.scan, y)
    yield _data(dataset, y)
    estimate = least_squares(physics.A, physics.A_adjoint, y, 1e-3, 50).value
    yield _fit(sample, estimate)
    yield _range(sample, estimate)
    yield prior(config, sample)
    if sample.truth is None:
        yield _noise(config, sample)
    try:
        losses = config.objective.make(dataset.scan, y[:1])
    except UserError as error:
        yield Finding("wrong", str(error))
        return
    if "equivariance" in losses:
        yield commuting(physics, losses["equivariance"].group, estimate)
    yield from _training_step(config, dataset, losses)


def _adjoint(physics: Any, y: Tensor) -> Finding:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(physics.A_adjoint(y).shape, generator=rng, dtype=y.dtype)
    v = torch.randn(y.shape, generator=rng, dtype=y.dtype)
    Ax, Atv = physics.A(x), physics.A_adjoint(v)
    difference = (Ax * v).sum().double() - (x * Atv).sum().double()
    gap = float(difference.abs() / (Ax.norm() * v.norm() + x.norm() * Atv.norm()))
    return _judged(
        gap <= 1e-4,
        f"adjoint: ⟨A x, y⟩ and ⟨x, Aᵀ y⟩ differ by {gap:.0e} of their size (allowed: 1e-4)",
        "A_adjoint must be the transpose of A: derive it with torch.func.vjp, as docs/operator.md "
        "shows",
    )


def _norm(scan: Scan, y: Tensor) -> Finding:
    physics: Any = scan.physics
    largest = norm(physics.A, physics.A_adjoint, physics.A_adjoint(y[:1]))
    return _judged(
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
    return _judged(
        not dataset.notes,
        "; ".join([what, *dataset.notes[:5]]),
        "what is there twice, leave out; what is missing, complete",
        otherwise="note",
    )


def _fit(sample: Dataset, x: Tensor) -> Finding:
    """Whether the operator explains the data, as far as their noise lets it.

    Where a scanner made the data, the usual causes of a bad fit are tried, and the one that mends
    it is named.
    """
    physics, y = sample.scan.physics, sample.measurements()
    size = float(y.norm().clamp_min(1e-30))
    misfit = float((physics.A(x) - y).norm()) / size
    measured = int((y != 0).sum())  # what k-space lacks has no noise
    noise = sample.scan.noise * measured**0.5 / size
    what = (
        f"fit: least squares leaves {misfit:.1%} of the measurements unexplained (noise: about "
        f"{noise:.1%})"
    )
    if sample.truth is None and isinstance(physics, Tomography):
        cause = likely_cause(physics, y)
        if cause is not None:
            return Finding(
                "wrong",
                f"{what}: {cause.what}, which would leave {cause.misfit:.1%}",
                cause.remedy,
            )
    remedy = (
        "the operator is not what measured these data: check views, detectors, pixel, offset, "
        "orientation"
    )
    if misfit > max(WRONG_MISFIT, 3 * noise):
        return Finding("wrong", what, remedy)
    return _judged(misfit <= max(ODD_MISFIT, 3 * noise), what, remedy, otherwise="note")


def _range(sample: Dataset, x: Tensor) -> Finding:
    few_enough_to_sort = x.numel() < 1 << 24
    top = float(x.flatten().abs().quantile(0.999)) if few_enough_to_sort else float(x.abs().max())
    what = f"range: the images reach {top:.2g}, where 1 is expected"
    is_fine = 0.2 <= top <= 3
    if sample.items[0].holds == "measurement":
        remedy = f"set data.peak to about {top:.2g} times what it is, so that images lie in [0, 1]"
        return _judged(is_fine, what, remedy)
    remedy = (
        "images in [0, 1] are what the denoiser knows: rescale them, or leave out slices that are "
        "empty"
    )
    return _judged(is_fine, what, remedy, otherwise="note")


def prior(config: Config, sample: Dataset) -> Finding:
    """What share of an image's energy the measurements do not determine, above their noise: of a
    true image, or of what the model makes before training."""
    one = sample.some(torch.tensor([0]))
    y, physics, x = one.batch(torch.tensor([0]))
    if x is None:
        model = config.model.make(one.scan.image_shape[0], one.scan.noise, config.seed)
        with torch.no_grad():
            x = model(y, physics)
    share = float(measured_and_invented(physics, x.to(y), one.scan.noise**2).share())
    return _judged(
        share <= MUCH,
        f"prior: {share:.0%} of an image's energy is not determined by the measurements",
        "the prior supplies more than the data: measure more (views, lines, points), or believe no "
        "detail that only the prior drew: equipoise reconstruct --samples shows which",
        otherwise="note",
    )


def _noise(config: Config, sample: Dataset) -> Finding:
    """From second differences along the last axis, which smooth signals hardly have: an upper
    bound."""
    y, assumed = sample.measurements(), sample.scan.noise
    differences = y[..., 2:] - 2 * y[..., 1:-1] + y[..., :-2]
    differences = differences[differences != 0]
    is_mri = isinstance(sample.scan.physics, MRI | MultiCoilMRI)
    if is_mri or len(differences) < 100:
        what = f"noise: standard deviation {assumed:.2e}, found in the data or as configured"
        return Finding("ok", what)
    estimate = float(differences.abs().median()) / (0.6745 * 6**0.5)
    what = f"noise: at most {estimate:.2e} in the data's finest detail, {assumed:.2e} assumed"
    if assumed > 3 * estimate and config.physics.photons is None:
        value = config.physics.noise * estimate / assumed
        return Finding("wrong", what, f"set physics.noise to {value:.1g} or less")
    remedy = "if the data are that noisy, raise physics.noise"
    return _judged(assumed > estimate / 30, what, remedy, otherwise="note")


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
    return _judged(
        after >= max(0.02, 2 * before),
        f"group: moving what A sees puts {after:.1%} of it where A is blind (numerical error "
        f"{before:.1%})",
        "this group commutes with the operator, so the equivariance term teaches nothing: choose "
        "another objective.equivariance.group, or set objective.equivariance=0",
    )


def _training_step(config: Config, dataset: Dataset, losses: dict[str, Any]) -> Iterator[Finding]:
    """Takes two steps: the first also prepares what all others use, the second is timed."""
    scan = dataset.scan
    model = config.model.make(scan.image_shape[0], scan.noise, config.seed)
    settings = config.learning.model_copy(update={"workers": 0})
    try:
        trainer = Trainer(model, dataset, losses, settings, config.seed)
    except UserError as error:
        yield Finding("wrong", str(error))
        return
    report = trainer.advance()
    start = time.perf_counter()
    trainer.advance()
    seconds = time.perf_counter() - start
    yield _solves(report)
    hours = seconds * config.learning.steps / 3600
    device = "GPU"
    if not torch.cuda.is_available():
        device = f"CPU, {torch.get_num_threads()} threads"
    yield Finding(
        "ok",
        f"cost: {seconds:.1f} s a step on this {device}: {hours:.1f} h for "
        f"{config.learning.steps} steps; {_peak_gigabytes():.1f} GB",
    )


def _solves(report: Report) -> Finding:
    if report.skipped:
        return Finding(
            "wrong",
            f"step: the first one would be skipped: {report.skipped}",
            "raise model.sigma a little or lower model.step.strength; raise objective.contraction",
        )
    return _judged(
        report.unsolved < 0.5,
        f"step: {report.forward:.0f} evaluations forward, {report.adjoint:.0f} backward, "
        f"{report.unsolved:.0%} of the solves unfinished",
        "raise model.max_steps, or model.sigma a little",
        otherwise="note",
    )


def _peak_gigabytes() -> float:
    """The largest resident size so far."""
    unit = 1e9 if sys.platform == "darwin" else 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
