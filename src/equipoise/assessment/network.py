"""All that is measured of one network: its invariance, its Jacobian, its prior, its error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..equilibrium import Equilibrium
from ..imaging.selection import select
from ..reconstruction import contraction
from ..reconstruction.model import EquilibriumReconstructor
from . import diagnose as d
from .baselines import NoBackprojection, filtered_backprojection, zero_filled
from .metrics import psnr

#: Standard deviation of the noise that an image must lose against its clean self.
NOISY = 0.05
NO_TRUTH = "the data are measurements, so there is no truth to compare with"
NOT_SQUARE = "the images are not square, so turns do not keep them"


class Measure(NamedTuple):
    """Something that is measured of a network."""

    title: str
    form: str = ".3g"
    without: str = ""  #: why it may be missing


class Place(NamedTuple):
    """Where the Jacobian of the denoiser is looked at."""

    words: str
    without: str = ""


PLACES = {
    "clean": Place("at the true images", NO_TRUTH),
    "between": Place("half way to the reconstructions", NO_TRUTH),
    "solution": Place("at the reconstructions"),
}


def _at_each_place(key: str, title: str, extreme: str = "") -> dict[str, Measure]:
    return {
        f"{key}_{name}": Measure(f"{title}, {place.words}{extreme}", without=place.without)
        for name, place in PLACES.items()
    }


MEASURES: dict[str, Measure] = {
    "psnr": Measure("PSNR (dB)", ".4g", NO_TRUTH),
    "gap_turn_trained": Measure("equivariance gap, mean over turns", without=NOT_SQUARE),
    "gap_flip": Measure("equivariance gap, mean over flips"),
    "commutes_turn": Measure("denoiser ‖D T − T D‖ / ‖D‖, mean over turns", without=NOT_SQUARE),
    "commutes_flip": Measure("denoiser ‖D T − T D‖ / ‖D‖, mean over flips"),
    **_at_each_place("asymmetry", "denoiser: asymmetry"),
    **_at_each_place("smallest", "denoiser: smallest eigenvalue found", " (lowest)"),
    **_at_each_place("norm", "denoiser: largest singular value found", " (highest)"),
    "network_asymmetry": Measure("network y ↦ A f*(y): asymmetry"),
    "network_smallest": Measure("network y ↦ A f*(y): smallest eigenvalue found (lowest)"),
    "network_norm": Measure("network y ↦ A f*(y): largest singular value found (highest)"),
    "path_dependence": Measure("prior: path dependence (0: there is one)"),
    "prior_noisy": Measure(
        "prior of noisy − of true images (relative; positive: ranks them right)", without=NO_TRUTH
    ),
    "prior_denoised": Measure(
        "prior φ of denoised noisy − of denoised true images (relative)", without=NO_TRUTH
    ),
    "prior_artefact": Measure(
        "prior of FBP or zero-filled − of true images (likewise)", without=NO_TRUTH
    ),
    "prior_turn": Measure("prior: change under a turn by 30° (relative)", without=NOT_SQUARE),
    "prior_flip": Measure("prior: change under a flip (relative)"),
    "radius": Measure("spectral radius of ∂f/∂x at the equilibrium"),
    "steps": Measure("evaluations of f to 1e-4", ".4g"),
    "unfinished": Measure("share of the solves that did not get there"),
    "adjoint_steps": Measure("vector–Jacobian products to 1e-3", ".4g"),
    "error_range": Measure("mean squared error that the operator sees", without=NO_TRUTH),
    "error_null": Measure("mean squared error that it does not see", without=NO_TRUTH),
    "null_missing": Measure("share of the invisible part that is missing", without=NO_TRUTH),
}

#: A number, or its value with an error and a spread (``Estimate.row``).
Measured = float | dict[str, float]
#: Kind of move → how far, and a value for each image.
Curves = dict[str, list[tuple[float, list[float]]]]


@dataclass
class NetworkMeasurements:
    """What was measured of a network.

    Args:
        table: measure → its value; what cannot be had is left out.
        curves: ``gap`` and ``commutes``, against turns, shifts and flips.
        residuals: (images, evaluations) relative residuals of the forward solve.
        adjoint: the same of the adjoint solve.
    """

    table: dict[str, Measured]
    curves: dict[str, Curves]
    residuals: list[list[float]]
    adjoint: list[list[float]]


def measure_network(
    model: EquilibriumReconstructor, physics: Any, y: Tensor, truth: Tensor | None
) -> NetworkMeasurements:
    """Measures a network on a few images.

    Args:
        model: its ``stop`` and ``gradient`` say how tightly equilibria are solved for.
        physics: what measured y.
        y: (B, …) measurements.
        truth: (B, C, H, W) the images, where they are known; where not, invariance is measured at
            the reconstructions, and what needs the true images is left out.
    """
    step: Any = model.step
    solved, adjoint = _solve_both_ways(model, physics, y)
    x: Tensor = solved.value.detach()
    clean = x if truth is None else truth
    rng = torch.Generator().manual_seed(0)
    found = contraction.measure(step.bind(y, physics), step.lift(x, y, physics), rng=rng)
    curves = _curves(model, physics, x, clean)
    table: dict[str, Measured] = {
        "steps": float(solved.steps.double().mean()),
        "unfinished": float((~solved.converged).double().mean()),
        "adjoint_steps": float(adjoint.steps.double().mean()),
        "radius": float(found.radius.max()),
        **_means(curves),
        **_denoiser(step.denoise, truth, x),
        **_whole_network(model, physics, y),
    }
    with torch.no_grad():
        prior = _prior(step.denoise, physics, y, clean)
        needs_truth = {key for key in prior if MEASURES[key].without == NO_TRUTH}
        table |= {key: v for key, v in prior.items() if truth is not None or key not in needs_truth}
        if truth is not None:
            parts = d.error_parts(physics, x, truth)
            table["error_range"], table["error_null"] = parts["range"], parts["null"]
            table["null_missing"] = parts["null_missing"]
            table["psnr"] = float(psnr(x, truth).mean())
    return NetworkMeasurements(table, curves, solved.trace.T.tolist(), adjoint.trace.T.tolist())


def _solve_both_ways(
    model: EquilibriumReconstructor, physics: Any, y: Tensor
) -> tuple[Equilibrium, Equilibrium]:
    """The equilibria, and the adjoint solve of ½‖x̂‖² with respect to everything."""
    solved = model.equilibrium(y, physics)
    solved.value.square().sum().backward()
    model.zero_grad()
    adjoint = solved.adjoint
    assert adjoint is not None
    return solved, adjoint


def _curves(
    model: EquilibriumReconstructor, physics: Any, x: Tensor, clean: Tensor
) -> dict[str, Curves]:
    def reconstruct(y: Tensor) -> Tensor:
        return model(y, physics)

    denoise: Callable[[Tensor], Tensor] = model.step.denoise
    gap: Curves = {}
    commutes: Curves = {}
    with torch.no_grad():
        for kind, moves in d.moves(x.shape).items():
            gap[kind] = [
                (far, d.equivariance_gap(reconstruct, physics, x, move).tolist())
                for far, move in moves
            ]
            commutes[kind] = [
                (far, d.commutes(denoise, clean, move).tolist()) for far, move in moves
            ]
    return {"gap": gap, "commutes": commutes}


def _means(curves: dict[str, Curves]) -> dict[str, Measured]:
    """The mean of each curve; turns are missing where images are not square."""
    names = {"gap_turn_trained": ("gap", "turn"), "gap_flip": ("gap", "flip")}
    names |= {"commutes_turn": ("commutes", "turn"), "commutes_flip": ("commutes", "flip")}
    means: dict[str, Measured] = {}
    for name, (measure, kind) in names.items():
        curve = curves[measure].get(kind)
        if curve is not None:
            means[name] = float(torch.tensor([values for _, values in curve]).mean())
    return means


def _denoiser(
    denoise: Callable[[Tensor], Tensor], truth: Tensor | None, x: Tensor
) -> dict[str, Measured]:
    """The Jacobian of the denoiser at the reconstructions, and, where they are known, at the true
    images and between."""
    points = {"solution": x}
    if truth is not None:
        points = {"clean": truth, "between": (truth + x) / 2, **points}
    table: dict[str, Measured] = {}
    for where, point in points.items():
        J = d.Jacobian(denoise, point)
        ends = d.spectrum(J)
        table[f"asymmetry_{where}"] = d.asymmetry(J).row()
        table[f"smallest_{where}"] = ends.smallest.row("lowest")
        table[f"norm_{where}"] = ends.norm.row("highest")
    return table


def _whole_network(model: EquilibriumReconstructor, physics: Any, y: Tensor) -> dict[str, Measured]:
    """Of y ↦ A f*(y), whose products are solves: fewer of them, on two images."""
    first = torch.arange(min(2, len(y)))
    part = select(physics, first, len(y))

    def predicted(v: Tensor) -> Tensor:
        measured: Tensor = part.A(model(v, part))
        return measured

    J = d.Jacobian(predicted, y[first])
    ends = d.spectrum(J, steps=20)
    return {
        "network_asymmetry": d.asymmetry(J, probes=4).row(),
        "network_smallest": ends.smallest.row("lowest"),
        "network_norm": ends.norm.row("highest"),
    }


def _prior(
    denoise: Callable[[Tensor], Tensor], physics: Any, y: Tensor, clean: Tensor
) -> dict[str, Measured]:
    """The prior that acts in the equilibrium, the Moreau envelope with gradient id − D, from zero,
    relative to ``clean``'s."""
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(clean.shape, generator=rng, dtype=clean.dtype)
    zero, noisy = torch.zeros_like(clean), torch.add(clean, noise, alpha=NOISY)
    artefact = _with_artefacts(y, physics)
    base = d.envelope(denoise, zero, clean)
    size = base.abs().clamp_min(1e-30)

    def rise(image: Tensor) -> Tensor:
        return (d.envelope(denoise, zero, image) - base) / size

    moves = d.moves(clean.shape)
    _, flip = moves["flip"][0]
    found = {"prior_noisy": rise(noisy), "prior_artefact": rise(artefact)}
    if "turn" in moves:
        found["prior_turn"] = rise(dict(moves["turn"])[30.0](clean)).abs()
    found["prior_flip"] = rise(flip(clean)).abs()
    value = d.prior(denoise, zero, clean)
    of_noisy = d.prior(denoise, zero, noisy)
    found["prior_denoised"] = (of_noisy - value) / value.abs().clamp_min(1e-30)
    found["path_dependence"] = d.path_dependence(denoise, clean, noisy, artefact)
    return {name: _over_images(values) for name, values in found.items()}


def _over_images(values: Tensor) -> Measured:
    """Their mean, with its standard error."""
    error = values.std() / len(values) ** 0.5 if len(values) > 1 else torch.zeros(1)
    return d.Estimate(values, error).row()


def _with_artefacts(y: Tensor, physics: Any) -> Tensor:
    try:
        return filtered_backprojection(y, physics)
    except NoBackprojection:
        return zero_filled(y, physics)
