"""What all figures are drawn on."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["Axes", "Figure", "panel_grid", "plt", "save_png"]


def panel_grid(
    rows: int, titles: Sequence[str], size: tuple[float, float], font: float
) -> tuple[Figure, np.ndarray]:
    """A figure of ``size`` inches, and its axes (rows, titles): for images, with a title above each
    column."""
    figure, axes = plt.subplots(
        rows, len(titles), figsize=size, squeeze=False, layout="constrained"
    )
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, fontsize=font)
    return figure, axes


def save_png(figure: Figure, path: Path) -> bytes:
    """Writes the figure, and returns what was written."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    plt.close(figure)
    path.write_bytes(buffer.getvalue())
    return buffer.getvalue()
