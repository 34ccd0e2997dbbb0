"""BART's pairs of files."""

from __future__ import annotations

import numpy as np
import pytest

from equipoise.data.formats import open_path
from equipoise.data.pick import acquisitions_of
from equipoise.errors import UserError

from .make import arrays, complex_array, make_bart


@pytest.mark.parametrize("name", ["b.cfl", "b.hdr", ""])
def test_kspace(tmp_path, name):
    k = complex_array(3, 10, 12)
    make_bart(tmp_path / "b", k)
    assert np.array_equal(arrays(acquisitions_of(open_path(tmp_path / name))), k[None])


def test_one_coil(tmp_path):
    k = complex_array(1, 10, 12)
    make_bart(tmp_path / "b", k)
    (item,) = open_path(tmp_path / "b.cfl")
    assert item.shape == (10, 12)
    assert np.array_equal(item.array(), k[0])


def test_bad_files(tmp_path):
    make_bart(tmp_path / "b", complex_array(3, 10, 12))
    data = (tmp_path / "b.cfl").read_bytes()
    (tmp_path / "b.cfl").write_bytes(data[:-8])
    wanted = r"b.hdr says \[10, 12, 1, 3, 1\], which is 2880 bytes; the file has 2872"
    with pytest.raises(UserError, match=wanted):
        open_path(tmp_path / "b.cfl")
    (tmp_path / "b.hdr").write_text("# Dimensions\n10 -12\n")
    with pytest.raises(UserError, match=r"b.hdr: no line '# Dimensions' with positive numbers"):
        open_path(tmp_path / "b.cfl")
    (tmp_path / "b.hdr").write_text("# Dimensions\n2 3 5 12\n")
    with pytest.raises(UserError, match=r"dimensions \[2, 3, 5, 12\]: split it"):
        open_path(tmp_path / "b.cfl") if (tmp_path / "b.cfl").write_bytes(bytes(2880)) else None
    (tmp_path / "b.hdr").unlink()
    with pytest.raises(UserError, match=r"has no b.hdr beside it"):
        open_path(tmp_path / "b.cfl")
