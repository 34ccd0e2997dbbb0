"""Configurations of release 0.1, whose options all stood side by side, in the keys of this one."""

from __future__ import annotations

from typing import Any

from .errors import UserError
from .reconstruction.earlier import MOVED as MOVED_IN_MODEL
from .reconstruction.earlier import model_section_of_release_0_1, with_inner_of_then

#: Where the options of the objective went: each stands with its loss now.
MOVED = {
    "floor": (("consistency", "floor"), ("splitting", "floor")),
    "parts": (("splitting", "parts"),),
    "group": (("equivariance", "group"),),
    "draws": (("equivariance", "draws"),),
    "renoise": (("equivariance", "renoise"), ("operators", "renoise")),
    "stop_gradient": (("equivariance", "stop_gradient"),),
    "bound": (("contraction", "bound"),),
}
#: The options of losses in runs that do not say them.
OBJECTIVE_OF_THEN: dict[str, dict[str, Any]] = {
    "consistency": {"weight": 0.1},
    "splitting": {"shared": False},
    "equivariance": {"weight": 0.2, "stop_gradient": True},
    "contraction": {"weight": 0.1, "bound": 0.9, "along": "memory"},
}
#: Options of the data that were written out with these values where they did not apply.
UNUSED = {"path": None, "count": 200, "peak": 1.0}


def without_replaced(tree: dict[str, Any], path: list[str]) -> dict[str, Any]:
    """The tree after a value was set by its new name: what stands under the old one no longer
    counts."""
    section = tree.get("model")
    if len(path) != 3 or path[0] != "model" or not isinstance(section, dict):
        return tree
    old = {moved.key for moved in MOVED_IN_MODEL if [moved.section, moved.name] == path[1:]}
    return {**tree, "model": {key: value for key, value in section.items() if key not in old}}


def as_it_ran(tree: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a run, with the ways of then where it does not say which."""
    section = tree.get("model") or {}
    if isinstance(section, dict):
        tree = {**tree, "model": with_inner_of_then(section)}
    if isinstance(tree.get("data"), dict):
        tree = {**tree, "data": _data_of_then(tree["data"])}
    return _with_objective_of_then(tree)


def _with_objective_of_then(tree: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a run, with the penalty along one remembered direction where it does not
    say along which, solves to ``model.rtol`` where it does not say how exact they are, and an image
    for each loss where it does not say which are shared."""
    section = tree.get("objective") or {}
    if not isinstance(section, dict):
        return tree
    objective = {"exact": False, **section}
    for loss, options in OBJECTIVE_OF_THEN.items():
        given = section.get(loss, {})
        given = given if isinstance(given, dict) else {"weight": given}
        objective[loss] = {**options, **given}
    return {**tree, "objective": objective}


def objective_upgraded(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with the section ``objective`` in the keys of this release."""
    if not isinstance(tree.get("objective"), dict):
        return tree
    return {**tree, "objective": _objective(tree["objective"])}


def upgraded(tree: dict[str, Any], is_saved: bool = False) -> dict[str, Any]:
    """The same configuration in the keys of this release; what is new already stays.

    Args:
        tree: sections as they are written in YAML.
        is_saved: a run was made with it. What did not apply to the chosen kind had no effect, and
            is left out; in a configuration that is being written it is an error.
    """
    if not isinstance(tree, dict):
        return tree
    out = dict(tree)
    if isinstance(tree.get("data"), dict):
        out["data"] = _data(tree["data"], is_saved)
    if isinstance(tree.get("model"), dict):
        out["model"] = model_section_of_release_0_1(tree["model"], lenient=is_saved)
    out = objective_upgraded(out)
    return _with_objective_of_then(out) if is_saved else out


def _data(section: dict[str, Any], is_saved: bool) -> dict[str, Any]:
    """
    Raises:
        UserError: a path is asked for and not given, which then meant phantoms.
    """
    has_path = section.get("path") is not None
    if is_saved:
        section = _data_of_then(section)
    elif "path" in section and not has_path and section.get("kind") != "phantoms":
        raise UserError(
            "data.path: is empty; name a file or a folder, or leave the line out to train on "
            "phantoms"
        )
    kind = section.get("kind", "auto" if has_path else "phantoms")
    applies = {
        "phantoms": ("count",),
        "images": ("path",),
        "measurements": ("path", "peak"),
        "auto": ("path", "peak"),
    }.get(kind, tuple(UNUSED))
    return {
        key: value
        for key, value in section.items()
        if key not in UNUSED or key in applies or not (is_saved or value == UNUSED[key])
    }


def _data_of_then(section: dict[str, Any]) -> dict[str, Any]:
    """Of a run: what had an empty path were phantoms."""
    if section.get("path") is None and section.get("kind", "auto") == "auto":
        return {**section, "kind": "phantoms"}
    return section


def _objective(section: dict[str, Any]) -> dict[str, Any]:
    losses = {key: value for key, value in section.items() if key not in MOVED}
    for key, places in MOVED.items():
        if key not in section:
            continue
        for loss, option in places:
            former = losses.get(loss, {})
            former = former if isinstance(former, dict) else {"weight": former}
            losses[loss] = {**former, option: section[key]}
    return losses
