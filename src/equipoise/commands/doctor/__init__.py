"""equipoise doctor: before hours of training, can this set-up work? Every finding says what to do
about it."""

from .examine import _range, commuting, examine
from .finding import Finding, Verdict

__all__ = ["Finding", "Verdict", "_range", "commuting", "examine"]
