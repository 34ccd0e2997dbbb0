"""Who is shown, where files do not say: a list beside them, or the folders that they lie in."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from ...errors import UserError
from ..item import Item

#: The list's name, and its columns; all but the first two may be missing.
LIST = "patients.csv"
COLUMNS = ("file", "patient", "series", "position")


def with_patients(items: Sequence[Item], path: Path) -> list[Item]:
    """The items with the patients that ``patients.csv`` beside their files names; else, of files
    that lie in folders below ``path`` and do not say whom they show, with those of the folders.

    Raises:
        UserError: the list cannot be read, or lacks a file.
    """
    lists: dict[Path, dict[str, dict[str, str]]] = {}
    found = []
    for item in items:
        folder = item.file.parent
        if folder not in lists:
            lists[folder] = _read(folder / LIST)
        if lists[folder]:
            item = _with_row(item, lists[folder], folder / LIST)
        found.append(item)
    if any(lists.values()):
        return found
    return _with_folders(found, path)


def _with_folders(items: list[Item], path: Path) -> list[Item]:
    """Patients' folders, where a patient has no other name than its file's."""
    below = [item for item in items if item.file.parent != path and path.is_dir()]
    if not below or not all(item.patient in _names_of(item.file) for item in items):
        return items
    tops = {item.file.relative_to(path).parts[0] for item in below}
    depth = 1 if len(tops) > 1 else None  # one folder for all is no patient
    return [
        replace(item, patient="/".join(item.file.relative_to(path).with_suffix("").parts[:depth]))
        for item in items
    ]


def _names_of(file: Path) -> tuple[str, ...]:
    return "", file.stem, file.name.split(".")[0]


def _with_row(item: Item, rows: dict[str, dict[str, str]], where: Path) -> Item:
    row = rows.get(item.file.name) or rows.get(item.file.stem)
    if row is None:
        raise UserError(f"{where}: does not name {item.file.name}; add a line for it")
    changes: dict[str, object] = {"patient": row["patient"]}
    if row.get("series"):
        changes["series"] = row["series"]
    if row.get("position"):
        try:
            changes["position"] = float(row["position"])
        except ValueError as error:
            raise UserError(
                f"{where}: {item.file.name}: position must be a number of millimetres, got "
                f"{row['position'][:40]!r}"
            ) from error
    return replace(item, **changes)  # type: ignore[arg-type]


def _read(path: Path) -> dict[str, dict[str, str]]:
    """The rows by file; none, where there is no list."""
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error}); save it as UTF-8") from error
    if not rows or not all(row.get("file") and row.get("patient") for row in rows):
        raise UserError(f"{path}: needs the columns file and patient, with a value in each line")
    return {row["file"]: row for row in rows}


def write_patients(folder: Path, rows: Iterable[tuple[str, Item]]) -> Path:
    """Writes the list for files that are made of items: (name of the file, item)."""
    path = folder / LIST
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for name, item in rows:
            position = "" if item.position is None else f"{item.position:.6g}"
            writer.writerow((name, item.patient, item.series, position))
    return path
