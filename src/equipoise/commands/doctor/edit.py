"""Other values in a YAML file, with its comments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from ...settings import read_yaml, write_yaml


def edited(text: str, changes: Mapping[str, Any]) -> tuple[str, bool]:
    """The text with other values at dotted keys, and whether its comments are still there.

    Lines are changed where the file is written line by line; otherwise it is written anew.

    Args:
        changes: a value for each dotted key; None takes the key out.
    """
    wanted = read_yaml(text) or {}
    for key, value in changes.items():
        _set(wanted, key.split("."), value)
    new = text
    for key, value in changes.items():
        new = _with_line(new, key.split("."), value)
    try:
        if read_yaml(new) == wanted:
            return new, True
    except yaml.YAMLError:
        pass
    return write_yaml(wanted), "#" not in text


def _set(tree: dict[str, Any], path: list[str], value: Any) -> None:
    *sections, last = path
    for section in sections:
        inner = tree.get(section)
        if isinstance(inner, str):
            inner = {"kind": inner}
        elif not isinstance(inner, dict):
            inner = {}
        tree[section] = inner
        tree = inner
    if value is None:
        tree.pop(last, None)
    else:
        tree[last] = value


def _with_line(text: str, path: list[str], value: Any) -> str:
    """The text with one line changed, added or left out; of keys of a section, or without one."""
    lines = text.splitlines()
    *sections, key = path
    if len(sections) > 1:
        return text
    indent = ""
    start, end = 0, len(lines)
    if sections:
        heads = [i for i, line in enumerate(lines) if re.match(rf"{sections[0]}:\s*(#.*)?$", line)]
        if not heads:
            return text if value is None else _with_section(text, sections[0], key, value)
        start = heads[0] + 1
        end = next((i for i in range(start, end) if re.match(r"\S", lines[i])), end)
        inside = [line for line in lines[start:end] if re.match(r"\s+[\w-]+:", line)]
        indent = re.match(r"\s*", inside[0]).group() if inside else "  "  # type: ignore[union-attr]
    for i in range(start, end):
        if re.match(rf"{indent}{key}:", lines[i]):
            stop = _end_of_value(lines, i, end, indent)
            lines[i:stop] = [] if value is None else [_line(indent, key, value, lines[i])]
            return "\n".join(lines) + "\n"
    if value is not None:
        lines.insert(start, _line(indent, key, value))
    return "\n".join(lines) + "\n"


def _with_section(text: str, section: str, key: str, value: Any) -> str:
    if re.search(rf"^{section}:", text, re.MULTILINE):
        return text  # written on one line
    return f"{text.rstrip()}\n{section}:\n{_line('  ', key, value)}\n"


def _end_of_value(lines: list[str], i: int, end: int, indent: str) -> int:
    """The line after a value that goes on for several."""
    stop = i + 1
    while stop < end and re.match(rf"{indent}(\s|- )", lines[stop]):
        stop += 1
    return stop


def _line(indent: str, key: str, value: Any, before: str = "") -> str:
    """A key and its value, with the comment of the line before."""
    shown = write_yaml(value, one_line=True)
    comment = re.search(r"\s+#.*$", before)
    return f"{indent}{key}: {shown}{comment.group() if comment else ''}"
