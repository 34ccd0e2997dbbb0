"""Figures: what a run did, seen at a glance."""

from .canvas import save_png
from .certainty import certainty, reliability
from .comparison import Cost, boxes, cost, elsewhere
from .diagnosis import gaps, residuals
from .images import grid
from .training import curves

__all__ = [
    "Cost",
    "boxes",
    "certainty",
    "cost",
    "curves",
    "elsewhere",
    "gaps",
    "grid",
    "reliability",
    "residuals",
    "save_png",
]
