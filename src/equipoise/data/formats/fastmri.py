"""What fastMRI's files say beside their k-space: the mask, the field of view, what to compare with.

Zbontar et al., "fastMRI: An Open Dataset and Benchmarks for Accelerated MRI", 2018. Their rows are
the readout; their lines are columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np

from .encoding import Encoding

#: What was reconstructed of all lines: by several coils, and by one.
TARGETS = {4: ("reconstruction_rss",), 3: ("reconstruction_esc", "reconstruction_rss")}


@dataclass(frozen=True)
class About:
    """What a file says of its k-space (slices × (coils ×) rows × columns)."""

    shape: tuple[int, ...]  #: of a slice, its readout cropped
    kept: int | None  #: rows that are kept of an oversampled readout
    mask: np.ndarray | None  #: (columns,) which lines were measured, where the file has a mask
    lines: np.ndarray | None  #: (columns,) which lines are within the encoding limits
    recon: tuple[int, int] | None  #: rows and columns of the image that is wanted
    target: str  #: the name of the data set to compare with; empty: none
    notes: tuple[str, ...]

    @classmethod
    def of(cls, name: str, stored: Any) -> About:
        """
        Args:
            name: of the file, for the notes.
            stored: the open file.

        Raises:
            ValueError: the mask does not fit the k-space.
        """
        shape = tuple(stored["kspace"].shape)
        target = next((key for key in TARGETS[len(shape)] if key in stored), "")
        encoding, notes = _encoding(name, stored)
        kept, lines, recon = None, None, None
        if encoding is not None and encoding.columns == shape[-2]:  # else cropped before
            notes += encoding.notes(name)
            kept = encoding.readout_kept if encoding.readout_kept < encoding.columns else None
        if encoding is not None:
            recon = encoding.recon
            lines = _within_limits(encoding, shape[-1])
        if target and stored[target].ndim == 3 and len(stored[target]) == shape[0]:
            recon = (int(stored[target].shape[-2]), int(stored[target].shape[-1]))
        elif target:
            notes.append(f"{name}: its {target} has the shape {stored[target].shape}: not used")
            target = ""
        mask = _mask(stored, shape[-1])
        if mask is not None and lines is not None:
            mask = mask & lines
        if mask is not None:
            notes.append(_mask_in_words(name, mask, stored))
        size = (shape[-2] if kept is None else kept, shape[-1])
        return cls((*shape[1:-2], *size), kept, mask, lines, recon, target, tuple(notes))


def _encoding(name: str, stored: Any) -> tuple[Encoding | None, list[str]]:
    if "ismrmrd_header" not in stored:
        return None, []
    try:
        return Encoding.from_xml(stored["ismrmrd_header"][()]), []
    except (KeyError, ValueError, ElementTree.ParseError):
        return None, [f"{name}: its ismrmrd_header says nothing of the field of view"]


def _within_limits(encoding: Encoding, columns: int) -> np.ndarray | None:
    """(columns,) which lines the header has numbers for; none, where it says nothing."""
    if encoding.limits is None or encoding.rows != columns:
        return None
    before, after = encoding.missing
    within = np.zeros(columns, bool)
    within[before : columns - after] = True
    return within


def _mask(stored: Any, columns: int) -> np.ndarray | None:
    if "mask" not in stored:
        return None
    mask = np.asarray(stored["mask"][()]).ravel() != 0
    if len(mask) != columns:
        raise ValueError(f"its mask has {len(mask)} values, its k-space {columns} lines")
    if not mask.any():
        raise ValueError("its mask says that no line was measured")
    return mask


def _mask_in_words(name: str, mask: np.ndarray, stored: Any) -> str:
    text = f"{name}: its mask has {int(mask.sum())} of {len(mask)} lines"
    said = [
        f"{key} {float(stored.attrs[key]):g}"
        for key in ("acceleration", "num_low_frequency")
        if key in stored.attrs and np.ndim(stored.attrs[key]) == 0
    ]
    return f"{text} ({', '.join(said)})" if said else text
