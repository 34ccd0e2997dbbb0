"""One application of f with its graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .closed_over import ClosedOver, Recorder, closed_over
from .residual import Residual, measure


@dataclass
class Application:
    """One application out = f(z) with its graph, of the samples whose solve stayed finite.

    It belongs to the autograd node and dies with it.
    """

    f: Callable[[Tensor], Tensor]  #: (A, N) → (A, N)
    z: Tensor  #: (A, N) the leaf that f was applied to
    out: Tensor  #: (A, N)
    closed: ClosedOver

    @property
    def residual(self) -> Residual:
        """Of this evaluation."""
        with torch.no_grad():
            return measure(self.z, self.out)


def apply(f: Callable[[Tensor], Tensor], value: Tensor) -> Application | None:
    """One application of f with its graph; None if there is nothing to differentiate."""
    z = value.detach().clone().requires_grad_()
    recorder = Recorder()
    try:
        with recorder, torch.autograd.graph.saved_tensors_hooks(_keep, _unchanged):
            out = f(z)
    except RuntimeError:
        # Perhaps f calls torch.func, which refuses to work below such hooks. Any other error will
        # come again.
        with recorder:
            out = f(z)
    if out.grad_fn is None:
        return None
    closed = closed_over(out, z, recorder)
    if closed.complete and not closed.tensors:
        return None
    return Application(f, z, out, closed)


def _keep(tensor: Tensor) -> tuple[Tensor, int]:
    """Inside torch.utils.checkpoint, saved tensors would be thrown away and the whole solve
    repeated for each adjoint step; one application of f is all there is to save, so it is kept."""
    return tensor, tensor._version


def _unchanged(saved: tuple[Tensor, int]) -> Tensor:
    """What was kept. Hooks switch autograd's own check of the version off."""
    tensor, version = saved
    if tensor._version != version:
        raise RuntimeError(
            "one of the variables needed for gradient computation has been modified by an inplace "
            f"operation: a tensor of shape {tuple(tensor.shape)} that f(z) was computed from is at "
            f"version {tensor._version}; expected version {version} instead. Use the function that "
            "is not in place"
        )
    return tensor
