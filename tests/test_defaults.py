"""Defaults, bounds and named numbers are promises: what is not set stays what it was.

``defaults.txt`` says what was promised. What is new need not stand there; what stands there holds.
Whoever changes a default on purpose says so in the changelog, and writes the file anew with
``python tests/test_defaults.py``.
"""

from __future__ import annotations

import ast
import enum
import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import equipoise
from equipoise.config import Config
from equipoise.equilibrium import Stop
from equipoise.imaging import mri
from equipoise.learning.losses import Accuracy
from equipoise.learning.search import Ladder

FILE = Path(__file__).with_name("defaults.txt")
#: Of a JSON schema; the rest explains, or says what there is to choose from, which may grow.
NUMBERS = {"default", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems"}
#: Named numbers that the machine's memory decides.
OF_THE_MACHINE = {"data.formats.projections.BLOCK"}


def numbers(schema: Any) -> Any:
    """The default and the bounds in a JSON schema, also those of one of several types."""
    kept = {key: value for key, value in schema.items() if key in NUMBERS}
    others = [numbers(one) for one in schema.get("anyOf", ())]
    return {**kept, **({"anyOf": others} if any(others) else {})}


def of_options() -> Iterator[str]:
    """Each option of a configuration with its default and what is allowed."""
    for section, schema in Config.model_json_schema()["$defs"].items():
        for option, field in schema.get("properties", {}).items():
            if found := numbers(field):
                yield f"{section}.{option} {json.dumps(found, sort_keys=True)}"


def of_arguments() -> Iterator[str]:
    """Each argument of a public function, class or method that has a default."""
    public = {name: getattr(equipoise, name) for name in equipoise.__all__}
    public |= {f"mri.{name}": getattr(mri, name) for name in mri.__all__}
    for name, thing in public.items():
        if inspect.isclass(thing) and not issubclass(thing, (Exception, enum.Enum)):
            yield from _arguments(name, thing)
            for method, function in vars(thing).items():
                if inspect.isfunction(function) and not method.startswith("_"):
                    yield from _arguments(f"{name}.{method}", function)
        elif inspect.isfunction(thing):
            yield from _arguments(name, thing)


def _arguments(name: str, function: Any) -> Iterator[str]:
    for argument in inspect.signature(function).parameters.values():
        if argument.default is not inspect.Parameter.empty:
            yield f"{name}({argument.name}={argument.default!r})"


def of_constants() -> Iterator[str]:
    """Each named number of a module: they were chosen, and most of them measured."""
    for found in pkgutil.walk_packages(equipoise.__path__, "equipoise."):
        if found.name.endswith("__main__"):
            continue
        module = importlib.import_module(found.name)
        where = found.name.removeprefix("equipoise.")
        own = names_given(Path(str(module.__file__)).read_text())
        for name, value in vars(module).items():
            named = f"{where}.{name}"
            if name in own and named not in OF_THE_MACHINE and _is_plain(value):
                yield f"{named} = {value!r}"


def names_given(source: str) -> set[str]:
    """What a module gives a value to by itself, one name or several in a line."""
    targets: list[ast.expr] = []
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign):
            targets += statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets.append(statement.target)
    named = (
        node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)
    )
    return {name for name in named if re.fullmatch("[A-Z][A-Z0-9_]*", name)}


def _is_plain(value: Any) -> bool:
    """Whether it is a number, or made of numbers."""
    if isinstance(value, dict):
        return bool(value) and all(_is_plain(part) for part in value.values())
    if isinstance(value, tuple | list):
        return bool(value) and all(_is_plain(part) for part in value)
    return isinstance(value, bool | int | float | Ladder | Stop | Accuracy)


def now() -> set[str]:
    return {*of_options(), *of_arguments(), *of_constants()}


def test_they_are_what_they_were():
    changed = sorted(set(FILE.read_text().splitlines()) - now())
    assert not changed, "no longer so:\n" + "\n".join(changed)


if __name__ == "__main__":
    FILE.write_text("\n".join(sorted(now())) + "\n")
