"""What a section of a configuration may leave out where it has a kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..settings import named


def named_or(default: str) -> Callable[[Any], Any]:
    """For unions: a name is short for ``{kind: name}``, and options alone are those of ``default``.

    So that ``model.gradient.rtol=1e-3`` need not repeat the kind that the default is.
    """

    def complete(value: Any) -> Any:
        value = named(value)
        return {"kind": default, **value} if isinstance(value, dict) else value

    return complete
