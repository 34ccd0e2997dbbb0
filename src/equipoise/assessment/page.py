"""Pages: one HTML file each that holds all it shows, and asks no network for anything."""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path
from typing import Any

import jinja2
import torch
from PIL import Image
from torch import Tensor

from ..data.item import Units
from ..machine import write_whole
from .metrics import magnitude, psnr, ssim
from .reading import Reading
from .table import Table

PAGE = jinja2.Environment(
    autoescape=True, loader=jinja2.PackageLoader("equipoise", "assessment")
).get_template("page.html")

#: Of all panels of all pictures: some 12 MB of page.
MOST_PIXELS = 6_000_000

#: What the viewer shows of one sample: its name, a panel for each method, and the truth.
Picture = dict[str, Any]


def page(
    path: Path,
    title: str,
    words: list[str],
    figures: list[tuple[bytes, str]],
    *,
    table: Table | None = None,
    table_title: str = "Scores",
    conventions: str = "",
    more_tables: list[tuple[str, Table]] | None = None,
    config: str = "",
    viewer: list[Picture] | None = None,
    reload: int = 0,
) -> None:
    """Writes a page.

    Args:
        path: the HTML file.
        title: of the page.
        words: its paragraphs.
        figures: PNG and description of each.
        table: which the reader can sort.
        table_title: above it.
        conventions: how the table's figures were computed.
        more_tables: further tables, with what stands above each.
        config: the configuration, as text.
        viewer: from :func:`pictures`.
        reload: seconds after which a browser reads the page anew; 0: never.
    """
    viewer = viewer or []
    text = PAGE.render(
        title=title,
        words=words,
        figures=[{"data": base64.b64encode(data).decode(), "alt": alt} for data, alt in figures],
        table_title=table_title,
        head=table.head() if table else [],
        rows=[_row(table, k) for k in range(len(table.rows))] if table else [],
        notes=[*table.reasons(), *table.notes()] if table else [],
        has_remarks=bool(table and table.remarks),
        conventions=conventions,
        more_tables=[_table(title, each) for title, each in more_tables or ()],
        config=config,
        pictures=viewer,
        chosen=_right_hand_panel(viewer),
        reload=reload,
    )
    write_whole(path, text)


def _table(title: str, table: Table) -> dict[str, Any]:
    notes = [*table.reasons(), *table.notes()]
    return {
        "title": title,
        "head": table.head(),
        "lines": table.lines(),
        "notes": notes,
        "has_remarks": bool(table.remarks),
    }


def _row(table: Table, k: int) -> dict[str, Any]:
    return {"cells": table.lines()[k], "failed": table.rows[k].failed}


def _right_hand_panel(viewer: list[Picture]) -> int:
    """The last method: the one that the page is about."""
    if not viewer:
        return 0
    images = [panel for panel in viewer[0]["panels"] if not panel.get("extra")]
    return max(0, len(images) - 1 - (viewer[0]["truth"] is not None))


def pictures(
    images: dict[str, Tensor],
    truth: Tensor | None,
    names: list[str],
    count: int = 8,
    readings: list[Reading] | None = None,
    units: list[Units] | None = None,
) -> list[Picture]:
    """What the page's viewer shows: each method's image of the first samples, with its scores.
    There are fewer pictures where they are large, so that a browser opens the page at once.

    Args:
        images: title → (N, C, …, H, W) of each method.
        truth: (N, C, …, H, W), where it is known.
        names: of the N samples.
        count: at most so many samples are shown.
        readings: of the samples: the uncertainty of the last method, with panels of its own.
        units: of the samples, in which values are read under the pointer; None: the model's.
    """
    pixels = sum(math.prod(x.shape[-2:]) for x in images.values())
    affordable = max(1, MOST_PIXELS // max(1, pixels))
    shown = min([count, affordable, *(len(x) for x in images.values())])
    made = [_picture(images, truth, i, names[i]) for i in range(shown)]
    for i, picture in enumerate(made):
        picture["units"] = _units(Units() if units is None else units[i])
    for picture, reading in zip(made, readings or (), strict=False):
        picture["panels"] += reading.panels()
        picture["reading"] = reading.as_json()
    return made


def reading_pictures(readings: list[Reading], names: list[str], count: int = 8) -> list[Picture]:
    """What the viewer shows of images in their own units: each beside its bounds."""
    return [
        {
            "name": name,
            "panels": [reading.image_panel("Reconstruction"), *reading.panels()],
            "truth": None,
            "reading": reading.as_json(),
        }
        for name, reading in zip(names[:count], readings, strict=False)
    ]


def _picture(images: dict[str, Tensor], truth: Tensor | None, i: int, name: str) -> Picture:
    panels = []
    for title, x in images.items():
        score = ""
        if truth is not None:
            decibels = float(psnr(x[i : i + 1], truth[i : i + 1]))
            similarity = float(ssim(x[i : i + 1], truth[i : i + 1]))
            score = f"{decibels:.2f} dB, SSIM {similarity:.3f}"
        panels.append({"name": title, "png": _coded(x[i]), "coded": True, "score": score})
    if truth is None:
        return {"name": name, "panels": panels, "truth": None}
    panels.append({"name": "Truth", "png": _coded(truth[i]), "coded": True, "score": ""})
    return {"name": name, "panels": panels, "truth": panels[-1]["png"]}


def _units(units: Units) -> dict[str, Any]:
    """How the viewer turns values of the model into those of the file, and with how many decimals:
    a thousandth of what counts as 1."""
    digits = max(0, 3 - math.floor(math.log10(abs(units.scale) or 1.0)))
    word = units.word
    return {"scale": units.scale, "offset": units.offset, "name": word, "digits": digits}


def _coded(x: Tensor) -> str:
    """An image (C, H, W), or the frame in the middle of (C, T, H, W), as a PNG in base64: 16 bits a
    value in red and green, from −0.5 to 1.5."""
    values = magnitude(x[None])[0, 0]
    if values.ndim == 3:
        values = values[len(values) // 2]
    number = ((values.double().nan_to_num(0).clamp(-0.5, 1.5) + 0.5) * 32767.5).round().int()
    bytes_ = torch.stack([number // 256, number % 256, torch.zeros_like(number)], -1)
    buffer = io.BytesIO()
    Image.fromarray(bytes_.to(torch.uint8).numpy()).save(buffer, format="png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
