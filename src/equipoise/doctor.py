"""Before hours of training: can this set-up work? Every finding says what to do about it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from deepinv.physics import MRI, MultiCoilMRI
from torch import Tensor

from . import build
from .config import Config
from .errors import UserError
from .imaging.data import Measurements
from .imaging.linear import least_squares, norm
from .imaging.operators import select
from .learning.train import Trainer

FEW = 4  # measurements that are looked at closely


class Finding(NamedTuple):
    verdict: Literal["ok", "note", "wrong"]
    what: str
    remedy: str = ""


def _verdict(fine: bool, what: str, remedy: str, bad: Literal["note", "wrong"] = "wrong") -> Finding:
    return Finding("ok", what) if fine else Finding(bad, what, remedy)


def examine(config: Config) -> Iterator[Finding]:
    """The findings, one by one as they are made; nothing is written."""
    physics = build.build_physics(config.physics, config.data.size, config.seed)
    try:
        problem = build.build_problem(config, physics, stream=config.data.stream)
        index = torch.linspace(0, len(problem.y) - 1, min(FEW, len(problem.y))).round().long()
        y = torch.stack([problem.y[int(i)] for i in index])
    except UserError as error:
        yield Finding("wrong", f"the data cannot be read: {error}")
        return
    build.set_noise(problem.physics, config.physics, problem.noise)
    physics = select(problem.physics, index, len(problem.y))
    yield _adjoint(physics, y)
    yield _norm(physics, y)
    yield _data(problem, y)
    found = least_squares(physics.A, physics.A_adjoint, y, 1e-3, 50).value
    yield from _fit(physics, y, found, problem)
    if problem.truth is None:
        yield _noise(config, physics, y, problem.noise)
    try:
        losses = build.build_objective(config.objective, physics, problem.y)
    except UserError as error:
        yield Finding("wrong", str(error))
        return
    if "equivariance" in losses:
        yield commuting(physics, losses["equivariance"].group, found)
    yield from _step(config, problem, physics, losses)


def _adjoint(physics: Any, y: Tensor) -> Finding:
    rng = torch.Generator().manual_seed(0)
    x, v = (torch.randn(t.shape, generator=rng, dtype=t.dtype) for t in (physics.A_adjoint(y), y))
    Ax, Atv = physics.A(x), physics.A_adjoint(v)
    gap = float(((Ax * v).sum().double() - (x * Atv).sum().double()).abs() / (Ax.norm() * v.norm() + x.norm() * Atv.norm()))
    what = f"adjoint: ⟨A x, y⟩ and ⟨x, Aᵀ y⟩ differ by {gap:.0e} of their size (allowed: 1e-4)"
    remedy = "A_adjoint must be the transpose of A: derive it with torch.func.vjp, as docs/operator.md shows"
    return _verdict(gap <= 1e-4, what, remedy)


def _norm(physics: Any, y: Tensor) -> Finding:
    largest = norm(physics.A, physics.A_adjoint, physics.A_adjoint(y[:1]))
    what = f"norm: ‖A‖ = {largest:.3f}; measurements are multiplied by {physics.gain:.3g} to make it so"
    return _verdict(largest < 1.01, what, "scale coil maps or operator to ‖A‖ = 1, or steps may diverge")


def _data(problem: build.Problem, y: Tensor) -> Finding:
    source, n = problem.source, len(problem.y)
    patients = len(set(source.patients))
    what = (
        f"data: {n} measurements of shape {tuple(y.shape[1:])} from {patients} patient(s) or file(s), "
        f"values {float(y.min()):.3g} … {float(y.max()):.3g}"
    )
    what = "; ".join([what, *source.notes[:5]])
    return _verdict(not source.notes, what, "what is there twice, leave out; what is missing, complete", "note")


def _fit(physics: Any, y: Tensor, x: Tensor, problem: build.Problem) -> Iterator[Finding]:
    misfit = float((physics.A(x) - y).norm() / y.norm().clamp_min(1e-30))
    floor = problem.noise * y.numel() ** 0.5 / float(y.norm().clamp_min(1e-30))
    what = f"fit: least squares leaves {misfit:.1%} of the measurements unexplained (noise: about {floor:.1%})"
    remedy = "the operator is not what measured these data: check views, detectors, pixel, offset, orientation"
    yield _verdict(misfit <= max(0.2, 3 * floor), what, remedy)
    top = float(x.flatten().abs().quantile(0.999)) if x.numel() < 1 << 24 else float(x.abs().max())
    what = f"range: the images reach {top:.2g}, where 1 is expected"
    if problem.truth is None and isinstance(problem.source, Measurements):
        remedy = f"set data.peak to about {top:.2g} times what it is, so that images lie in [0, 1]"
        yield _verdict(0.2 <= top <= 3, what, remedy)
    else:
        remedy = "images in [0, 1] are what the denoiser knows: rescale them, or leave out slices that are empty"
        yield _verdict(0.2 <= top <= 3, what, remedy, "note")


def _noise(config: Config, physics: Any, y: Tensor, assumed: float) -> Finding:
    """From second differences along the last axis, which smooth signals hardly have: an upper bound."""
    d = y[..., 2:] - 2 * y[..., 1:-1] + y[..., :-2]
    d = d[d != 0]
    if isinstance(physics, (MRI, MultiCoilMRI)) or len(d) < 100:
        return Finding("ok", f"noise: standard deviation {assumed:.2e}, found in the data or as configured")
    estimate = float(d.abs().median()) / (0.6745 * 6**0.5)
    what = f"noise: at most {estimate:.2e} in the data's finest detail, {assumed:.2e} assumed"
    if assumed > 3 * estimate and config.physics.photons is None:
        value = config.physics.noise * estimate / assumed
        return Finding("wrong", what, f"set physics.noise to {value:.1g} or less")
    return _verdict(assumed > estimate / 30, what, "if the data are that noisy, raise physics.noise", "note")


def commuting(physics: Any, group: Any, x: Tensor) -> Finding:
    """Whether moved images have parts that the operator cannot see; x: images that it sees wholly, such as A† y.

    If T_g keeps the range of Aᵀ, then A T_g A† A = A T_g: what it would tell about the null space is nothing (Chen, Tachella
    and Davies, ICCV 2021, section 3)."""

    def unseen(v: Tensor) -> float:
        seen = least_squares(physics.A, physics.A_adjoint, physics.A(v), 1e-4, 100).value
        return float((v - seen).norm() / v.norm().clamp_min(1e-30))

    rng = torch.Generator().manual_seed(0)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        seen = physics.A_adjoint(torch.randn(physics.A(x).shape, generator=rng, dtype=x.dtype))
        before, after = unseen(seen), unseen(group(seen.flatten(1, -3)).reshape(seen.shape))
    what = f"group: moving what A sees puts {after:.1%} of it where A is blind (numerical error {before:.1%})"
    remedy = "this group commutes with the operator, so the equivariance term teaches nothing: choose another objective.group, or "
    return _verdict(after >= max(0.02, 2 * before), what, remedy + "set objective.equivariance=0")


def _step(config: Config, problem: build.Problem, physics: Any, losses: dict[str, Any]) -> Iterator[Finding]:
    model = build.build_model(config.model, physics.image_shape[0], problem.noise, config.seed)
    settings = config.learning.model_copy(update={"workers": 0})
    trainer = Trainer(model, problem.physics, problem.y, losses, settings, config.seed)
    report = trainer.advance()
    start = time.perf_counter()  # of a second one: the first also prepares what all others use
    trainer.advance()
    seconds = time.perf_counter() - start
    if report.skipped:
        yield Finding(
            "wrong",
            f"step: the first one would be skipped: {report.skipped}",
            "raise model.sigma a little or lower model.strength; raise objective.contraction",
        )
    else:
        solves = f"{report.forward:.0f} evaluations forward, {report.adjoint:.0f} backward"
        what = f"step: {solves}, {report.unsolved:.0%} of the solves unfinished"
        yield _verdict(report.unsolved < 0.5, what, "raise model.max_steps, or model.sigma a little", "note")
    hours = seconds * config.learning.steps / 3600
    device = "GPU" if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    yield Finding(
        "ok", f"cost: {seconds:.1f} s a step on this {device}: {hours:.1f} h for {config.learning.steps} steps; {_peak():.1f} GB"
    )


def _peak() -> float:
    """The largest resident size so far, in GB."""
    import resource
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)
