"""What the doctor says: a finding, and what would mend it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

Verdict = Literal["ok", "note", "wrong"]


class Finding(NamedTuple):
    verdict: Verdict
    what: str
    remedy: str = ""
    #: What the configuration should say instead, by dotted key; None takes a key out.
    changes: Mapping[str, Any] = {}


def judged(
    is_fine: bool,
    what: str,
    remedy: str,
    otherwise: Verdict = "wrong",
    changes: Mapping[str, Any] | None = None,
) -> Finding:
    """The finding that all is well, or the other one."""
    return Finding("ok", what) if is_fine else Finding(otherwise, what, remedy, changes or {})
