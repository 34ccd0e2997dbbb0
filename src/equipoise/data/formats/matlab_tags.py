"""Whether a MATLAB file of version 5 holds together, element by element: SciPy's reader trusts what
its tags say, and a file with a few flipped bits ends the whole process.

"MAT-File Format", The MathWorks, 2023, chapter 1.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

HEADER = 128
#: Types of elements, and bytes of one of their numbers.
SIZES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8, 16: 1, 17: 2, 18: 4}
INT8, INT32, UINT32, MATRIX, COMPRESSED = 1, 5, 6, 14, 15
#: Classes of arrays.
CELL, STRUCT, OBJECT, CHAR, SPARSE, LAST_NUMBER, LAST = 1, 2, 3, 4, 5, 15, 17
#: Elements within elements, a compressed one's bytes, and a name's letters.
DEEPEST, LARGEST, LONGEST_NAME = 30, 2**34, 64


class Element(NamedTuple):
    kind: int
    data: memoryview


def check_tags(file: Path) -> None:
    """Nothing, if every element is as long as its tag and its dimensions say.

    Raises:
        ValueError: one is not.
        EOFError: the file ends before an element does.
    """
    content = file.read_bytes()
    if content[:1] == b"\0" or len(content) < HEADER:
        return  # version 4, whose reader checks its sizes
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None:
        raise ValueError("its header does not say the order of its bytes")
    for element in _elements(memoryview(content)[HEADER:], order, padded=False):
        _check_variable(element, order)


def _check_variable(element: Element, order: str) -> None:
    if element.kind == COMPRESSED:
        inflater = zlib.decompressobj()
        inside = inflater.decompress(element.data, LARGEST)
        for inner in _elements(memoryview(inside), order):
            _check_variable(inner, order)
    elif element.kind == MATRIX:
        _check_matrix(element.data, order, 0)


def _elements(data: memoryview, order: str, padded: bool = True) -> Iterator[Element]:
    at = 0
    while at + 8 <= len(data):
        first, length = (int(n) for n in np.frombuffer(data[at : at + 8], f"{order}u4"))
        if first >> 16:  # a small one: its length stands in the upper half
            kind, length, start, step = first & 0xFFFF, first >> 16, at + 4, 8
            if length > 4:
                raise ValueError(f"an element of {length} bytes stands in 4")
        else:
            kind, start = first, at + 8
            is_padded = padded or kind != COMPRESSED
            step = 8 + (length + 7) // 8 * 8 if is_padded else 8 + length
        if kind not in SIZES and kind not in (MATRIX, COMPRESSED):
            raise ValueError(f"an element of the unknown type {kind}")
        if start + length > len(data):
            raise EOFError(f"an element of {length} bytes, of which {len(data) - start} are there")
        if length % SIZES.get(kind, 1):
            raise ValueError(f"{length} bytes of numbers of {SIZES[kind]}")
        yield Element(kind, data[start : start + length])
        at += step


def _check_matrix(data: memoryview, order: str, depth: int) -> None:
    if not len(data):
        return  # an empty one, in a cell or a field
    if depth > DEEPEST:
        raise ValueError("cells within cells without an end")
    flags, dims, name, *parts = _elements(data, order)
    if (flags.kind, len(flags.data)) != (UINT32, 8) or dims.kind != INT32 or name.kind != INT8:
        raise ValueError("a matrix does not begin with flags, dimensions and a name")
    flag = int(np.frombuffer(flags.data[:4], f"{order}u4")[0])
    shape = [int(n) for n in np.frombuffer(dims.data, f"{order}i4")]
    kind = flag & 0xFF
    if min(shape, default=-1) < 0 or not 1 <= kind <= LAST:
        raise ValueError(f"a matrix of class {kind} and shape {shape}")
    count = math.prod(shape)
    if kind in (CELL, STRUCT, OBJECT):
        _check_nested(kind, parts, count, order, depth)
    elif kind == SPARSE:
        _check_sparse(parts, shape, order)
    elif kind <= LAST_NUMBER:
        wanted = 2 if flag & 0x800 and kind != CHAR else 1
        _check_numbers(parts[:wanted], wanted, count, kind)


def _check_numbers(parts: list[Element], wanted: int, count: int, kind: int) -> None:
    if len(parts) < wanted:
        raise ValueError("a matrix without its numbers")
    for part in parts:
        if part.kind not in SIZES:
            raise ValueError("a matrix whose numbers are none")
        there = len(part.data) // SIZES[part.kind]
        if there != count and kind != CHAR:  # letters may take several bytes, or none
            raise ValueError(f"a matrix of {count} numbers holds {there}")


def _check_nested(kind: int, parts: list[Element], count: int, order: str, depth: int) -> None:
    fields = 1
    if kind != CELL:
        parts = parts[1:] if kind == OBJECT else parts
        length, names, *parts = parts
        size = int(np.frombuffer(length.data[:4], f"{order}i4")[0]) if len(length.data) else 0
        if length.kind != INT32 or names.kind != INT8 or not 0 < size <= LONGEST_NAME:
            raise ValueError(f"a struct whose names have {size} letters")
        if len(names.data) % size:
            raise ValueError("a struct whose names do not fill their room")
        fields = len(names.data) // size
    if len(parts) != count * fields:
        raise ValueError(f"{count * fields} fields or cells, of which {len(parts)} are there")
    for part in parts:
        if part.kind != MATRIX:
            raise ValueError("a field or cell that is no matrix")
        _check_matrix(part.data, order, depth + 1)


def _check_sparse(parts: list[Element], shape: list[int], order: str) -> None:
    if len(parts) < 3 or len(shape) != 2 or {parts[0].kind, parts[1].kind} != {INT32}:
        raise ValueError("a sparse matrix without its places")
    rows, columns = (np.frombuffer(part.data, f"{order}i4") for part in parts[:2])
    is_right = len(columns) == shape[1] + 1 and columns[0] == 0 and (np.diff(columns) >= 0).all()
    used = int(columns[-1]) if is_right else 0
    numbers = len(parts[2].data) // SIZES.get(parts[2].kind, 1)
    if not is_right or used > min(len(rows), numbers):
        raise ValueError("a sparse matrix whose columns do not add up")
    if used and not (rows[:used].min() >= 0 and rows[:used].max() < shape[0]):
        raise ValueError("a sparse matrix with numbers outside")
