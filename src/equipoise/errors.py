"""Errors that are the user's to mend: one paragraph, no traceback, exit code 2."""

from __future__ import annotations

import importlib
from typing import Any

#: The longest message, in characters: what is longer, nobody reads.
LONGEST_MESSAGE = 600


class UserError(Exception):
    """Something is wrong with a file, a value or a command.

    The message says what, where, and what to do. One that is longer than a paragraph loses its
    middle, since it begins with the place and ends with the remedy.
    """

    def __init__(self, message: str):
        super().__init__(shortened(message))


def shortened(text: str, most: int = LONGEST_MESSAGE) -> str:
    """The text on one line, without its middle where it has more than ``most`` characters."""
    line = " ".join(text.split())
    if len(line) <= most:
        return line
    end = most * 2 // 5
    return f"{line[: most - end - 3]} … {line[-end:]}"


class ArgumentError(UserError, ValueError):
    """An argument of a function is out of its bounds: for scripts, a ValueError as well."""


class TrainingGaveUp(UserError):
    """Too many steps in a row had to be skipped. That is an outcome of training, not a mistake."""


def need(module: str, extra: str) -> Any:
    """The module, which comes with ``pip install 'equipoise[extra]'``.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"this needs {module.split('.')[0]} ({error}); install it with: pip install "
            f"'equipoise[{extra}]'"
        ) from error
