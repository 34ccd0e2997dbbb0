"""Of the old runs.py; goes when it goes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..equilibrium import Equilibrium
from . import report
from .metrics import CONVENTIONS, misfit, psnr, ssim, summary
from .solves import solve_rows


@dataclass
class Table:
    """Scores of every method on every image. ``scores[method]["psnr"]`` is a list, one value an image."""

    problem: dict[str, Any]
    names: list[str]
    images: dict[str, Tensor] = field(default_factory=dict)
    scores: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    solve: Equilibrium | None = None
    folder: Path | None = None  #: where it was saved

    def add(
        self,
        method: str,
        x: Tensor,
        y: Tensor,
        physics: Any,
        truth: Tensor | None,
        setting: str = "",
    ) -> None:
        self.images[method], self.settings[method] = x.detach(), setting
        row = {"misfit": misfit(x, y, physics).tolist()}
        if truth is not None:
            row |= {"psnr": psnr(x, truth).tolist(), "ssim": ssim(x, truth).tolist()}
        self.scores[method] = row

    def lines(self) -> list[dict[str, Any]]:
        """One row a method, formatted."""
        out: list[dict[str, Any]] = []
        for method, s in self.scores.items():
            row: dict[str, Any] = {
                "name": report.label(method),
                "setting": self.settings[method],
                "psnr": "–",
                "ssim": "–",
            }
            if "psnr" in s:
                (p, dp), (q, dq) = summary(s["psnr"]), summary(s["ssim"])
                row |= {"psnr": f"{p:.2f} ± {dp:.2f}", "ssim": f"{q:.4f} ± {dq:.4f}"}
            row["misfit"] = f"{summary(s['misfit'])[0]:.2e}"
            out.append(row)
        return out

    def columns_and_rows(self) -> tuple[list[str], list[list[str]]]:
        """For the page."""
        keys = ("name", "psnr", "ssim", "misfit", "setting")
        return ["method", "PSNR (dB)", "SSIM", "misfit", "setting"], [
            [r[k] for k in keys] for r in self.lines()
        ]

    def as_json(self) -> dict[str, Any]:
        methods: dict[str, Any] = {}
        for method, s in self.scores.items():
            entry: dict[str, Any] = {"setting": self.settings[method]}
            for key, values in s.items():
                mean, deviation = summary(values)
                entry |= {key: mean, f"{key}_std": deviation, f"{key}_per_image": values}
            methods[method] = entry
        out: dict[str, Any] = {
            "problem": self.problem,
            "methods": methods,
            "images": self.names,
            "conventions": CONVENTIONS,
        }
        if self.solve is not None:
            out["solve"] = solve_rows(self.solve, self.names)
        return out

    def save(self, folder: Path) -> None:
        (folder / "results.json").write_text(json.dumps(self.as_json(), indent=1))
