"""Raw counts of photons, and the line integrals that they stand for."""

from .correction import BadCounts, LineIntegrals, line_integrals
from .losses import Losses, Tally
from .sinograms import Sinograms, check_line_integrals, refuse_options, sinograms

__all__ = [
    "BadCounts",
    "LineIntegrals",
    "Losses",
    "Sinograms",
    "Tally",
    "check_line_integrals",
    "line_integrals",
    "refuse_options",
    "sinograms",
]
