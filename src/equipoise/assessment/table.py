"""One table for all that is compared: shown on a terminal, in Markdown, in JSON and on the page.

A row is a method (or a measure), a cell a value, or the reason why there is none. What could not be
had, or failed, keeps its row and says why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import UserError
from ..machine import finite_or_none

#: What stands in a cell without a value.
NOTHING = "–"
#: Longer reasons are cut: whoever needs all of it reads the log.
LONGEST_REASON = 600


class Value(NamedTuple):
    """A number and, where it is known, how far it spreads."""

    mean: float
    spread: float | None = None


class Interval(NamedTuple):
    """The bounds of a confidence interval."""

    low: float
    high: float


class Missing(NamedTuple):
    """Why there is no value. ``failed``: there should have been one."""

    reason: str
    failed: bool = False


Cell = Value | Interval | Missing | str


def value_over_images(values: Tensor | Sequence[float]) -> Value | Missing:
    """Mean and standard deviation over images; images that are not finite have no mean."""
    numbers = torch.as_tensor(values, dtype=torch.float64)
    bad = int((~numbers.isfinite()).sum())
    if bad:
        return Missing(f"of {bad} of {len(numbers)} images: not finite", failed=True)
    return Value(float(numbers.mean()), float(numbers.std(unbiased=False)))


@dataclass(frozen=True)
class Column:
    """What the cells of a column are, and how they are written.

    Args:
        key: its name in JSON.
        title: its name for readers, with the unit.
        form: of a value, such as ``.2f``.
        spread: of its spread.
        scale: the value in JSON times this is the value that is shown.
    """

    key: str
    title: str
    form: str = ".3g"
    spread: str = ".1g"
    scale: float = 1.0


@dataclass
class Row:
    """A method, or a measure.

    Args:
        key: its name in JSON.
        title: its name for readers.
        cells: by the key of their column. A column without a cell is empty.
        remark: what else to say, such as the setting.
        missing: what is missing of the whole row, such as a seed.
        form: how its values are written, where that is not the column's business.
        more: what JSON holds beside the cells.
    """

    key: str
    title: str
    cells: dict[str, Cell] = field(default_factory=dict)
    remark: str = ""
    missing: list[Missing] = field(default_factory=list)
    form: str | None = None
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether something should be here and is not."""
        cells = [cell for cell in self.cells.values() if isinstance(cell, Missing)]
        return any(missing.failed for missing in (*self.missing, *cells))

    def remarks(self) -> str:
        """The remark, and the reasons for what is missing of the whole row."""
        return "; ".join(text for text in (self.remark, *(m.reason for m in self.missing)) if text)


