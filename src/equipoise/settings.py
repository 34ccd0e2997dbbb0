"""What every section of a configuration is: strict, and explained option by option; and how its
text is read."""

from __future__ import annotations

import re
from typing import Any, NamedTuple, get_args

import yaml
from pydantic import BaseModel, ConfigDict, model_validator

#: ``json_schema_extra`` of what the package fills in itself: no option to set.
INTERNAL: dict[str, Any] = {"internal": True}


class Settings(BaseModel):
    """A section: an unknown key is an error, and each option has a ``description``.

    A room describes what it makes in subclasses of this, each with a method ``make``. Where there
    are several kinds of a thing, each kind is a subclass with ``kind: Literal["name"] = "name"``
    and the options that apply to it alone; their union is discriminated by ``kind``.
    """

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_values_for_numbers(cls, tree: Any) -> Any:
        """pydantic would take ``steps: true`` for 1."""
        if not isinstance(tree, dict):
            return tree
        for key, value in tree.items():
            field = cls.model_fields.get(key)
            if not isinstance(value, bool) or field is None:
                continue
            if bool not in (field.annotation, *get_args(field.annotation)):
                wanted = "a number" if "int" in str(field.annotation) else "a value"
                raise ValueError(f"{key} must be {wanted}, not {value}")
        return tree


def named(value: Any) -> Any:
    """``proximal`` is short for ``{kind: proximal}``: for unions whose kind says it all."""
    return {"kind": value} if isinstance(value, str) else value


# ------------------------------------------------------------------------------------- the text


#: What is no text although no quotes stand around it, by the end of YAML's tag. YAML 1.1 has more
#: of it: 1:50:5 would be a number to base 60 (here it is a range of views), 010 the number 8 (a
#: folder's name, or 10), off and no truth values, 2024-01-01 a date (names all three). An option
#: that wants a number or a truth value makes one of such a text.
PLAIN = {
    "int": re.compile(r"[-+]?(0|[1-9][0-9_]*|0b[01_]+|0x[0-9a-fA-F_]+)"),
    "bool": re.compile("true|True|TRUE|false|False|FALSE"),
}


class _Plain(NamedTuple):
    """A pattern of YAML's that counts only where there is no colon, and where ``alone`` fits the
    whole text."""

    pattern: re.Pattern[str]
    alone: re.Pattern[str] | None

    def match(self, text: str) -> re.Match[str] | None:
        if ":" in text or (self.alone is not None and not self.alone.fullmatch(text)):
            return None
        return self.pattern.match(text)


def _resolvers() -> dict[str, list[tuple[str, Any]]]:
    """YAML's, by the first letter of a text, without what is a text here."""
    found: dict[str, list[tuple[str, Any]]] = {}
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items():
        kept = found.setdefault(first, [])
        for tag, pattern in resolvers:
            kind = tag.rsplit(":", 1)[1]
            if kind in ("int", "float", "bool"):
                kept.append((tag, _Plain(pattern, PLAIN.get(kind))))
            elif kind != "timestamp":
                kept.append((tag, pattern))
    return found


class _Loader(yaml.SafeLoader):
    """YAML as people write it who have not read its standard (:data:`PLAIN`)."""

    yaml_implicit_resolvers = _resolvers()

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value} stands there twice; join them", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """What it writes, :class:`_Loader` reads."""


#: YAML 1.1 takes 1e-4 (without a point) for a text; nobody who writes it does. In quotes it is one.
_WITHOUT_POINT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$")
for _each in (_Loader, _Dumper):
    _each.add_implicit_resolver("tag:yaml.org,2002:float", _WITHOUT_POINT, [*"-+0123456789"])


def read_yaml(text: str) -> Any:
    """What a text in YAML says, where 1:50:5 is a range and 1e-4 a number.

    Raises:
        yaml.YAMLError: it is not YAML, or a key stands there twice.
    """
    return yaml.load(text, _Loader)


def read_yaml_parts(text: str) -> list[Any]:
    """Likewise of each part of a text, between lines of ``---``.

    Raises:
        yaml.YAMLError: it is not YAML, or a key stands there twice.
    """
    return list(yaml.load_all(text, _Loader))


def write_yaml(tree: Any, one_line: bool = False) -> str:
    """A tree as text in YAML, which :func:`read_yaml` reads as the same tree; mappings keep their
    order."""
    if one_line:
        text = yaml.dump(tree, Dumper=_Dumper, default_flow_style=True, width=10**9)
        return text.strip().removesuffix("...").strip()  # the end of a bare value
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False)
