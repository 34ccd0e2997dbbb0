"""What a trained network is: its invariance, its Jacobian, its prior, its error; beside the same figures of other networks."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import build, runs
from .assessment import diagnose as d
from .assessment import report
from .assessment.baselines import has_fbp
from .assessment.metrics import psnr
from .config import dump
from .equilibrium import Implicit, Stop
from .errors import UserError
from .imaging.groups import named_group
from .reconstruction import contraction
from .reconstruction.denoisers import Invariant
from .reconstruction.model import EquilibriumReconstructor
from .runs import Run

IMAGES = 4
NOISY = 0.05  # standard deviation of the noise that an image must lose against its clean self
ROWS = {
    "psnr": "PSNR (dB)",
    "gap_turn_trained": "equivariance gap, mean over turns",
    "gap_flip": "equivariance gap, mean over flips",
    "commutes_turn": "denoiser ‖D T − T D‖ / ‖D‖, mean over turns",
    "commutes_flip": "denoiser ‖D T − T D‖ / ‖D‖, mean over flips",
    "asymmetry_clean": "denoiser: asymmetry of the Jacobian at the true images",
    "asymmetry_between": "the same, half way to the reconstructions",
    "asymmetry_solution": "the same, at the reconstructions",
    "smallest_clean": "denoiser: smallest eigenvalue found of the symmetric part, lowest of the true images",
    "smallest_between": "the same, half way to the reconstructions",
    "smallest_solution": "the same, at the reconstructions",
    "norm_clean": "denoiser: largest singular value found, highest of the true images",
    "norm_between": "the same, half way to the reconstructions",
    "norm_solution": "the same, at the reconstructions",
    "network_asymmetry": "network y ↦ A f*(y): asymmetry of the Jacobian",
    "network_smallest": "the same: smallest eigenvalue found of the symmetric part, lowest of the images",
    "network_norm": "the same: largest singular value found, highest of the images",
    "path_dependence": "prior: path dependence (0: there is one)",
    "prior_noisy": "prior of noisy − of true images (relative; positive: ranks them right)",
    "prior_denoised": "prior φ of denoised noisy − of denoised true images (relative)",
    "prior_artefact": "prior of FBP or zero-filled − of true images (likewise)",
    "prior_turn": "prior: change under a turn by 30° (relative)",
    "prior_flip": "prior: change under a flip (relative)",
    "radius": "spectral radius of ∂f/∂x at the equilibrium",
    "steps": "evaluations of f to 1e-4",
    "adjoint_steps": "vector–Jacobian products to 1e-3",
    "error_range": "mean squared error that the operator sees",
    "error_null": "mean squared error that it does not see",
    "null_missing": "share of the invisible part that is missing",
}


def diagnose(
    run: Run, others: list[Run], data: Path | None = None, folder: Path | None = None, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Measures ``run``, its start, its group average and ``others`` on a few images that training did not see.

    Runs that differ in their seed alone share a column: mean ± standard deviation. Writes ``diagnosis.json``, ``table.md`` and
    ``report.html`` into ``folder`` (default: ``diagnosis`` in the run's).

    Raises:
        UserError: there are no unseen images; a network is unrolled; others were made for other data or another operator.
    """
    for one in (run, *others):
        if one.config.model.gradient == "unrolled":
            raise UserError(f"{one.folder}: is unrolled, so there is no equilibrium to look at; leave it out")
        if (one.config.data, one.config.physics) != (run.config.data, run.config.physics):
            raise UserError(f"{one.folder} and {run.folder} differ in data or physics, so their figures cannot stand side by side")
    problem, what = runs.unseen(run.config, run.physics, data)
    some = torch.linspace(0, len(problem.y) - 1, min(IMAGES, len(problem.y))).long()
    physics, y = build.select(problem.physics, some, len(problem.y)), problem.y[some]
    truth = None if problem.truth is None else problem.truth[some]
    start = build.build_model(run.config.model, physics.image_shape[0], run.noise, run.config.seed)
    networks: dict[str, EquilibriumReconstructor] = {"before training": start, run.config.name: run.model}
    if run.config.model.invariant == "none" and physics.image_shape[-1] == physics.image_shape[-2]:
        averaged = runs.load_run(run.folder).model
        averaged.step.denoiser = Invariant(averaged.step.denoiser, named_group("quarter_turns"))
        networks[f"{run.config.name}, averaged over quarter turns"] = averaged
    alike: dict[str, list[str]] = {name: [name] for name in networks if name != run.config.name}
    alike[_but_seed(run)] = [run.config.name]
    for other in others:
        name = other.folder.name if other.folder.name not in networks else str(other.folder)
        networks[name] = other.model
        alike.setdefault(_but_seed(other), []).append(name)
    found: dict[str, Any] = {}
    for name, model in networks.items():
        model.stop, model.gradient = Stop(1e-4, 100), Implicit(stop=Stop(1e-3, 60))
        model.on_failure = "ignore"
        found[name] = _measure(model.eval(), physics, y, truth)
        say(f"measured: {name}")
    folder = run.folder / "diagnosis" if folder is None else folder
    folder.mkdir(parents=True, exist_ok=True)
    about = {"command": " ".join(["equipoise", *sys.argv[1:]]), "data": what, "images": len(y), "measures": ROWS}
    (folder / "diagnosis.json").write_text(json.dumps({"about": about, "networks": found}, indent=1))
    groups = sorted(alike.values(), key=lambda names: list(networks).index(names[0]))
    columns = ["", *(names[0] if len(names) == 1 else f"{names[0]}, {len(names)} seeds" for names in groups)]
    rows = [[title, *(_cell([found[n]["table"].get(key) for n in names]) for names in groups)] for key, title in ROWS.items()]
    drawn = {names[0]: found[names[0]] for names in groups}
    (folder / "table.md").write_text(
        f"`{about['command']}`, {len(y)} images\n\n"
        + "\n".join(f"| {' | '.join(r)} |" for r in (columns, ["---"] * len(columns), *rows))
        + "\n"
    )
    figures = [
        (report.save_png(report.gaps(drawn), folder / "gaps.png"), "Equivariance gap of the network and of its denoiser"),
        (report.save_png(report.residuals(drawn), folder / "residuals.png"), "Residuals of the forward and the adjoint solve"),
    ]
    words = [
        f"Measured on {len(y)} images of {what}: value ± error (of an asymmetry the standard error over probes, of an eigenvalue "
        "or singular value the residual bound, else the standard error over images), or mean ± standard deviation over seeds. "
        "Eigenvalues are those that Lanczos iteration found: the smallest may be smaller yet. "
        "A proximal map has asymmetry 0, no negative eigenvalue and no path dependence; its prior is invariant if the gaps are 0.",
        f"Command: {about['command']}",
    ]
    report.page(folder / "report.html", f"Diagnosis of {run.config.name}", words, figures, (columns, rows), "", dump(run.config))
    return {"about": about, "networks": found, "folder": str(folder)}


