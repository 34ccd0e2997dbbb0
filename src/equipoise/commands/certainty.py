"""What `equipoise reconstruct --samples` writes about its images: deviation and bounds in the
format and the units of the input, pictures, and a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..assessment import figures
from ..assessment.page import page, reading_pictures
from ..assessment.uncertainty import Uncertainty
from ..assessment.words import command_line
from ..comparison.bootstrap import in_native_units, notes_of, readings_of
from ..data.dataset import Dataset
from ..data.formats import write_beside
from ..data.item import Item
from ..errors import UserError
from ..run import Run

#: What is written beside an image: the word that is added to its name, what it is, and whether it
#: is a difference of images.
BESIDE = {
    "std": ("standard deviation", True),
    "lower": ("lower {bound}", False),
    "upper": ("upper {bound}", False),
    "measured": ("what the data determine", False),
    "invented": ("what the prior adds", True),
}


def check_names(items: Sequence[Item]) -> None:
    """
    Raises:
        UserError: an image has the name that belongs to what is written beside another.
    """
    stems = {item.name.split(".")[0]: item.name for item in items}
    for stem, name in stems.items():
        for word in BESIDE:
            if f"{stem}_{word}" in stems:
                raise UserError(
                    f"{stems[f'{stem}_{word}']}: that is what the file beside {name} would be "
                    "called (--samples); rename one of them"
                )


def write_certainty(
    run: Run,
    dataset: Dataset,
    x: Tensor,
    u: Uncertainty,
    out: Path,
    say: Callable[[str], None],
    factor: float = 1.0,
) -> list[Path]:
    """Files beside the images that are in ``out``: NAME_std, NAME_lower and NAME_upper, and
    NAME_measured and NAME_invented, whose sum is NAME; ``uncertainty.png`` and ``report.html``.

    Args:
        x: (N, C, …, H, W) the reconstructions, in the units of the model.
        factor: that deviations and bounds were multiplied by.
    """
    items = dataset.items
    shown = in_native_units(u, x, items, dataset.scan.physics)
    percent = f"{u.level:.0%} bound"
    paths = []
    for word, (what, is_difference) in BESIDE.items():
        images, meaning = getattr(shown, word), what.format(bound=percent)
        if images is not None:
            written = write_beside(items, images, out, word, meaning, is_difference)
            paths += written
            say(f"{meaning}: {written[0].name}{' …' if len(written) > 1 else ''}")
    panels = {
        "reconstruction": shown.value,
        f"lower {percent}": shown.lower,
        f"upper {percent}": shown.upper,
    }
    signed = {}
    if shown.measured is not None and shown.invented is not None:
        panels["measured"] = shown.measured
        signed["invented"] = shown.invented
    unit = items[0].units.word
    # Images of different sizes do not fit beside each other: then the first is drawn.
    count = len(items) if isinstance(shown.value, np.ndarray) else 1

    def stacks(kind: dict[str, Any]) -> dict[str, np.ndarray]:
        return {name: np.stack(images[:count]) for name, images in kind.items()}

    picture = figures.certainty(
        stacks(panels), stacks({"± std": shown.std}), stacks(signed), dataset.names[:count], unit
    )
    drawn = figures.save_png(picture, out / "uncertainty.png")
    notes = notes_of(u, dataset.names)
    for note in notes:
        say(f"caution: {note}")
    page(
        out / "report.html",
        f"{run.config.name}: how sure?",
        [*_words(u, len(items), factor), *(f"Caution: {note}." for note in notes)],
        [(drawn, "Reconstruction, bounds, deviation, and what the data and the prior supply")],
        viewer=reading_pictures(readings_of(u, shown, items), dataset.names),
    )
    return paths


def _words(u: Uncertainty, count: int, factor: float) -> list[str]:
    best, worst = float(u.psnr.max()), float(u.psnr.min())
    predicted = f"{worst:.1f} dB" if count == 1 else f"{worst:.1f} to {best:.1f} dB"
    return [
        f"Predicted error: {predicted} PSNR, estimated from the measurements alone: each image was "
        f"moved, measured with fresh noise, reconstructed and moved back {len(u.sample_rmse)} "
        "times (the equivariant bootstrap); the spread about the image stands for its error.",
        f"Bounds hold {u.level:.0%} of that spread, pixel by pixel. They are estimates, and too "
        "narrow where the reconstruction is wrong in the same way every time."
        + (f" Here they are {factor:g} times as wide, as --factor says." if factor != 1 else ""),
        f"Command: {command_line()}",
    ]
