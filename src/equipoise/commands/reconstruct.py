"""equipoise reconstruct: measurements in, images in the input's own kind of file out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..assessment import figures
from ..assessment.solves import residual_in_words
from ..comparison.bootstrap import Bootstrap, bootstrap, notes_of, rows_of, seconds_a_solve
from ..data.dataset import Dataset
from ..data.formats import new_folder, write_images
from ..data.formats.base import listed
from ..data.ranges import Places
from ..data.scan import native_images
from ..equilibrium import Equilibrium
from ..errors import UserError
from ..learning.processes import first_before_others, processes, together
from ..machine import json_text, whole_folder, write_whole
from ..run import Run, load_data
from .certainty import check_names, write_certainty
from .slices import PROGRESS, Step, WholeScan, account, lazily

if TYPE_CHECKING:
    from lightning_fabric import Fabric

#: Of more slices than these, what is said is how many are unfinished.
SAID_ONE_BY_ONE = 64
#: Slices in the picture.
SHOWN = 4


def reconstruct(
    run: Run,
    data: str | Path,
    out: str | Path,
    say: Callable[[str], None] = print,
    form: str = "npy",
    rows: Places | None = None,
    on_step: Callable[[Step], None] = lambda step: None,
    interrupted: Callable[[], bool] = lambda: False,
    *,
    asked: Bootstrap | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Equilibrium | None:
    """Reconstructs ``data`` into the new folder ``out``: what was an image file in its own format,
    what was a measurement as ``form`` says, a picture ``preview.png``, and ``report.json`` with
    residual, status and misfit of each.

    Measurements are read, solved and written some at a time, so that a scan of any size goes
    through flat memory; the same call goes on where an earlier one was interrupted.

    Args:
        form: of the images of measurements: "npy", one file each; "tiff" or "hdf5", one file.
        rows: of all measurements, those to reconstruct; see :data:`Places`.
        on_step: told how far it is.
        interrupted: asked between slices whether to stop.
        asked: also estimates how sure they are: deviation, bounds, what is measured and what is
            invented beside each image, ``uncertainty.png`` and ``report.html``; all at once.
        progress: of the samples.

    Returns the record of the equilibria of this call; ``value`` is empty where the images of a
    whole scan are more than 64 MiB. None, if it was interrupted, or nothing was left to do.

    Raises:
        UserError: the data cannot be read, or ``out`` is not empty.
    """
    fabric, out = processes(), Path(out)
    if fabric.global_rank:
        say = _silent
    if not (out / PROGRESS).is_file():
        new_folder(out)
    together(fabric, torch.zeros(1))  # nobody writes there before all have looked
    dataset = load_data(run.config, run.scan, Path(data), stream=True, whole=True)
    about = {"run": str(run.folder), "data": str(data)}
    if asked is None and dataset.streamed and dataset.items[0].holds == "measurement":
        dataset = run.with_notes(dataset)
        _say_notes(dataset, say)
        about["rows"] = str(rows)
        with first_before_others(fabric):
            is_first = not fabric.global_rank
            scan = WholeScan(run, lazily(dataset, rows), out, form, about, is_first)
        return _slice_by_slice(scan, fabric, say, on_step, interrupted)
    if form != "npy" or rows is not None:
        raise UserError(
            f"{data}: --as and --rows apply to sinograms and other arrays of measurements, without "
            "--samples; images and k-space are reconstructed all of them, and images are written "
            "as they came"
        )
    new_folder(out)
    if dataset.streamed:
        dataset = load_data(run.config, run.scan, Path(data), whole=True)
    dataset = run.with_notes(dataset)
    _say_notes(dataset, say)
    return _at_once(run, dataset, out, about, fabric, say, asked, progress)


def _slice_by_slice(
    scan: WholeScan,
    fabric: Fabric,
    say: Callable[[str], None],
    on_step: Callable[[Step], None],
    interrupted: Callable[[], bool],
) -> Equilibrium | None:
    if scan.done:
        say(f"{scan.folder}: going on after slice {scan.done} of {len(scan.dataset)}")
    solved = scan.reconstruct(fabric, on_step, interrupted)
    together(fabric, torch.zeros(1))  # nobody is still reading what is removed now
    if scan.done == len(scan.dataset) and not fabric.global_rank:
        _finish(scan, say)
    together(fabric, torch.zeros(1))  # all wait for the first
    return solved


def _finish(scan: WholeScan, say: Callable[[str], None]) -> None:
    """Picture and report of a scan whose slices are all written."""
    part, images = scan.examples(SHOWN)
    _save_picture(part, images, scan.folder)
    about: dict[str, Any] = {"run": scan.about["run"], "data": scan.about["data"]}
    about |= {"measured": "DATA", "data_notes": scan.dataset.notes}
    _save_report(scan.rows(), about, scan.folder, say)
    scan.finish()
    _say_what_was_written(len(scan.output.files), scan.dataset, scan.folder, say)


def _at_once(
    run: Run,
    dataset: Dataset,
    out: Path,
    about: dict[str, str],
    fabric: Fabric,
    say: Callable[[str], None],
    asked: Bootstrap | None,
    progress: Callable[[int, int], None] | None,
) -> Equilibrium:
    if asked is not None:
        check_names(dataset.items)
    # One by one, an image is the same to the bit in whichever process, and so are its samples.
    solved = run.solve(dataset, batch=16 if asked is None else 1, fabric=fabric)
    sure = None
    if asked is not None:
        if not fabric.global_rank:
            say(asked.cost_in_words(len(dataset), seconds_a_solve(run, dataset)))
        sure = bootstrap(run, dataset, solved.value, asked, progress=progress, fabric=fabric)
    if fabric.global_rank:
        return solved
    images = native_images(solved.value, dataset.items, dataset.scan.physics)
    rows = account(dataset, solved)
    told: dict[str, Any] = {**about, "measured": _what_was_measured(dataset)}
    told["data_notes"] = dataset.notes
    if asked is not None and sure is not None:
        rows = [row | more for row, more in zip(rows, rows_of(sure), strict=True)]
        told |= {"notes": notes_of(sure, dataset.names), "factor": asked.factor}
    with whole_folder(out) as folder:
        paths = write_images(dataset.items, images, folder)
        _save_picture(dataset, solved.value, folder)
        if asked is not None and sure is not None:
            paths += write_certainty(run, dataset, solved.value, sure, folder, say, asked.factor)
        _save_report(rows, told, folder, say)
    _say_what_was_written(len(paths), dataset, out, say)
    return solved


def _silent(_: str) -> None:
    pass


def _say_notes(dataset: Dataset, say: Callable[[str], None]) -> None:
    for note in dataset.notes:
        say(f"note: {note}")


def _save_picture(dataset: Dataset, images: Tensor, out: Path) -> None:
    y = dataset.measurements()
    picture = figures.grid(
        y,
        {"equipoise": images},
        dataset.truth,
        dataset.names,
        units=dataset.items[0].units.words,
    )
    figures.save_png(picture, out / "preview.png")


def _save_report(
    rows: list[dict[str, Any]], about: dict[str, Any], out: Path, say: Callable[[str], None]
) -> None:
    worse = [row["name"] for row in rows if row["misfit"] is not None and row["misfit"] >= 1]
    if worse:
        about = {**about, "explained_by_nothing": worse}
        say(
            f"warning: {len(worse)} of {len(rows)} images explain what was measured no better than "
            f"an empty image does (misfit 1 or more): {listed(worse)}. Operator, units "
            "(data.peak) or order of the data are others than in training: equipoise doctor tells"
        )
    write_whole(out / "report.json", json_text({**about, "images": rows}, indent=1))
    if len(rows) > SAID_ONE_BY_ONE:
        late = [row["name"] for row in rows if row["status"] != "CONVERGED"]
        known = [row["misfit"] for row in rows if row["misfit"] is not None]
        mean = sum(known) / max(len(known), 1)
        first = f", the first {late[0]}" if late else ""
        say(f"{len(rows)} slices: {len(late)} unfinished{first}; misfit {mean:.1e} on average")
        return
    for row in rows:
        say(
            f"{row['name']}: residual {residual_in_words(row)} after {row['steps']} evaluations, "
            f"{row['status']}, {_misfit_in_words(row)}{_predicted(row)}"
        )


def _misfit_in_words(row: dict[str, Any]) -> str:
    known = row["misfit"]
    return "no misfit: nothing was measured" if known is None else f"misfit {known:.1e}"


def _predicted(row: dict[str, Any]) -> str:
    if "predicted_psnr" not in row:
        return ""
    return f", predicted error {row['predicted_psnr']:.1f} dB (PSNR)"


def _say_what_was_written(
    count: int, dataset: Dataset, out: Path, say: Callable[[str], None]
) -> None:
    is_complex = dataset.scan.image_shape[0] == 2
    magnitudes = "; images are the magnitudes of the complex ones" if is_complex else ""
    say(f"wrote {count} file(s), preview.png and report.json to {out}{magnitudes}")


def _what_was_measured(dataset: Dataset) -> str:
    if dataset.items[0].holds != "image":
        return "DATA"
    return "the images in DATA were measured with the run's operator and noise first"
