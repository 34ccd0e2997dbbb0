"""equipoise doctor CONFIG --fix OUT: the configuration with what the doctor would change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...config import Config, config_of, load_config, paths_of
from ...errors import UserError
from ...machine import write_whole
from ...settings import read_yaml
from .edit import edited
from .examine import examine
from .finding import Finding

#: Mistakes that are mended one after the other.
MOST_ROUNDS = 4

Say = Callable[[str], None]


def write_fixed(
    file: Path,
    overrides: list[str] | None,
    out: Path,
    echo: Say = print,
    say: Say = lambda text: None,
) -> int:
    """Examines a configuration, changes what the doctor would change, examines that, and so on;
    writes what comes out, with the comments of the file where they can be kept.

    Args:
        file: the configuration; it is not changed.
        overrides: such as ``physics.angles=9``; they are written, too.
        out: a new file.
        echo: is told what is found and changed.
        say: is told what is being done.

    Returns:
        How many things are wrong after it: no configuration mends them, or there were too many.

    Raises:
        UserError: ``out`` exists, or the configuration cannot be read.
    """
    if out.exists():
        raise UserError(f"{out}: exists; nothing was written. Name another file with --fix")
    text = file.read_text() if file.is_file() else ""
    config = load_config(file, overrides)
    given = [tuple(one.split("=", 1)) for one in overrides or []]
    changes: dict[str, Any] = {key: read_yaml(value) for key, value in given}
    wrong: list[Finding] = []
    for number in range(MOST_ROUNDS + 1):
        wrong = [f for f in examine(config, say) if f.verdict == "wrong"]
        mended = [f for f in wrong if f.changes][:1]
        if not mended or number == MOST_ROUNDS:
            break
        (finding,) = mended
        echo(f"{finding.verdict:<6}{finding.what}")
        echo(f"      → changed: {_in_words(finding.changes)}")
        changes |= finding.changes
        config = config_of(_written(text, changes, echo=lambda _: None), file)
    for finding in wrong:
        echo(f"{finding.verdict:<6}{finding.what}\n      → by hand: {finding.remedy}")
    changes |= _paths_from(config, file, out)
    write_whole(out, _written(text, changes, echo))
    return len(wrong)


def _written(text: str, changes: Mapping[str, Any], echo: Say) -> str:
    new, has_comments = edited(text, changes)
    if not has_comments:
        echo("note: the file's comments could not be kept")
    return new


def _paths_from(config: Config, file: Path, out: Path) -> dict[str, Any]:
    """Paths that were found beside the file are not beside another one."""
    changes: dict[str, Any] = {"name": out.stem} if config.name == file.stem else {}
    if file.parent.resolve() == out.parent.resolve():
        return changes
    for key, _, _, path in paths_of(config):
        changes[key] = str(path.resolve())
    return changes


def _in_words(changes: Mapping[str, Any]) -> str:
    words = []
    for key, value in changes.items():
        if value is not None:
            shown = f"{len(value)} degrees" if isinstance(value, list) else value
            words.append(f"{key}={shown}")
    return ", ".join(words)