def _but_seed(run: Run) -> str:
    return dump(run.config.model_copy(update={"seed": 0, "name": "", "out": None}))


def _cell(seeds: list[Any]) -> str:
    """The value and its error, or, of several seeds, their mean and standard deviation."""
    if None in seeds:
        return "–"
    values = torch.tensor([v["value"] if isinstance(v, dict) else v for v in seeds])
    if len(seeds) > 1:
        return f"{float(values.mean()):.3g} ± {float(values.std()):.1g}"
    if isinstance(seeds[0], dict):
        return f"{seeds[0]['value']:.3g} ± {seeds[0]['error']:.1g}"
    return f"{seeds[0]:.3g}" if abs(seeds[0]) < 20 else f"{seeds[0]:.2f}"


def _measure(model: EquilibriumReconstructor, physics: Any, y: Tensor, truth: Tensor | None) -> dict[str, Any]:
    step: Any = model.step

    def D(u: Tensor) -> Tensor:
        out: Tensor = step.denoise(u)
        return out

    table: dict[str, Any] = {}
    record = model.equilibrium(y, physics)
    record.value.square().sum().backward()
    adjoint, x = record.adjoint, record.value.detach()
    assert adjoint is not None
    model.zero_grad()
    table["steps"], table["adjoint_steps"] = float(record.steps.float().mean()), float(adjoint.steps.float().mean())
    rng = torch.Generator().manual_seed(0)
    table["radius"] = float(contraction.measure(step.bind(y, physics), step.lift(x, y, physics), rng=rng).radius.max())
    clean = x if truth is None else truth
    curves: dict[str, Any] = {"gap": {}, "commutes": {}}
    with torch.no_grad():
        for kind, every in d.moves(x.shape).items():
            curves["gap"][kind] = [
                (far, d.equivariance_gap(lambda v: model(v, physics), physics, x, T).tolist()) for far, T in every
            ]
            curves["commutes"][kind] = [(far, d.commutes(D, clean, T).tolist()) for far, T in every]
    mean = {(c, k): float(torch.tensor([v for _, v in rows]).mean()) for c, kinds in curves.items() for k, rows in kinds.items()}
    table["gap_turn_trained"], table["gap_flip"] = mean.get(("gap", "turn")), mean["gap", "flip"]
    table["commutes_turn"], table["commutes_flip"] = mean.get(("commutes", "turn")), mean["commutes", "flip"]
    for where, point in (("clean", clean), ("between", (clean + x) / 2), ("solution", x)):
        J = d.Jacobian(D, point)
        ends = d.spectrum(J)
        table[f"asymmetry_{where}"] = d.asymmetry(J).row()
        table[f"smallest_{where}"], table[f"norm_{where}"] = ends.smallest.row("lowest"), ends.norm.row("highest")
    table |= _network(model, physics, y)
    with torch.no_grad():
        table |= _prior(D, physics, y, clean)
        if truth is not None:
            parts = d.error_parts(physics, x, truth)
            table |= {"error_range": parts["range"], "error_null": parts["null"], "null_missing": parts["null_missing"]}
            table["psnr"] = float(psnr(x, truth).mean())
    return {"table": table, "curves": curves, "residuals": record.trace.T.tolist(), "adjoint": adjoint.trace.T.tolist()}


