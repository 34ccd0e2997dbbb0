"""What of ``torch.func`` a solve can live in."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters

REMEDY = {
    "Grad": "the solution has a derivative of its own, so use loss.backward() or "
    "torch.autograd.grad",
    "Vmap": "a solve takes a whole batch, so let the first dimension of z0 be the one that is "
    "mapped over, and take Jacobians row by row (torch.autograd.functional.jacobian)",
    "Jvp": "forward mode cannot be nested in itself, so use torch.autograd.functional.jvp",
}


def _active() -> list[str]:
    return [interpreter.key().name for interpreter in retrieve_all_functorch_interpreters()]


def _refuse(name: str) -> None:
    raise RuntimeError(
        f"z = f(z) cannot be solved inside torch.func.{name.lower()}, or what is built on it: "
        f"{REMEDY[name]}"
    )


def refuse_transforms(refused: set[str], g: Tensor | None = None) -> None:
    """Refuses to run inside these transforms of ``torch.func``, by the names that torch gives them.

    ``g``: an incoming gradient, which may be a whole batch of them (``is_grads_batched``).

    Raises:
        RuntimeError: one of them is active.
    """
    for name in _active():
        if name in refused:
            _refuse(name)
    if g is not None and "Vmap" in refused and torch._C._functorch.is_legacy_batchedtensor(g):
        _refuse("Vmap")


def refuse_nested_forward_mode() -> None:
    """Refuses to run inside forward mode that is nested in itself.

    Raises:
        RuntimeError: it is.
    """
    if _active().count("Jvp") > 1:
        _refuse("Jvp")
