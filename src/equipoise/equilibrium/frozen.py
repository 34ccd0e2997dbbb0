"""f must not change while z = f(z) is solved: the modules that it calls are watched and kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm as OldSpectralNorm


@contextmanager
def frozen_modules(take_step: bool = True) -> Iterator[None]:
    """Watches the modules that are called in its scope, and keeps the map they make from changing.

    Spectral norm in training mode takes a power iteration at *every* call, so the map would drift
    during a solve: each parametrization takes its one step when it is first met, and is in
    evaluation mode from there to the end of the scope.

    Args:
        take_step: False if the map is that of an earlier scope, so that nothing takes a step.

    Raises:
        RuntimeError: a module in training mode draws dropout masks or normalises over the batch.
    """
    known: set[int] = set()
    with ExitStack() as stack:

        def on_call(module: nn.Module, args: object) -> None:
            if id(module) in known:
                return
            _refuse_what_changes(module)  # each time, should whoever calls it try again
            known.add(id(module))
            _freeze_parametrization(module, take_step, stack)
            _freeze_old_spectral_norm(module, take_step, stack)

        handle = register_module_forward_pre_hook(on_call)
        stack.callback(handle.remove)
        yield


def _refuse_what_changes(module: nn.Module) -> None:
    name = type(module).__name__
    if isinstance(module, _DropoutNd) and module.training and module.p > 0:
        raise RuntimeError(
            f"{name}(p={module.p}) is in training mode: it draws another mask at every call, so "
            "z = f(z) has no fixed point; call .eval() on it, set p=0, or draw one mask before "
            "the solve"
        )
    if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
        raise RuntimeError(
            f"{name} normalises over the batch here: a sample's fixed point would depend on its "
            "batchmates and the statistics would change at every step; call .eval() on it, or use "
            "GroupNorm"
        )
    if isinstance(module, _InstanceNorm) and module.training and module.track_running_stats:
        raise RuntimeError(
            f"{name} updates its running statistics at every call, so f would change while it is "
            "solved; call .eval() on it, or set track_running_stats=False"
        )


def _evaluation_mode(module: nn.Module, stack: ExitStack) -> None:
    """In evaluation mode until the stack is unwound; the modules in it are left alone."""
    if module.training:
        module.training = False
        stack.callback(setattr, module, "training", True)


def _freeze_parametrization(module: nn.Module, take_step: bool, stack: ExitStack) -> None:
    if not isinstance(module, parametrize.ParametrizationList):
        return
    if not any(part.training for part in module.modules()):
        return
    if take_step:
        with torch.no_grad():
            module.forward()
    for part in module.modules():
        _evaluation_mode(part, stack)


def _freeze_old_spectral_norm(module: nn.Module, take_step: bool, stack: ExitStack) -> None:
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, OldSpectralNorm) and module.training:
            if take_step:
                with torch.no_grad():
                    hook.compute_weight(module, do_power_iteration=True)
            _evaluation_mode(module, stack)