def _network(model: EquilibriumReconstructor, physics: Any, y: Tensor) -> dict[str, Any]:
    """Of y ↦ A f*(y), whose products are solves: fewer of them, on two images."""
    few = torch.arange(min(2, len(y)))
    part = build.select(physics, few, len(y))
    J = d.Jacobian(lambda v: part.A(model(v, part)), y[few])
    ends = d.spectrum(J, steps=20)
    return {
        "network_asymmetry": d.asymmetry(J, probes=4).row(),
        "network_smallest": ends.smallest.row("lowest"),
        "network_norm": ends.norm.row("highest"),
    }


def _prior(D: Callable[[Tensor], Tensor], physics: Any, y: Tensor, clean: Tensor) -> dict[str, Any]:
    """The prior that acts in the equilibrium, the Moreau envelope with gradient id − D, from zero, relative to ``clean``'s."""
    rng, zero = torch.Generator().manual_seed(0), torch.zeros_like(clean)
    noisy = clean + NOISY * torch.randn(clean.shape, generator=rng)
    artefact = physics.fbp(y) if has_fbp(y, physics) else physics.A_adjoint(y)
    base = d.envelope(D, zero, clean)
    size = base.abs().clamp_min(1e-30)
    moves = d.moves(clean.shape)
    turned = {"prior_turn": dict(moves["turn"])[30.0](clean)} if "turn" in moves else {}
    out = {key: (d.envelope(D, zero, u) - base) / size for key, u in (("prior_noisy", noisy), ("prior_artefact", artefact))}
    out |= {
        k: (d.envelope(D, zero, u) - base).abs() / size for k, u in (*turned.items(), ("prior_flip", moves["flip"][0][1](clean)))
    }
    value, other = d.prior(D, zero, clean), d.prior(D, zero, noisy)
    out["prior_denoised"] = (other - value) / value.abs().clamp_min(1e-30)
    out["path_dependence"] = d.path_dependence(D, clean, noisy, artefact)
    return {k: d.Estimate(v, v.std() / len(v) ** 0.5 if len(v) > 1 else torch.zeros(1)).row() for k, v in out.items()}
