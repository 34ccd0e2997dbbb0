"""Of the old runs.py, compare.py and diagnosis.py; goes when they go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from . import figures
from . import page as pages
from .figures import curves, save_png
from .table import Column, Row, Table, Value

__all__ = ["curves", "save_png"]

LABELS = {
    "fbp": "FBP",
    "zero_filled": "Zero-filled",
    "least_squares": "Least squares",
    "tv": "Total variation",
    "untrained": "Equipoise, before training",
    "equipoise": "Equipoise",
    "pnp": "Plug-and-play (HQS)",
    "equivariant_pnp": "Equivariant plug-and-play",
    "red": "RED",
    "implicit": "Equilibrium, implicit",
    "jacobian_free": "Equilibrium, Jacobian-free",
    "phantom": "Equilibrium, phantom gradient",
    "unrolled_5": "Unrolled, 5 steps",
    "unrolled_10": "Unrolled, 10 steps",
    "untied_5": "Unrolled, 5 steps, untied",
    "consistency": "Equilibrium, consistency alone",
    "ei": "Equilibrium, consistency + EI",
    "sure_ei": "Equilibrium, SURE + EI",
    "splitting": "Equilibrium, splitting alone (SSDU)",
    "supervised": "Equilibrium, supervised",
}


def label(method: str) -> str:
    return LABELS.get(method, method)


def _titled(methods: dict[str, Any]) -> dict[str, Any]:
    return {label(name): value for name, value in methods.items()}


def grid(
    y: Tensor, methods: dict[str, Tensor], truth: Tensor | None, names: list[str], rows: int = 4
) -> Figure:
    return figures.grid(y, _titled(methods), truth, names, rows)


def boxes(scores: dict[str, list[dict[str, Any]]]) -> Figure:
    values = {m: [v for s in seeds for v in s.get("psnr", ())] for m, seeds in scores.items()}
    return figures.boxes(_titled(values))


def cost(table: dict[str, Any]) -> Figure:
    return figures.cost(
        [
            figures.Cost(label(m), r["psnr"], r["evaluations"], r["seconds"])
            for m, r in table.items()
            if "psnr" in r
        ]
    )


def elsewhere(found: dict[str, dict[str, dict[str, list[float]]]]) -> Figure:
    def titled(scores: dict[str, list[float]]) -> dict[str, Value]:
        return {label(m): Value(sum(s) / len(s), max(s) - min(s)) for m, s in scores.items()}

    return figures.elsewhere(
        {axis: {v: titled(s) for v, s in values.items()} for axis, values in found.items()}
    )


def gaps(networks: dict[str, Any]) -> Figure:
    return figures.gaps({name: network["curves"] for name, network in networks.items()})


def residuals(networks: dict[str, Any]) -> Figure:
    forward = {name: network["residuals"] for name, network in networks.items()}
    adjoint = {name: network["adjoint"] for name, network in networks.items()}
    return figures.residuals(forward, adjoint)


def read_log(folder: Path) -> list[dict[str, Any]]:
    path = folder / "log.jsonl"
    rows: dict[int, dict[str, Any]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # the last line of a run that was killed
        rows[row["step"]] = row
    return [rows[k] for k in sorted(rows)]


def pictures(
    methods: dict[str, Tensor], truth: Tensor | None, names: list[str], rows: int = 8
) -> list[dict[str, Any]]:
    return pages.pictures(_titled(methods), truth, names, rows)


def page(
    path: Path,
    title: str,
    summary: list[str],
    figures: list[tuple[bytes, str]],
    table: tuple[list[str], list[list[str]]] = ([], []),
    conventions: str = "",
    config: str = "",
    viewer: list[dict[str, Any]] | None = None,
    reload: int = 0,
) -> None:
    head, lines = table
    columns = [Column(title, title) for title in head[1:]]
    rows = [Row(r[0], r[0], dict(zip(head[1:], r[1:], strict=True))) for r in lines]
    made = Table(head[0], columns, rows, remarks="") if head else None
    how: dict[str, Any] = {"conventions": conventions, "config": config, "viewer": viewer}
    pages.page(path, title, summary, figures, table=made, reload=reload, **how)
