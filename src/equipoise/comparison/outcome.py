"""What a comparison found: its table, and the files that show it."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import Any

import torch

from ..assessment import figures
from ..assessment.metrics import CONVENTIONS
from ..assessment.page import page, pictures
from ..assessment.table import Row, Table, Value
from ..assessment.words import command_line, unfinished_in_words
from ..data.dataset import Dataset
from ..machine import json_text, write_whole
from ..run import versions
from .method import Method
from .summary import COLUMNS, Seeds, reference, row_of
from .sweep import SHOWN, Comparison, load_images
from .tuning import read_tuning


@dataclass
class Outcome:
    """Scores as a table, in words and in pictures.

    Args:
        comparison: what was compared.
        found: name → what became of a method, seed by seed.
        dataset: what was scored on, of the first seed.
        what: its name.
        others: axis → table, of the trained models on other problems.
    """

    comparison: Comparison
    found: dict[str, Seeds]
    dataset: Dataset
    what: str
    others: dict[str, Table]

    def __post_init__(self) -> None:
        self.methods = [m for m in self.comparison.methods if m.name in self.found]
        self.reference = reference(self.methods, self.found)
        self.table = Table("method", COLUMNS, [self._row(method) for method in self.methods])
        self.about = self._about()

    def _row(self, method: Method) -> Row:
        against = self.found[self.reference.name] if self.reference is not None else []
        is_reference = method is self.reference
        seeds = list(self.comparison.every_seed())
        return row_of(method, self.found[method.name], [] if is_reference else against, seeds)

    def _about(self) -> dict[str, Any]:
        cores, threads = os.cpu_count(), torch.get_num_threads()
        return {
            "command": command_line(),
            "data": self.what,
            "reference": "" if self.reference is None else self.reference.label,
            "images": len(self.dataset),
            "patients": len(set(self.dataset.patients)),
            "seeds": list(self.comparison.every_seed()),
            "machine": f"{platform.machine()}, {cores} cores, {threads} threads for scoring",
            "versions": versions(),
            "conventions": CONVENTIONS,
            "tuning": self._tuning(),
        }

    def _tuning(self) -> str:
        """What was tuned, and on what."""
        folder = self.comparison.out / "scores"
        found = {method.label: read_tuning(folder, method.name) for method in self.methods}
        tuned = {label: tuning for label, tuning in found.items() if tuning is not None}
        if not tuned:
            return "No method was tuned"
        images = {name for tuning in tuned.values() for name in tuning.images}
        return (
            f"Tuned to the best PSNR on {len(images)} of the true images whose measurements are "
            f"trained on: {', '.join(tuned)}; no other method was"
        )

    # ------------------------------------------------------------------------------------ files

    def write(self) -> None:
        """results.json, table.md, report.html and its figures."""
        out = self.comparison.out
        scores = {
            name: [score.as_json() for score in seeds if score is not None]
            for name, seeds in self.found.items()
        }
        tree: dict[str, Any] = {"about": self.about, "table": self.table.as_json()}
        if self.others:
            tree["elsewhere"] = {axis: table.as_json() for axis, table in self.others.items()}
        write_whole(out / "results.json", json_text({**tree, "scores": scores}, indent=1))
        write_whole(out / "table.md", self.markdown())
        images = load_images(self.comparison)
        truth, names = self.dataset.require_truth()[:SHOWN], self.dataset.names
        units = [item.units for item in self.dataset.items]
        page(
            out / "report.html",
            f"Comparison: {self.comparison.config.name}",
            self.words(),
            self._figures(),
            table=self.table,
            conventions=CONVENTIONS,
            config=self.comparison.text(),
            viewer=pictures(images, truth, names, SHOWN, units=units) if images else None,
        )

    def _figures(self) -> list[tuple[bytes, str]]:
        """PNG and description of each; none of what has no scores."""
        out, shown = self.comparison.out, []
        images = load_images(self.comparison)
        if images:
            truth = self.dataset.require_truth()[:SHOWN]
            y, names = self.dataset.batch(torch.arange(len(truth))).y, self.dataset.names
            grid = figures.save_png(figures.grid(y, images, truth, names, SHOWN), out / "grid.png")
            shown.append((grid, "Measurement, methods and truth; error maps on one scale"))
        values = {m.label: _all_psnr(self.found[m.name]) for m in self.methods}
        if any(values.values()):
            boxes = figures.save_png(figures.boxes(values), out / "boxes.png")
            shown.append((boxes, "PSNR of every image, over all seeds"))
            cost = figures.save_png(figures.cost(self._costs()), out / "cost.png")
            shown.append((cost, "Quality against what a reconstruction costs"))
        if self.others:
            chart = figures.elsewhere(_seeds_of(self.others))
            png = figures.save_png(chart, out / "elsewhere.png")
            shown.append((png, "The same models, unchanged, on other problems: mean PSNR"))
        return shown

    def _costs(self) -> list[figures.Cost]:
        costs = []
        for row in self.table.rows:
            decibels = row.cells.get("psnr")
            if isinstance(decibels, Value):
                evaluations, seconds = _mean(row, "evaluations"), _mean(row, "seconds")
                costs.append(figures.Cost(row.title, decibels.mean, evaluations, seconds))
        return costs

    def markdown(self) -> str:
        """The table of all methods, and those of the other problems."""
        blocks = [f"## {self.comparison.config.name}", f"`{self.about['command']}`"]
        blocks += [*self.words()[1:], self.table.markdown()]
        for axis, table in self.others.items():
            blocks.append(
                f"PSNR (dB), mean ± deviation over seeds, of the same models with other {axis}:"
            )
            blocks.append(table.markdown())
        return "\n\n".join(block.rstrip() for block in blocks) + "\n"

    def words(self) -> list[str]:
        """What was compared, on what, and what the figures mean."""
        about = self.about
        resampled = "patients" if about["patients"] > 1 else "images (one volume)"
        difference = (
            f"Difference: from {about['reference']} on the same images; its interval from a paired "
            f"bootstrap over {resampled} and seeds, widened for how few they are. "
            if self.reference is not None
            else ""
        )
        unfinished = unfinished_in_words(self._unfinished())
        return [
            about["command"],
            f"{about['images']} images of {about['patients']} patient(s), {about['data']}; seeds "
            f"{about['seeds']}; {about['machine']}.",
            f"Mean ± standard deviation over seeds (those that have scores). {difference}"
            f"{about['tuning']}. Metrics: {about['conventions']}.",
            *([unfinished] if unfinished else []),
        ]

    def _unfinished(self) -> dict[str, float]:
        """Label → share of the solves that did not finish, of methods that solve."""
        shares = {}
        for row in self.table.rows:
            converged = _mean(row, "converged")
            if converged is not None:
                shares[row.title] = 1 - converged
        return shares


def _all_psnr(seeds: Seeds) -> list[float]:
    return [value for score in seeds if score is not None for value in score.psnr]


def _mean(row: Row, key: str) -> float | None:
    cell = row.cells.get(key)
    return cell.mean if isinstance(cell, Value) else None


def _seeds_of(others: dict[str, Table]) -> dict[str, dict[str, dict[str, Value]]]:
    """Axis → value → label → mean and deviation."""
    found: dict[str, dict[str, dict[str, Value]]] = {}
    for axis, table in others.items():
        for column in table.columns:
            cells = {row.title: row.cells.get(column.key) for row in table.rows}
            values = {title: cell for title, cell in cells.items() if isinstance(cell, Value)}
            found.setdefault(axis, {})[column.title] = values
    return found
