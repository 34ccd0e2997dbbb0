"""The whole of a run's settings. Each section is owned by the room that makes it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from .data.settings import Data, PhantomSettings
from .earlier import as_it_ran, objective_upgraded, upgraded, without_replaced
from .errors import UserError, shortened
from .imaging.settings import FanBeamSettings, ParallelBeamSettings, Physics
from .learning.objective_settings import ObjectiveSettings
from .learning.settings import LearningSettings
from .reconstruction.settings import ModelSettings
from .settings import INTERNAL, Settings, read_yaml, write_yaml


class Config(Settings):
    """A whole run."""

    name: str = Field(
        "run",
        pattern=r"^[\w.\-]+$",
        description="name of the run, and of its folder under runs/",
    )
    out: Path | None = Field(None, description="run folder; none: runs/NAME")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of everything random")
    data: Data = Field(default_factory=lambda: PhantomSettings())
    physics: Physics = Field(default_factory=lambda: ParallelBeamSettings())
    model: ModelSettings = Field(default_factory=lambda: ModelSettings())
    objective: ObjectiveSettings = Field(default_factory=lambda: ObjectiveSettings())
    learning: LearningSettings = Field(default_factory=lambda: LearningSettings())

    @field_validator("name", mode="before")
    @classmethod
    def _a_name_of_digits_is_a_name(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _sections_agree(self) -> Config:
        data, objective = self.data, self.objective
        fan = self.physics if isinstance(self.physics, FanBeamSettings) else None
        if isinstance(data, PhantomSettings) and fan is not None and not fan.has_a_source:
            raise ValueError(
                "physics.source_distance: missing; this kind needs it (in pixels; "
                "physics.source_to_axis in millimetres)"
            )
        if data.size == "native" and isinstance(
            self.physics, ParallelBeamSettings | FanBeamSettings
        ):
            raise ValueError(
                "data.size=native: rays have views and detectors for one size; set data.size to "
                "[height, width] of the images"
            )
        if data.holdout and (data.validation is not None or data.stream):
            raise ValueError(
                "data.holdout keeps patients of data.path; leave out data.validation and "
                "data.stream, or set it to 0"
            )
        if data.keep_out and data.stream:
            raise ValueError(
                "data.keep_out needs the data in memory; set data.stream=false, or data.keep_out=0"
            )
        if objective.supervised.weight and data.stream:
            raise ValueError(
                "objective.supervised needs the images in memory; set data.stream=false, or "
                "objective.supervised=0"
            )
        if self.learning.patience and not data.keep_out:
            raise ValueError(
                "learning.patience needs measurements to validate on: set data.keep_out=0.1, or "
                "learning.patience=0"
            )
        return self

    @property
    def folder(self) -> Path:
        return self.out if self.out is not None else Path("runs") / self.name


# ------------------------------------------------------------------------- reading and writing


def load_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Reads a YAML file and applies overrides such as ``learning.steps=500``.

    Paths that do not exist from here are looked for beside the file.

    Raises:
        UserError: the file is missing or not YAML; a key is unknown or does not apply to the kind
            that is chosen, or its value is of a wrong type or out of bounds.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such configuration file; the examples are in configs/")
    try:
        text = path.read_text()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not YAML: {error}") from error
    return config_of(text, path, overrides)


def config_of(text: str, path: Path, overrides: list[str] | None = None) -> Config:
    """The configuration that a file at ``path`` would be if it held ``text``; see
    :func:`load_config`."""
    try:
        tree = read_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {error}") from error
    if tree is None and not overrides:
        raise UserError(f"{path}: is empty; equipoise init DATA writes one to begin with")
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise UserError(
            f"{path}: expected sections such as data: and physics:, got {type(tree).__name__}"
        )
    tree = objective_upgraded(tree)
    for override in overrides or []:
        tree = _overridden(tree, override)
    if _is_of_a_run(path):
        tree = _in_its_folder(as_it_ran(tree), path.parent, overrides or [])
    tree.setdefault("name", path.stem)
    config = parse(tree, str(path))
    _find_beside(config, path)
    return config


def _is_of_a_run(path: Path) -> bool:
    """Whether the file stands in a run's folder, beside what the run left there."""
    left = ("checkpoint.safetensors", "model.safetensors", "log.jsonl")
    return path.name == "config.yaml" and any((path.parent / name).exists() for name in left)


def _in_its_folder(tree: dict[str, Any], folder: Path, overrides: list[str]) -> dict[str, Any]:
    """The configuration of a run goes on where it stands, wherever the run began; with another name
    it begins another run."""
    given = {override.split("=", 1)[0] for override in overrides}
    if "out" in given:
        return tree
    return {**tree, "out": None if "name" in given else str(folder)}


