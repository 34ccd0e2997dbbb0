"""One registry: which format reads a path, and one line that adds a format."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from equipoise.data.formats import (
    FORMATS,
    Format,
    base,
    holds_images,
    may_hold_either,
    open_path,
    register,
    write_images,
)
from equipoise.data.formats.base import LONGEST_MESSAGE, listed, remedy_by_kind, shortened
from equipoise.data.item import Item
from equipoise.data.pick import images_of
from equipoise.errors import UserError

from .make import SUFFIX, arrays, hounsfield, make_dicom, make_valid


def test_empty_and_missing(tmp_path):
    with pytest.raises(UserError, match="no file in this folder can be read"):
        open_path(tmp_path)
    with pytest.raises(UserError, match="no such file or folder"):
        open_path(tmp_path / "nowhere")
    (tmp_path / "x.txt").write_text("hello")
    with pytest.raises(UserError, match="unknown kind of file"):
        open_path(tmp_path / "x.txt")
    np.savez(tmp_path / "none.npz")
    with pytest.raises(UserError, match=r"none.npz: "):
        open_path(tmp_path / "none.npz")


def test_several_kinds_in_one_folder(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 4)))
    np.savez(tmp_path / "a.npz", np.zeros((4, 4)))
    with pytest.raises(UserError, match=r"several kinds of files \(npy, npz\)"):
        open_path(tmp_path)


def test_slices_without_suffix_beside_a_picture(tmp_path):
    """Neither is passed over in silence."""
    make_dicom(tmp_path / "IM0001", hounsfield() + 1024)
    make_valid(tmp_path, "png")
    with pytest.raises(UserError, match=r"several kinds of files \(dicom, png\)"):
        open_path(tmp_path)


def test_nothing_is_overwritten(tmp_path):
    np.save(tmp_path / "y.npy", np.zeros((20, 91), dtype=np.float32))
    items = open_path(tmp_path / "y.npy")
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="is not empty; nothing was written"):
        write_images(items, np.zeros((1, 4, 4)), out)
    with pytest.raises(UserError, match="is not empty; nothing was written"):
        write_images(items, np.zeros((1, 4, 4)), out / "mine.txt")
    assert [p.name for p in out.iterdir()] == ["mine.txt"]


def test_what_the_formats_hold(tmp_path):
    found = {}
    for kind in SUFFIX:
        folder = tmp_path / kind
        folder.mkdir()
        items = open_path(make_valid(folder, kind))
        assert {item.format for item in items} == {kind}
        found[kind] = (holds_images(items), may_hold_either(items))
    images = dict.fromkeys(("dicom", "nifti", "hdf5", "png"), (True, False))
    arrays = dict.fromkeys(("npy", "npz", "mat"), (False, True))
    measured = dict.fromkeys(("ismrmrd", "bart", "exchange"), (False, False))
    either = dict.fromkeys(("tiff", "metaimage", "nrrd", "mrc"), (True, True))
    assert found == images | either | arrays | measured


@pytest.mark.parametrize("kind", sorted(set(SUFFIX) - {"bart", "nifti"}))
def test_files_are_known_by_their_content(tmp_path, kind):
    file = make_valid(tmp_path, kind)
    values = arrays(open_path(file))
    other = file.rename(file.with_suffix(".png" if kind != "png" else ".tif"))
    for path in (other, tmp_path):
        assert {item.format for item in open_path(path)} == {kind}
        assert np.array_equal(arrays(open_path(path)), values)


class Raw(Format):
    """What a user may write."""

    name = "raw"
    suffixes = (".raw",)
    needs = "A .raw file holds 8 × 8 numbers of type float32."

    def open(self, path: Path) -> list[Item]:
        return [self._item(file) for file in self.files(path)]

    def _item(self, file: Path) -> Item:
        return Item(file.stem, file, (8, 8), partial(self._read, file), format=self.name)

    def _read(self, file: Path) -> np.ndarray:
        with self.reading(file):
            return np.fromfile(file, np.float32).reshape(8, 8)


def test_a_format_of_ones_own(tmp_path):
    registered = dict(FORMATS)
    known = set(base._KNOWN_SUFFIXES)
    try:
        register(Raw())
        values = np.random.default_rng(0).random((2, 8, 8)).astype(np.float32)
        (tmp_path / "in").mkdir()
        for name, image in zip("ab", values, strict=True):
            image.tofile(tmp_path / "in" / f"{name}.raw")
        items = images_of(open_path(tmp_path / "in"))
        assert holds_images(items)
        assert not may_hold_either(items)
        assert np.array_equal(arrays(items), values)
        paths = write_images(items, values.astype(float), tmp_path / "out")
        assert [path.name for path in paths] == ["a.npy", "b.npy"]
        assert np.array_equal(np.load(paths[1]), values[1])
        (tmp_path / "in" / "a.raw").write_bytes(b"1234")
        with pytest.raises(
            UserError, match=r"a.raw: cannot be read as RAW \(ValueError: .*A .raw f"
        ):
            items[0].array()
    finally:
        FORMATS.clear()
        FORMATS.update(registered)
        base._KNOWN_SUFFIXES.clear()
        base._KNOWN_SUFFIXES.update(known)


def test_every_error_of_a_family_ends_in_what_it_needs(tmp_path):
    for kind, suffix in SUFFIX.items():
        file = tmp_path / f"x{suffix}"
        file.write_bytes(b"nothing of the kind")
        if kind == "ismrmrd":  # which is HDF5, if it is anything
            continue
        with pytest.raises(UserError) as error:
            arrays(open_path(file))
        assert str(error.value).endswith(FORMATS[kind].needs)
        assert len(FORMATS[kind].needs) <= 200


def test_remedies_follow_from_the_kind_of_error():
    remedies = {
        kind: remedy_by_kind(kind("cut short"))
        for kind in (PermissionError, EOFError, KeyError, MemoryError, ValueError, OSError)
    }
    assert len(set(remedies.values())) == len(remedies)
    assert "cut short" in remedies[EOFError]
    assert "cut short" not in remedies[ValueError]
    assert remedies[KeyError] == remedy_by_kind(AttributeError("x"))


def test_messages_are_short(tmp_path):
    assert len(shortened("x" * 5000)) <= LONGEST_MESSAGE
    assert shortened("a\nb") == "a b"
    assert listed(range(721)) == "0, 1, 2, 3, 4 and 716 more"
    error = Raw().error(Path("/" + "long/" * 200 + "x.raw"), "wrong " * 500)
    assert len(str(error)) <= LONGEST_MESSAGE
    assert str(error).endswith(Raw.needs)
    assert "x.raw: wrong" in str(error)
