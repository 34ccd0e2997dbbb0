"""In which precision f and its derivative are computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The precision of the active ``torch.autocast``; None if there is none."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return None


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """``torch.autocast`` is for f; the arithmetic of a solver needs the precision of the state."""
    if autocast_dtype(device) is None:
        yield
    else:
        with torch.autocast(device.type, enabled=False):
            yield


@contextmanager
def exact_products() -> Iterator[None]:
    """Convolutions and matrix products of float32 are those of float32.

    On NVIDIA's cards torch rounds what enters a convolution to ten bits ("TF32") unless it is told
    otherwise. f is then a staircase: no solve of the shipped network gets below a residual of about
    1e-4 (``results/gpu.md``). What belongs to the caller is rounded as the caller likes.
    """
    undo = [_exact_convolutions(), _exact_matrix_products()]
    try:
        yield
    finally:
        for step in undo:
            step()


def _exact_convolutions() -> Callable[[], None]:
    """Answers with what undoes it."""
    try:
        return _changed(torch.backends.cudnn, "allow_tf32", False)
    except RuntimeError:  # the caller has set it by the names of torch 2.9, and not for all kinds
        conv: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
        return _changed(conv, "fp32_precision", "ieee")


def _exact_matrix_products() -> Callable[[], None]:
    """Answers with what undoes it."""
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # likewise
        return _changed(torch.backends.cuda.matmul, "fp32_precision", "ieee")
    torch.set_float32_matmul_precision("highest")
    return partial(torch.set_float32_matmul_precision, before)


def _changed(owner: Any, name: str, value: Any) -> Callable[[], None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    return partial(setattr, owner, name, before)
