"""f must stand still while z = f(z) is solved."""

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
def standing_still(again: bool = False) -> Iterator[None]:
    """Watches the modules that are called in its scope, and keeps the map they make from changing.

    Spectral norm in training mode takes a power iteration at *every* call, so the map would drift during a solve: each
    parametrization takes its one step when it is first met, and is in evaluation mode from there to the end of the scope.
    ``again``: the map is the one of an earlier scope, so nothing takes a step.

    Raises:
        RuntimeError: a module in training mode draws dropout masks or normalises over the batch.
    """
    met: set[int] = set()
    with ExitStack() as stack:

        def evaluation_mode(module: nn.Module) -> None:
            for part in module.modules():
                if part.training:
                    part.training = False
                    stack.callback(setattr, part, "training", True)

        def on_call(module: nn.Module, args: object) -> None:
            if id(module) in met:
                return
            met.add(id(module))
            if module.training and isinstance(module, _DropoutNd) and module.p > 0:
                raise RuntimeError(
                    f"{type(module).__name__}(p={module.p}) is in training mode: it draws another mask at every call, so "
                    "z = f(z) has no fixed point; call .eval() on it, set p=0, or draw one mask before the solve"
                )
            if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
                raise RuntimeError(
                    f"{type(module).__name__} normalises over the batch here: a sample's fixed point would depend on its "
                    "batchmates and the statistics would change at every step; call .eval() on it, or use GroupNorm"
                )
            if isinstance(module, _InstanceNorm) and module.training and module.track_running_stats:
                raise RuntimeError(
                    f"{type(module).__name__} updates its running statistics at every call, so f would change while it is "
                    "solved; call .eval() on it, or set track_running_stats=False"
                )
            if isinstance(module, parametrize.ParametrizationList) and any(part.training for part in module.modules()):
                if not again:
                    with torch.no_grad():
                        module.forward()
                evaluation_mode(module)
            for hook in module._forward_pre_hooks.values():
                if isinstance(hook, OldSpectralNorm) and module.training:
                    if not again:
                        with torch.no_grad():
                            hook.compute_weight(module, do_power_iteration=True)
                    module.training = False
                    stack.callback(setattr, module, "training", True)

        handle = register_module_forward_pre_hook(on_call)
        stack.callback(handle.remove)
        yield
