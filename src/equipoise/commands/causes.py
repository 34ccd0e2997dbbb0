"""Where the causes of a bad fit are found; they live beside the doctor."""

from __future__ import annotations

from .doctor.causes import Cause, cause_of, likely_cause

__all__ = ["Cause", "cause_of", "likely_cause"]
