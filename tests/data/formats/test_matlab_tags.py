"""MATLAB files of version 5 that do not hold together are noticed before SciPy reads them."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from equipoise.data.formats.matlab_tags import check_tags

CONTENTS = {
    "number": 3.0,
    "matrix": np.arange(12.0).reshape(3, 4),
    "small": np.uint8([1, 2]),
    "empty": np.zeros((0, 3)),
    "complex": np.ones((2, 2)) * 1j,
    "truth": np.array([[True, False]]),
    "text": "ångström",
    "letters": np.array(["ab", "cd"]),
    "cells": np.array([np.ones((2, 2)), "x", 3.0], dtype=object),
    "scan": {"sinogram": np.ones((5, 6)), "parameters": {"angles": np.arange(5.0), "n": "x"}},
    "structs": np.array([(1.0, "a"), (2.0, "b")], dtype=[("p", object), ("q", object)]),
    "sparse": scipy.sparse.random(6, 7, 0.3, random_state=0, format="csc"),
}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", CONTENTS)
def test_what_scipy_writes_holds_together(tmp_path, name, compressed):
    file = tmp_path / "x.mat"
    scipy.io.savemat(file, {name: CONTENTS[name], "y": 1.0}, do_compression=compressed)
    check_tags(file)


def test_version_4_is_left_to_its_reader(tmp_path):
    scipy.io.savemat(tmp_path / "x.mat", {"x": np.ones((3, 3))}, format="4")
    check_tags(tmp_path / "x.mat")


def damaged(file: Path, old: bytes, new: bytes) -> None:
    """The first variable changed."""
    content = file.read_bytes()
    assert old in content
    file.write_bytes(content.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("matrix", b"\x03\0\0\0\x04\0\0\0", b"\x03\0\0\0\x05\0\0\0"),  # a dimension
        ("matrix", b"\x09\0\0\0\x60\0\0\0", b"\x0a\0\0\0\x60\0\0\0"),  # a type
        ("matrix", b"\x09\0\0\0\x60\0\0\0", b"\x09\0\0\0\x68\0\0\0"),  # a length
        ("sparse", b"\x06\0\0\0\x07\0\0\0", b"\x02\0\0\0\x07\0\0\0"),  # rows
        ("scan", b"\x05\0\x04\0\x0b\0\0\0", b"\x05\0\x04\0\0\0\0\0"),  # letters of a name
    ],
)
def test_what_does_not_hold_together_is_an_error(tmp_path, name, old, new):
    file = tmp_path / "x.mat"
    scipy.io.savemat(file, {name: CONTENTS[name]})
    damaged(file, old, new)
    with pytest.raises((ValueError, EOFError)):
        check_tags(file)


def test_cut_short(tmp_path):
    file = tmp_path / "x.mat"
    for compressed in (False, True):
        scipy.io.savemat(
            file, {"x": np.random.default_rng(0).random((9, 9))}, do_compression=compressed
        )
        file.write_bytes(file.read_bytes()[:-30])
        with pytest.raises((ValueError, EOFError, zlib.error)):
            check_tags(file)
