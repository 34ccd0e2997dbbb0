"""The scores of a run and of the methods beside it, image by image."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..assessment.fastmri import CONVENTION
from ..assessment.metrics import CONVENTIONS, is_measured, misfit, psnr, ssim
from ..assessment.reference import CONVENTIONS as REFERENCE_CONVENTIONS
from ..assessment.reference import MEASURES, Reference
from ..assessment.solves import residual_in_words, solve_rows
from ..assessment.table import (
    Cell,
    Column,
    Missing,
    Row,
    Table,
    Value,
    value_over_images,
)
from ..data.dataset import Dataset
from ..equilibrium import Equilibrium
from ..machine import finite_or_none
from .sureness import Sureness

#: Images whose truth the classical methods are tuned on, in their favour; or scans that were
#: trained on, by the views of them that nobody used.
TUNED_ON = 8
COLUMNS = [
    Column("psnr", "PSNR (dB)", ".2f", ".2f"),
    Column("ssim", "SSIM", ".4f", ".4f"),
    Column("misfit", "misfit", ".2e", ".0e"),
]
NOTHING_MEASURED = "nothing was measured, all values are zero"
NO_TRUTH = "the data are measurements, so there is no truth to compare with"


@dataclass
class Evaluation:
    """Scores of every method on every image.

    Args:
        problem: what was scored on, and how.
        dataset: the measurements.
        folder: where it is kept.
        table: a row for each method: mean ± deviation over images.
        images: key of a row → (N, C, …, H, W).
        scores: key of a row → ``psnr``, ``ssim`` (where there is truth), ``misfit`` → a value for
            each image.
        solved: the equilibria of the run, once it has been scored.
    """

    problem: dict[str, Any]
    dataset: Dataset
    folder: Path
    table: Table = field(default_factory=lambda: Table("method", list(COLUMNS)))
    images: dict[str, Tensor] = field(default_factory=dict)
    scores: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    reference: Reference | None = None
    solved: Equilibrium | None = None
    words: list[str] = field(default_factory=list)  #: of the page
    fastmri: Table | None = None  #: the same methods by fastMRI's measures, where asked for
    sure: Sureness | None = None  #: how true its own estimate of its errors is, if that was asked

    @property
    def conventions(self) -> str:
        """What the measures are, in words."""
        return CONVENTIONS if self.reference is None else REFERENCE_CONVENTIONS

    @property
    def names(self) -> list[str]:
        """Of the images."""
        return self.dataset.names

    def refer_to(self, reference: Reference | None) -> None:
        """Scores by these judges too; there is no truth then."""
        self.reference = reference
        if reference is None:
            return
        own = [Column("unseen", MEASURES["unseen"], ".5f", ".5f")]
        own += [
            Column(key, MEASURES[key], ".2f", ".2f")
            for key in ("to_least_squares", "to_fbp")
            if key == "to_least_squares" or reference.backprojection is not None
        ]
        self.table.columns[:] = [*own, COLUMNS[-1]]

    def add(self, key: str, title: str, images: Tensor, setting: str) -> None:
        """Scores a method's images."""
        y, physics, truth = self.dataset.batch(torch.arange(len(self.dataset)))
        scores = {"misfit": misfit(images, y, physics).tolist()}
        cells: dict[str, Cell] = {}
        if self.reference is None:
            cells = {"psnr": Missing(NO_TRUTH), "ssim": Missing(NO_TRUTH)}
        if truth is not None:
            scores = {
                "psnr": psnr(images, truth).tolist(),
                "ssim": ssim(images, truth).tolist(),
                **scores,
            }
        if self.reference is not None:
            scores |= self.reference.scores(images)
        has_misfit = is_measured(y).tolist()
        for name, values in scores.items():
            counted = values
            if name in ("misfit", "unseen"):  # relative to what was measured
                counted = [v for v, is_there in zip(values, has_misfit) if is_there]
            cells[name] = value_over_images(counted) if counted else Missing(NOTHING_MEASURED)
        misfits = cells["misfit"]
        if isinstance(misfits, Value):
            cells["misfit"] = Value(misfits.mean)
        empty = has_misfit.count(False)
        if empty:
            setting = f"{setting}; misfit without {empty} image(s) of which nothing was measured"
        more = {
            f"{name}_per_image": [finite_or_none(v) for v in values]
            for name, values in scores.items()
        }
        self.images[key], self.scores[key] = images.detach(), scores
        self.table.rows.append(Row(key, title, cells, setting, more=more))

    def add_missing(self, key: str, title: str, missing: Missing) -> None:
        """A row that says why there are no images."""
        self.table.rows.append(Row(key, title, missing=[missing]))

    def titled_images(self) -> dict[str, Tensor]:
        """The images, by what readers call their method."""
        return {
            row.title: self.images[row.key] for row in self.table.rows if row.key in self.images
        }

    def per_image(self) -> Table:
        """A row for each image: the score of every method, and the solve of the run."""
        score = "psnr" if self.dataset.truth is not None else "misfit"
        score = score if self.reference is None else "unseen"
        form = ".2f" if score == "psnr" else ".2e"
        columns = [Column(key, key, form) for key in self.scores]
        columns += [Column("residual", "residual"), Column("status", "status")]
        heading = {"psnr": "PSNR (dB)", "misfit": "misfit", "unseen": "unseen misfit"}[score]
        table = Table(heading, columns, remarks="")
        assert self.solved is not None
        has_misfit = is_measured(self.dataset.measurements()).tolist()
        for i, solve in enumerate(solve_rows(self.solved, self.names)):
            empty = score != "psnr" and not has_misfit[i]
            cells: dict[str, Cell] = {
                key: Missing(NOTHING_MEASURED) if empty else Value(scores[score][i])
                for key, scores in self.scores.items()
            }
            cells["residual"], cells["status"] = residual_in_words(solve), solve["status"]
            table.rows.append(Row(solve["name"], solve["name"], cells))
        return table

    def as_json(self) -> dict[str, Any]:
        """What results.json holds."""
        tree: dict[str, Any] = {
            "problem": self.problem,
            "methods": self.table.as_json(),
            "images": self.names,
            "conventions": self.conventions,
        }
        if self.fastmri is not None:
            tree["fastmri"] = {"convention": CONVENTION, "methods": self.fastmri.as_json()}
        if self.solved is not None:
            tree["solve"] = solve_rows(self.solved, self.names)
        if self.sure is not None:
            tree["reliability"] = self.sure.as_json()
        return tree
