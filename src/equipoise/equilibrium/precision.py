"""In which precision f and its derivative are computed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
    1e-4 (``results/gpu.md``). What belongs to the caller is rounded as the caller likes, and so is
    the last product of a gradient, which leads from the equilibrium to the parameters: it is of the
    caller's backward pass (our ``Trainer`` has all of it exact).

    torch's settings are those of the process: they come back when the last of several threads has
    ended.
    """
    with _lock:
        if not _inside:
            _undo.extend(_make_exact())
        _inside.append(None)
    try:
        yield
    finally:
        with _lock:
            _inside.pop()
            while not _inside and _undo:
                _undo.pop()()


Undo = Callable[[], None]

_lock = threading.Lock()
_inside: list[None] = []  #: one for each that is inside
_undo: list[Undo] = []  #: the last is undone first

#: What torch ≥ 2.9 has a setting ``fp32_precision`` for, in ``torch.backends``, and whose it takes
#: when it has none.
SETTINGS = {
    "cudnn.conv": "cudnn",
    "cudnn.rnn": "cudnn",
    "cuda.matmul": "",
    "mkldnn.conv": "mkldnn",
    "mkldnn.matmul": "mkldnn",
}
ROUNDED = ("tf32", "bf16")


def _make_exact() -> Iterator[Undo]:
    """Step by step; yields what undoes each."""
    yield from _by_the_former_names()
    for name, parent in SETTINGS.items():
        owner = _backend(name)
        precision = getattr(owner, "fp32_precision", None)
        if precision in ROUNDED:
            inherited = getattr(_backend(parent), "fp32_precision", None) == precision
            owner.fp32_precision = "ieee"
            yield partial(setattr, owner, "fp32_precision", "none" if inherited else precision)


def _by_the_former_names() -> Iterator[Undo]:
    """These first: code inside f that reads them is refused by torch once the others were used."""
    with suppress(RuntimeError):  # the caller has used the others for convolutions
        if torch.backends.cudnn.allow_tf32:
            torch.backends.cudnn.allow_tf32 = False
            yield partial(setattr, torch.backends.cudnn, "allow_tf32", True)
    with suppress(RuntimeError):  # or for matrix products
        precision = torch.get_float32_matmul_precision()
        if precision != "highest":
            torch.set_float32_matmul_precision("highest")
            yield partial(torch.set_float32_matmul_precision, precision)


def _backend(name: str) -> Any:
    """``torch.backends`` or a part of it; None where this torch has no such part."""
    owner: Any = torch.backends
    for part in name.split(".") if name else ():
        owner = getattr(owner, part, None)
    return owner
