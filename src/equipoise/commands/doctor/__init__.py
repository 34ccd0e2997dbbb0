"""equipoise doctor: before hours of training, can this set-up work? Every finding says what to do
about it."""

from .examine import commuting, examine
from .finding import Finding, Verdict

__all__ = ["Finding", "Verdict", "commuting", "examine"]
