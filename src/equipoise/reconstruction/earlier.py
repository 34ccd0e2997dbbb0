"""Models as release 0.1 described them: all options side by side, whatever they applied to."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..errors import UserError


class Moved(NamedTuple):
    """An option of release 0.1, and where it is now."""

    key: str  #: its name then
    default: Any  #: its value then, if nobody said
    section: str  #: where it is now
    name: str  #: its name there
    kinds: tuple[str, ...]  #: the kinds of the section that it applies to


_STRENGTH = ("proximal", "admm", "douglas_rachford", "red")
_STEP_SIZE = ("gradient", "primal_dual", "mirror")
MOVED = [
    Moved("strength", None, "step", "strength", _STRENGTH),
    Moved("step_size", 1.0, "step", "step_size", _STEP_SIZE),
    Moved("learnable", False, "step", "learnable", _STRENGTH + _STEP_SIZE),
    Moved("channels", 32, "denoiser", "channels", ("random",)),
    Moved("layers", 6, "denoiser", "layers", ("random",)),
    Moved("adjoint_rtol", 1e-2, "gradient", "rtol", ("implicit",)),
    Moved("adjoint_max_steps", 40, "gradient", "max_steps", ("implicit",)),
    Moved("adjoint_inexact", 0, "gradient", "inexact", ("implicit",)),
    Moved("depth", 10, "gradient", "steps", ("unrolled",)),
    Moved("untied", False, "gradient", "untied", ("unrolled",)),
]
_KINDS = {
    "step": _STRENGTH + _STEP_SIZE,
    "denoiser": ("shipped", "unet", "random", "file"),
    "gradient": ("implicit", "jacobian_free", "neumann", "phantom", "unrolled"),
}  #: the first is the default


def model_section_of_release_0_1(tree: dict[str, Any], lenient: bool = False) -> dict[str, Any]:
    """The section ``model`` of a configuration of release 0.1 as ``ModelSettings`` has it.

    What is there already stays as it is, so that old and new keys may stand together.

    Args:
        tree: is not changed.
        lenient: for saved runs: what they do not say is as it was then, and an option that does not
            apply to the kind that was chosen is dropped, whatever its value: it had no effect then.
            Otherwise only its old default is dropped.

    Raises:
        UserError: an option was given that does not apply to the kind that was chosen.
    """
    new = dict(tree)
    sections: dict[str, dict[str, Any]] = {}
    for moved in MOVED:
        if moved.key not in new:
            continue
        value = new.pop(moved.key)
        section = sections.setdefault(moved.section, _section(moved.section, tree))
        kind = section["kind"]
        if kind in moved.kinds:
            section[moved.name] = value
        elif kind in _KINDS[moved.section] and value != moved.default and not lenient:
            raise UserError(
                f"model.{moved.key}={value!r} does not apply to model.{moved.section}={kind}: "
                f"leave it out, or set model.{moved.section} to {' or '.join(moved.kinds)}; it is "
                f"model.{moved.section}.{moved.name} now"
            )
    gradient = sections.get("gradient", {})
    if gradient.get("kind") == "implicit":
        gradient.setdefault("longest", None)  # nothing was shortened then
    new = {**new, **sections}
    return with_inner_of_then(new) if lenient else new


def with_inner_of_then(tree: dict[str, Any]) -> dict[str, Any]:
    """The section ``model`` of a saved run, whose proximal step solved its inner problem exactly if
    it does not say how: then there was no other way."""
    step = _section("step", tree)
    if step["kind"] != "proximal":
        return tree
    return {**tree, "step": {"inner": "exact", **step}}


def _section(name: str, tree: dict[str, Any]) -> dict[str, Any]:
    """``step``, ``denoiser`` or ``gradient`` of ``tree``, with its kind."""
    default = _KINDS[name][0]
    value = tree.get(name, default)
    if isinstance(value, dict):
        return {"kind": default, **value}
    if name == "denoiser" and value not in _KINDS[name]:
        return {"kind": "file", "path": value}
    return {"kind": value}
