"""Raw counts of photons, and the line integrals that they stand for."""

from .corrected import Corrected, check_line_integrals, corrected, refuse_options
from .correction import BadCounts, LineIntegrals, line_integrals
from .losses import Losses, Tally

__all__ = [
    "BadCounts",
    "Corrected",
    "LineIntegrals",
    "Losses",
    "Tally",
    "check_line_integrals",
    "corrected",
    "line_integrals",
    "refuse_options",
]
