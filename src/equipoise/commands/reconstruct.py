"""equipoise reconstruct: measurements in, images in the input's own kind of file out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..assessment import figures
from ..assessment.metrics import misfit
from ..assessment.solves import residual_in_words, solve_rows
from ..data.dataset import Dataset
from ..data.formats import new_folder, write_images
from ..data.scan import native_images
from ..equilibrium import Equilibrium
from ..learning.processes import processes
from ..run import Run, load_data


def reconstruct(
    run: Run, data: str | Path, out: str | Path, say: Callable[[str], None] = print
) -> Equilibrium:
    """Reconstructs ``data`` into the new folder ``out``: what was an image file in its own format,
    what was a measurement as ``.npy``, a picture ``preview.png``, and ``report.json`` with
    residual, status and misfit of each.

    Raises:
        UserError: the data cannot be read, or ``out`` is not empty.
    """
    fabric, out = processes(), new_folder(out)
    dataset = load_data(run.config, run.scan, Path(data))
    solved = run.solve(dataset, fabric=fabric)
    if fabric.global_rank:
        return solved
    images = native_images(solved.value, dataset.items)
    paths = write_images(dataset.items, images, out)
    y = dataset.measurements()
    picture = figures.grid(
        y,
        {"equipoise": solved.value},
        dataset.truth,
        dataset.names,
        units=dataset.items[0].units.words,
    )
    figures.save_png(picture, out / "preview.png")
    rows = _rows(dataset, solved)
    about = {"run": str(run.folder), "data": str(data), "measured": _what_was_measured(dataset)}
    (out / "report.json").write_text(json.dumps({**about, "images": rows}, indent=1))
    for row in rows:
        say(
            f"{row['name']}: residual {residual_in_words(row)} after {row['steps']} evaluations, "
            f"{row['status']}, misfit {row['misfit']:.1e}"
        )
    say(f"wrote {len(paths)} file(s), preview.png and report.json to {out}")
    return solved


def _rows(dataset: Dataset, solved: Equilibrium) -> list[dict[str, Any]]:
    rows = solve_rows(solved, dataset.names)
    misfits = misfit(solved.value, dataset.measurements(), dataset.scan.physics)
    for row, value, item in zip(rows, misfits.tolist(), dataset.items, strict=True):
        row["misfit"] = value
        if item.units.name:
            row["unit"] = item.units.name
    return rows


def _what_was_measured(dataset: Dataset) -> str:
    if dataset.truth is None:
        return "DATA"
    return "the images in DATA were measured with the run's operator and noise first"
