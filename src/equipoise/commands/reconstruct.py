"""equipoise reconstruct: measurements in, images in the input's own kind of file out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..assessment import figures
from ..assessment.metrics import misfit
from ..assessment.solves import residual_in_words, solve_rows
from ..comparison.bootstrap import Bootstrap, bootstrap, notes_of, rows_of, seconds_a_solve
from ..data.dataset import Dataset
from ..data.formats import new_folder, write_images
from ..data.scan import native_images
from ..equilibrium import Equilibrium
from ..learning.processes import processes
from ..run import Run, load_data
from .certainty import write_certainty

Progress = Callable[[int, int], None]


def reconstruct(
    run: Run,
    data: str | Path,
    out: str | Path,
    say: Callable[[str], None] = print,
    asked: Bootstrap | None = None,
    progress: Progress | None = None,
) -> Equilibrium:
    """Reconstructs ``data`` into the new folder ``out``: what was an image file in its own format,
    what was a measurement as ``.npy``, a picture ``preview.png``, and ``report.json`` with
    residual, status and misfit of each.

    Args:
        asked: also estimates how sure they are: deviation, bounds, what is measured and what is
            invented beside each image, ``uncertainty.png`` and ``report.html``.
        progress: of the samples.

    Raises:
        UserError: the data cannot be read, ``out`` is not empty, or the group does not fit.
    """
    fabric, out = processes(), new_folder(out)
    dataset = load_data(run.config, run.scan, Path(data))
    # One by one, an image is the same to the bit in whichever process, and so are its samples.
    solved = run.solve(dataset, batch=16 if asked is None else 1, fabric=fabric)
    sure = None
    if asked is not None:
        if not fabric.global_rank:
            say(asked.cost_in_words(len(dataset), seconds_a_solve(run, dataset)))
        sure = bootstrap(run, dataset, solved.value, asked, progress=progress, fabric=fabric)
    if fabric.global_rank:
        return solved
    images = native_images(solved.value, dataset.items)
    paths = write_images(dataset.items, images, out)
    y = dataset.measurements()
    picture = figures.grid(y, {"equipoise": solved.value}, dataset.truth, dataset.names)
    figures.save_png(picture, out / "preview.png")
    rows = _rows(dataset, solved)
    about: dict[str, Any] = {
        "run": str(run.folder),
        "data": str(data),
        "measured": _what_was_measured(dataset),
    }
    if asked is not None and sure is not None:
        rows = [row | more for row, more in zip(rows, rows_of(sure), strict=True)]
        about |= {"notes": notes_of(sure, dataset.names), "factor": asked.factor}
        paths += write_certainty(run, dataset, solved.value, sure, out, say, asked.factor)
    (out / "report.json").write_text(json.dumps({**about, "images": rows}, indent=1))
    for row in rows:
        say(_in_words(row))
    say(f"wrote {len(paths)} file(s), preview.png and report.json to {out}")
    return solved


def _in_words(row: dict[str, Any]) -> str:
    words = (
        f"{row['name']}: residual {residual_in_words(row)} after {row['steps']} evaluations, "
        f"{row['status']}, misfit {row['misfit']:.1e}"
    )
    if "predicted_psnr" in row:
        words += f", predicted error {row['predicted_psnr']:.1f} dB (PSNR)"
    return words


def _rows(dataset: Dataset, solved: Equilibrium) -> list[dict[str, Any]]:
    rows = solve_rows(solved, dataset.names)
    misfits = misfit(solved.value, dataset.measurements(), dataset.scan.physics)
    for row, value in zip(rows, misfits.tolist(), strict=True):
        row["misfit"] = value
    return rows


def _what_was_measured(dataset: Dataset) -> str:
    if dataset.truth is None:
        return "DATA"
    return "the images in DATA were measured with the run's operator and noise first"
