"""Pages: one HTML file each that holds all it shows, and asks no network for anything."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
import torch
from PIL import Image
from torch import Tensor

from .metrics import magnitude, psnr, ssim
from .reading import Reading
from .table import Table

PAGE = jinja2.Environment(
    autoescape=True, loader=jinja2.PackageLoader("equipoise", "assessment")
).get_template("page.html")

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
    path.write_text(text, encoding="utf-8")


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
) -> list[Picture]:
    """What the page's viewer shows: each method's image of the first samples, with its scores.

    Args:
        images: title → (N, C, …, H, W) of each method.
        truth: (N, C, …, H, W), where it is known.
        names: of the N samples.
        count: at most so many samples are shown.
        readings: of the samples: the uncertainty of the last method, with panels of its own.
    """
    shown = min([count, *(len(x) for x in images.values())])
    made = [_picture(images, truth, i, names[i]) for i in range(shown)]
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
        panels.append({"name": title, "png": _png(x[i]), "score": score})
    if truth is None:
        return {"name": name, "panels": panels, "truth": None}
    panels.append({"name": "Truth", "png": _png(truth[i]), "score": ""})
    return {"name": name, "panels": panels, "truth": panels[-1]["png"]}


def _png(x: Tensor) -> str:
    """An image (C, H, W), or the frame in the middle of (C, T, H, W): 8 bits of [0, 1], in
    base64."""
    values = magnitude(x[None])[0, 0]
    if values.ndim == 3:
        values = values[len(values) // 2]
    gray = (values.nan_to_num(0).clamp(0, 1) * 255).round().to(torch.uint8)
    buffer = io.BytesIO()
    Image.fromarray(gray.numpy()).save(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()
