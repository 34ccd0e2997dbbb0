"""Until the branch of the operators is merged: then ``imaging.operators`` offers all of this.

At the merge this file goes, and ``steps.base`` and ``steps.proximal`` import from there.
"""

from __future__ import annotations

from typing import Any

import deepinv.physics
from deepinv.physics import LinearPhysics
from torch import Tensor

from ...imaging import operators

__all__ = ["proximal", "select", "selectable"]


def _proximal(physics: Any, d: Tensor, y: Any, strength: Tensor, tol: float = 1e-6) -> Tensor:
    own = getattr(type(physics), "prox_l2", LinearPhysics.prox_l2)
    if own is LinearPhysics.prox_l2:
        from ...imaging.linear import proximal_l2

        return proximal_l2(physics.A, physics.A_adjoint, d, y, strength, tol)
    x: Tensor = physics.prox_l2(d, y, gamma=1 / strength, tol=tol)
    return x


def _select(physics: Any, index: Tensor, count: int, y: Any = None) -> Any:
    return operators.select(physics, index, count)


def _selectable(physics: Any, count: int, y: Any = None) -> bool:
    """Of parameters that look like one for each sample, only those of MRI can be restricted."""
    known = (deepinv.physics.MRI, deepinv.physics.MultiCoilMRI)
    if count == 1 or isinstance(physics, known):
        return True
    for module in physics.modules():
        named = {**module._buffers, **module._parameters, **vars(module)}
        for value in named.values():
            if isinstance(value, Tensor) and value.ndim > 0 and len(value) == count:
                return False
    return True


proximal = getattr(operators, "proximal", _proximal)
select: Any = operators.select if hasattr(operators, "selectable") else _select
selectable = getattr(operators, "selectable", _selectable)
