"""The samples of one image, kept until their quantiles are known: in memory while they are few, and
in a temporary file otherwise, so that the memory does not grow with their number."""

from __future__ import annotations

import tempfile
from typing import IO

import numpy as np
import torch
from torch import Tensor

#: Up to so many bytes are kept in memory.
IN_MEMORY = 1 << 28
#: Numbers that are sorted at once.
SORTED = 1 << 22


class Kept:
    """(count, n) numbers, written row by row and read column by column.

    Args:
        count: of the rows.
        numbers: n, in each row.
        dtype: float32 or float64.
        in_memory: bytes above which they go to a file.
    """

    def __init__(self, count: int, numbers: int, dtype: torch.dtype, in_memory: int = IN_MEMORY):
        self.count, self.numbers, self.dtype = count, numbers, dtype
        self.bytes = torch.finfo(dtype).bits // 8
        self.rows: Tensor | None = None
        self.file: IO[bytes] | None = None
        if count * numbers * self.bytes <= in_memory:
            self.rows = torch.empty(count, numbers, dtype=dtype)
        else:
            self.file = tempfile.TemporaryFile()  # noqa: SIM115

    def write(self, row: int, values: Tensor) -> None:
        """Keeps a row."""
        values = values.detach().flatten().to("cpu", self.dtype)
        if self.rows is not None:
            self.rows[row] = values
            return
        assert self.file is not None
        self.file.seek(row * self.numbers * self.bytes)
        self.file.write(values.numpy().tobytes())

    def quantiles(self, levels: Tensor, chosen: Tensor) -> Tensor:
        """(levels, n) of the rows that are ``chosen`` (count,) bool, interpolated linearly between
        order statistics, as ``torch.quantile`` does; NaN where none is chosen."""
        rows = torch.nonzero(chosen).flatten().tolist()
        if not rows:
            return torch.full((len(levels), self.numbers), torch.nan, dtype=self.dtype)
        parts = []
        width = max(1, SORTED // len(rows))
        for start in range(0, self.numbers, width):
            columns = self._columns(rows, start, min(start + width, self.numbers))
            parts.append(_interpolated(columns.sort(0).values, levels))
        return torch.cat(parts, 1)

    def _columns(self, rows: list[int], start: int, end: int) -> Tensor:
        if self.rows is not None:
            return self.rows[rows, start:end]
        assert self.file is not None
        kind = np.float64 if self.dtype == torch.float64 else np.float32
        out = np.empty((len(rows), end - start), dtype=kind)
        for place, row in enumerate(rows):
            self.file.seek((row * self.numbers + start) * self.bytes)
            out[place] = np.frombuffer(self.file.read((end - start) * self.bytes), kind)
        return torch.from_numpy(out)

    def close(self) -> None:
        """Gives memory and file back."""
        self.rows = None
        if self.file is not None:
            self.file.close()


def _interpolated(ordered: Tensor, levels: Tensor) -> Tensor:
    """(levels, n) between the rows of ``ordered`` (count, n)."""
    place = levels.double() * (len(ordered) - 1)
    low = place.floor().long()
    high = (low + 1).clamp_max(len(ordered) - 1)
    share = (place - low).to(ordered)[:, None]
    return torch.lerp(ordered[low], ordered[high], share)
