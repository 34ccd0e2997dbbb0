"""How sure is a reconstruction? The equivariant bootstrap, and whether it tells the truth."""

from .bootstrap import uncertainty
from .parts import Parts, measured_and_invented
from .record import Uncertainty, UncertaintyWarning, unfinished_in_words

__all__ = [
    "Parts",
    "Uncertainty",
    "UncertaintyWarning",
    "measured_and_invented",
    "uncertainty",
    "unfinished_in_words",
]
