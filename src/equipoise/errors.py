"""Errors that are the user's to mend: one paragraph, no traceback, exit code 2."""

from __future__ import annotations

import importlib
from typing import Any


class UserError(Exception):
    """Something is wrong with a file, a value or a command.

    The message says what, where, and what to do.
    """


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
