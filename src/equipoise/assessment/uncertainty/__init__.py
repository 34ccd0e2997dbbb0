"""How sure is a reconstruction? The equivariant bootstrap, and whether it tells the truth."""

from .bootstrap import uncertainty
from .parts import Parts, along, measured_and_invented, prior_in_words
from .record import Uncertainty, UncertaintyWarning, unfinished_in_words

__all__ = [
    "Parts",
    "Uncertainty",
    "UncertaintyWarning",
    "along",
    "measured_and_invented",
    "prior_in_words",
    "uncertainty",
    "unfinished_in_words",
]