def parse(tree: dict[str, Any], where: str, is_saved: bool = False) -> Config:
    """The configuration that ``tree`` describes, with the keys of this release or of an earlier
    one; ``is_saved``: a run was made with it, so what it ignored then is left out now.

    Raises:
        UserError: see :func:`load_config`; ``where`` begins the message.
    """
    try:
        tree = upgraded(tree, is_saved)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise UserError(_complaint(error, where)) from error


def dump(config: Config) -> str:
    """The configuration as YAML, with every default written out."""
    return write_yaml(config.model_dump(mode="json"))


def changed(config: Config, changes: dict[str, Any]) -> Config:
    """The configuration with other values at dotted keys.

    A bare name chooses a kind, a bare number a weight, and a mapping replaces the section.
    """
    tree = config.model_dump(mode="json")
    for key, value in changes.items():
        _set(tree, key.split("."), value)
    return parse(tree, config.name)


def _overridden(tree: dict[str, Any], text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(
            f"{text!r}: an override is written section.key=value, such as learning.steps=500"
        )
    try:
        parsed = read_yaml(value)
    except yaml.YAMLError as error:
        raise UserError(f"{text!r}: the value is not YAML: {error}") from error
    try:
        _set(tree, key.split("."), parsed)
    except TypeError as error:
        raise UserError(f"{text!r}: {error}") from error
    return without_replaced(tree, key.split("."))


def _set(tree: dict[str, Any], path: list[str], value: Any) -> None:
    """Sets one value of a tree of sections.

    Raises:
        TypeError: the path leads through a value that is no section.
    """
    *sections, last = path
    annotation: Any = Config
    for section in sections:
        annotation = _annotation(annotation, section)
        inner = _written_out(tree.get(section))
        is_value = annotation is not None and not sections_of(annotation)
        if is_value or not isinstance(inner, dict):
            raise TypeError(f"{section} is a value, not a section")
        tree[section] = inner
        tree = inner
    former, kinds = tree.get(last), sections_of(_annotation(annotation, last))
    if isinstance(value, str) and value in kinds and isinstance(former, dict):
        tree[last] = _of_another_kind(former, value, kinds)
    elif _is_weight(value) and kinds and isinstance(former, dict):
        tree[last] = {**former, "weight": value}
    else:
        tree[last] = value


def _written_out(section: Any) -> Any:
    """A section that was written short: a kind by its name, a loss by its weight."""
    if section is None:
        return {}
    if isinstance(section, str):
        return {"kind": section}
    return {"weight": section} if _is_number(section) else section


def _is_weight(value: Any) -> bool:
    return value == "auto" or _is_number(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _of_another_kind(
    former: dict[str, Any], kind: str, kinds: dict[str, type[Settings]]
) -> dict[str, Any]:
    """The section as another kind. Defaults of the former kind go with it; options that were chosen
    stay, so that one that does not apply any more is an error rather than lost."""
    before = kinds.get(former.get("kind", ""))
    chosen = {
        key: value
        for key, value in former.items()
        if before is None
        or key not in before.model_fields
        or value not in (None, _default(before, key))
    }
    return {**chosen, "kind": kind}


def _default(section: type[Settings], key: str) -> Any:
    return section.model_fields[key].get_default(call_default_factory=True)


#: The options that name files, of each section that has some.
_PATHS = ("path", "validation", "file", "white", "dark")


def paths_of(config: Config) -> Iterator[tuple[str, Settings, str, Path]]:
    """Of each file or folder that a configuration names: its dotted key, the section, the option in
    it, and the path."""
    for name, section in (
        ("data", config.data),
        ("physics", config.physics),
        ("model.denoiser", config.model.denoiser),
    ):
        for option in _PATHS:
            given = getattr(section, option, None)
            if isinstance(given, Path):
                yield f"{name}.{option}", section, option, given


def _find_beside(config: Config, file: Path) -> None:
    """Lets the paths of a configuration that do not exist from here begin beside its file.

    Raises:
        UserError: there is no such file either.
    """
    for key, section, option, given in paths_of(config):
        if given.exists():
            continue
        beside = file.parent / given
        if not beside.exists():
            raise UserError(
                f"{file}: {key}: {given} does not exist, from here or from {file.parent}/; name "
                "one that does"
            )
        setattr(section, option, beside)


# ------------------------------------------------------------------------------- what there is


def sections_of(annotation: Any) -> dict[str, type[Settings]]:
    """Kind → section, of a union of sections; a section without kinds stands under ""."""
    choices = get_args(annotation) or (annotation,)
    sections = [c for c in choices if isinstance(c, type) and issubclass(c, Settings)]
    return {_kind(section): section for section in sections}


def _kind(section: type[Settings]) -> str:
    return str(_default(section, "kind")) if "kind" in section.model_fields else ""


def _annotation(annotation: Any, key: str) -> Any:
    """The type of an option of a section; None where none of its kinds has that option."""
    for section in sections_of(annotation).values():
        if key in section.model_fields:
            return section.model_fields[key].annotation
    return None


def options() -> list[tuple[str, str, str]]:
    """(dotted name, default, meaning) of everything that can be set; the options of a kind as
    ``section.KIND.option``."""
    return list(_options("", Config))


def _options(prefix: str, section: type[Settings]) -> Iterator[tuple[str, str, str]]:
    for key, field in section.model_fields.items():
        if field.json_schema_extra == INTERNAL:
            continue
        name = f"{prefix}{key}"
        kinds = sections_of(field.annotation)
        if kinds and "" not in kinds:
            default = _kind(type(_default(section, key)))
            meaning = field.description or "which kind"
            yield name, default, f"{meaning}: {', '.join(kinds)}"
        for kind, part in kinds.items():
            yield from _options(f"{name}.{kind}." if kind else f"{name}.", part)
        if not kinds and key != "kind":
            yield name, _shown_default(section, key), field.description or ""


def _shown_default(section: type[Settings], key: str) -> str:
    if section.model_fields[key].is_required():
        return "(required)"
    default = _default(section, key)
    return "none" if default is None else str(default)


# ----------------------------------------------------------------------------- what is wrong


def _complaint(error: ValidationError, where: str) -> str:
    """What pydantic found, in the words of the configuration."""
    parts = [_one_complaint(dict(e)) for e in error.errors()]
    return f"{where}: " + "; ".join(dict.fromkeys(parts))


def _one_complaint(error: dict[str, Any]) -> str:
    path, section = _place(error["loc"])
    key, given = ".".join(path), error["input"]
    if error["type"] == "extra_forbidden":
        return _unknown_key(path, section, given)
    if error["type"] == "union_tag_invalid":
        kinds = ", ".join(sections_of(section))
        return f"{key}.kind: must be one of {kinds}, got {given.get('kind')!r}"
    if error["type"] == "missing":
        return f"{key}: missing; this kind needs it"
    if key == "name" and error["type"] == "string_pattern_mismatch":
        return (
            f"name: letters, digits, '_', '-' and '.' alone, since a folder is called so; got "
            f"{shortened(repr(given), 60)} (where nothing is said it is the name of the file); set "
            "name=… to another"
        )
    if error["type"] in ("string_type", "path_type") and _is_number(given):
        return (
            f"{key}: was read as the number {given!r}; put quotes around it, so that it is a name "
            "(on a command line, quotes within quotes)"
        )
    message = error["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(given, dict) else f", got {shortened(repr(given), 60)}"
    return f"{key}: {message}{shown}" if key else f"{message}{shown}"


def _place(location: tuple[Any, ...]) -> tuple[list[str], Any]:
    """The dotted key of pydantic's location, without the kinds that it names, and the type of the
    section (or of the union) that the key stands in."""
    path: list[str] = []
    here: Any = Config
    parent: Any = Config
    for step in location:
        kinds = sections_of(here)
        if step in kinds and step:
            here = kinds[step]
        elif isinstance(step, str) and not re.match(
            r"(int|float|list|dict|tuple|function|constrained|literal|str$)", step
        ):
            parent = here
            here = _annotation(here, step)
            path.append(step)
        elif isinstance(step, int):
            path.append(str(step))
    return path, here if sections_of(here) else parent


def _unknown_key(path: list[str], section: Any, given: Any) -> str:
    (known,) = sections_of(section).values()
    allowed = ", ".join(sorted(known.model_fields))
    key = ".".join(path)
    others = [kind for kind, other in _siblings(path).items() if path[-1] in other.model_fields]
    if others:
        return (
            f"{key}: does not apply to {_kind(known)} (it belongs to {', '.join(others)}); remove "
            f"it; allowed here are {allowed}"
        )
    return f"{key}: unknown key (value {shortened(repr(given), 60)}); allowed here are {allowed}"


def _siblings(path: list[str]) -> dict[str, type[Settings]]:
    """The kinds that the section of a key could be of."""
    annotation: Any = Config
    for step in path[:-1]:
        annotation = _annotation(annotation, step)
    return sections_of(annotation)
