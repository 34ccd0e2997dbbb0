"""How sure is a reconstruction? The equivariant bootstrap, and whether it tells the truth."""

from .bootstrap import uncertainty
from .calibration import Calibration, calibrated_on_measurements, calibrated_on_truths
from .parts import Parts, along, measured_and_invented, prior_in_words
from .record import Uncertainty, UncertaintyWarning, unfinished_in_words
from .reliability import Reliability, rank_correlation, reliability

__all__ = [
    "Calibration",
    "Parts",
    "Reliability",
    "Uncertainty",
    "UncertaintyWarning",
    "along",
    "calibrated_on_measurements",
    "calibrated_on_truths",
    "measured_and_invented",
    "prior_in_words",
    "rank_correlation",
    "reliability",
    "uncertainty",
    "unfinished_in_words",
]
