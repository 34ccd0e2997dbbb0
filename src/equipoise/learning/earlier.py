"""The section ``objective`` as release 0.1 had it: the options of all losses side by side."""

from __future__ import annotations

from typing import Any

from .settings import weight_alone

#: An option of release 0.1, and the losses that it belongs to now, under the same name.
MOVED = {
    "floor": ("consistency", "splitting"),
    "parts": ("splitting",),
    "group": ("equivariance",),
    "draws": ("equivariance",),
    "renoise": ("equivariance", "operators"),
    "stop_gradient": ("equivariance",),
    "bound": ("contraction",),
}


def objective_section_of_release_0_1(tree: dict[str, Any]) -> dict[str, Any]:
    """The section as :class:`ObjectiveSettings` has it.

    Old and new keys may stand together; where both say the same thing, the new one holds. ``tree``
    is not changed.
    """
    new = dict(tree)
    for key, losses in MOVED.items():
        if key not in new:
            continue
        value = new.pop(key)
        for loss in losses:
            section = weight_alone(new.get(loss, {}))
            if isinstance(section, dict):
                new[loss] = {key: value, **section}
    return new