@dataclass
class Table:
    """Rows under named columns.

    Args:
        heading: of the first column, which names the rows.
        columns: from left to right.
        rows: from top to bottom.
        remarks: heading of the last column, which holds the rows' remarks; empty: there is none.
    """

    heading: str
    columns: list[Column]
    rows: list[Row] = field(default_factory=list)
    remarks: str = "setting"

    @property
    def failed(self) -> bool:
        """Whether something failed, so that a command says so by its exit code."""
        return any(row.failed for row in self.rows)

    def row(self, key: str) -> Row:
        """The row of that name.

        Raises:
            KeyError: there is none.
        """
        for row in self.rows:
            if row.key == key:
                return row
        raise KeyError(f"no row is called {key!r}; there are {[row.key for row in self.rows]}")

    # ------------------------------------------------------------------------------ as text

    def head(self) -> list[str]:
        """The headings of all columns."""
        last = [self.remarks] if self.remarks else []
        return [self.heading, *(column.title for column in self.columns), *last]

    def lines(self) -> list[list[str]]:
        """The text of each cell, row by row."""
        return [self._line(row) for row in self.rows]

    def _line(self, row: Row) -> list[str]:
        texts = [_text(row.cells.get(column.key), column, row.form) for column in self.columns]
        last = [row.remarks()] if self.remarks else []
        return [row.title, *texts, *last]

    def notes(self) -> list[str]:
        """Why single cells have no value, each reason once, with the rows that it is about."""
        where: dict[str, list[str]] = {}
        for row in self.rows:
            for cell in row.cells.values():
                if isinstance(cell, Missing) and row.title not in where.setdefault(cell.reason, []):
                    where[cell.reason].append(row.title)
        everywhere = [row.title for row in self.rows]
        return [
            f"{NOTHING} {reason}" + ("" if titles == everywhere else f" ({', '.join(titles)})")
            for reason, titles in where.items()
        ]

    def reasons(self) -> list[str]:
        """What is missing of whole rows, with their titles."""
        return [
            f"{row.title}: {'; '.join(missing.reason for missing in row.missing)}"
            for row in self.rows
            if row.missing
        ]

    def terminal(self) -> str:
        """Aligned columns, and the notes below."""
        lines = [self.head(), *self.lines()]
        numbers = len(self.columns)
        widths = [max(len(line[k]) for line in lines) for k in range(1 + numbers)]
        out = []
        for line in lines:
            cells = [f"{line[0]:<{widths[0]}}"]
            cells += [f"{line[k]:>{widths[k]}}" for k in range(1, 1 + numbers)]
            out.append("  ".join([*cells, *line[1 + numbers :]]).rstrip())
        return "\n".join([*out, *self.notes()])

    def markdown(self) -> str:
        """A Markdown table, and the notes below."""
        head = self.head()
        rows = [head, ["---"] * len(head), *self.lines()]
        lines = [f"| {' | '.join(_escaped(text) for text in row)} |" for row in rows]
        notes = self.notes()
        return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n"

    def as_json(self) -> dict[str, dict[str, Any]]:
        """Row → column → value; a spread stands under ``COLUMN_std``, the bounds of an interval
        under ``low`` and ``high``, and what is missing of a row under ``failed`` or ``missing``.

        A column that no row has a value in is left out.
        """
        return {row.key: self._row_as_json(row) for row in self.rows}

    def _row_as_json(self, row: Row) -> dict[str, Any]:
        out: dict[str, Any] = {"setting": row.remark} if self.remarks else {}
        for column in self.columns:
            if self._has_values(column):
                out |= _cell_as_json(row.cells.get(column.key), column.key)
        reasons = _reasons(row)
        out["failed"] = [m.reason for m in reasons if m.failed]
        out["missing"] = [m.reason for m in reasons if not m.failed]
        return out | row.more

    def _has_values(self, column: Column) -> bool:
        cells = [row.cells.get(column.key) for row in self.rows]
        return any(cell is not None and not isinstance(cell, Missing) for cell in cells)


def _reasons(row: Row) -> list[Missing]:
    cells = [cell for cell in row.cells.values() if isinstance(cell, Missing)]
    return list(dict.fromkeys([*row.missing, *cells]))


def _text(cell: Cell | None, column: Column, form: str | None) -> str:
    if cell is None or isinstance(cell, Missing):
        return NOTHING
    if isinstance(cell, str):
        return cell
    form = column.form if form is None else form
    if isinstance(cell, Interval):
        return f"{cell.low * column.scale:{form}} … {cell.high * column.scale:{form}}"
    shown = f"{cell.mean * column.scale:{form}}" if math.isfinite(cell.mean) else "not finite"
    if cell.spread is None:
        return shown
    return f"{shown} ± {cell.spread * column.scale:{column.spread}}"


def _cell_as_json(cell: Cell | None, key: str) -> dict[str, Any]:
    if isinstance(cell, Interval):
        return {"low": finite_or_none(cell.low), "high": finite_or_none(cell.high)}
    if isinstance(cell, Value):
        spread = {} if cell.spread is None else {f"{key}_std": finite_or_none(cell.spread)}
        return {key: finite_or_none(cell.mean), **spread}
    return {key: cell if isinstance(cell, str) else None}


def _escaped(text: str) -> str:
    return text.replace("\n", " ").replace("|", "\\|")


def reason_of(error: BaseException) -> str:
    """An exception as the reason of a missing value: one line, with its kind where the words are
    another library's."""
    text = " ".join(str(error).split())
    if not isinstance(error, UserError):
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 1] + "…"
