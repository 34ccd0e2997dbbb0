"""What all figures are drawn on."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["Axes", "Figure", "plt", "save_png"]


def save_png(figure: Figure, path: Path) -> bytes:
    """Writes the figure, and returns what was written."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    plt.close(figure)
    path.write_bytes(buffer.getvalue())
    return buffer.getvalue()
