"""TIFF and PNG: grey values, and what counts as white."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import equipoise as eq
from equipoise.data.choice import with_chosen_slices
from equipoise.data.formats import open_path, write_images
from equipoise.data.item import Units
from equipoise.data.pick import images_of
from equipoise.errors import UserError

from .make import arrays

tifffile = pytest.importorskip("tifffile")


def sixteen_bits(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 65536, shape).astype(np.uint16)


def test_png(tmp_path):
    pixels = sixteen_bits(2, 10, 12)
    (tmp_path / "in").mkdir()
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(tmp_path / "in" / f"{i}.png")
    items = images_of(open_path(tmp_path / "in"))
    assert np.array_equal(arrays(items), pixels)
    assert {item.units.scale for item in items} == {65535}
    write_images(items, arrays(items).astype(float), tmp_path / "out")
    assert np.array_equal(arrays(open_path(tmp_path / "out")), pixels)


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (bool, 1)])
def test_png_of_other_types(tmp_path, dtype, white):
    pixels = np.random.default_rng(0).integers(0, white + 1, (10, 12)).astype(dtype)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (item,) = open_path(tmp_path)
    assert np.array_equal(item.array(), pixels)
    assert (item.units.scale, item.units_from) == (white, "file")
    write_images([item], white * np.linspace(0, 1, 120).reshape(1, 10, 12), tmp_path / "out")
    (again,) = open_path(tmp_path / "out")
    assert np.abs(again.array() / 65535 - np.linspace(0, 1, 120).reshape(10, 12)).max() < 1e-5


def test_colours_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "colour.png")
    with pytest.raises(UserError, match=r"colour.png: a picture of mode RGB, not grey values"):
        open_path(tmp_path / "colour.png")
    tifffile.imwrite(tmp_path / "c.tif", np.zeros((4, 4, 3), np.uint8), photometric="rgb")
    with pytest.raises(
        UserError, match=r"c.tif: a picture of kind RGB and shape \(4, 4, 3\), not g"
    ):
        open_path(tmp_path / "c.tif")
    tifffile.imwrite(
        tmp_path / "p.tif",
        np.zeros((4, 4), np.uint8),
        photometric="palette",
        colormap=np.zeros((3, 256), np.uint16),
    )
    with pytest.raises(UserError, match="a picture of kind PALETTE"):
        open_path(tmp_path / "p.tif")


def test_tiff(tmp_path):
    pixels = sixteen_bits(2, 10, 12)
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "stack.tif", pixels, photometric="minisblack")
    items = images_of(open_path(tmp_path / "in"))
    assert [item.name for item in items] == ["stack_000", "stack_001"]
    assert np.array_equal(arrays(items), pixels)
    assert {item.units.scale for item in items} == {65535}
    write_images(items, arrays(items).astype(float), tmp_path / "out")
    assert np.allclose(arrays(open_path(tmp_path / "out")), pixels, atol=1)
    tifffile.imwrite(tmp_path / "float.tif", pixels[0].astype(np.float32) / 7)
    (item,) = open_path(tmp_path / "float.tif")
    assert np.allclose(item.array() * 7, pixels[0])


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535), (bool, 1)])
def test_white_may_be_zero(tmp_path, dtype, white):
    pixels = np.random.default_rng(0).integers(0, white + 1, (10, 12)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="miniswhite")
    (item,) = open_path(tmp_path)
    assert np.array_equal(item.array(), white - pixels.astype(int))
    assert item.units.scale == white


def test_white_that_is_zero_needs_a_black(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 4), np.float32), photometric="miniswhite")
    with pytest.raises(UserError, match="white is zero, of numbers of type float32"):
        open_path(tmp_path)


@pytest.mark.parametrize("bits", [10, 12])
def test_white_that_is_zero_of_fewer_bits(tmp_path, bits):
    """Turned about the largest number of the type, the image would be nearly white everywhere."""
    white = 2**bits - 1
    pixels = white - (white * eq.phantoms(1, 32)[0, 0].numpy()).round()
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels.astype(np.uint16), photometric="miniswhite")
    (item,) = open_path(path)
    with pytest.raises(UserError, match="which number is black is not known; save it with black"):
        item.array()


def test_twelve_bits_in_sixteen(tmp_path):
    pixels = sixteen_bits(10, 12) // 16
    tag = [(281, "H", 1, 4095, True)]  # MaxSampleValue
    tifffile.imwrite(tmp_path / "a.tif", pixels, extratags=tag)
    (item,) = open_path(tmp_path)
    assert (item.units.scale, item.units_from) == (4095, "file")
    # The largest value that occurs is no white.
    tifffile.imwrite(tmp_path / "a.tif", pixels, extratags=[(281, "H", 1, 4011, True)])
    (item,) = open_path(tmp_path)
    assert (item.units.scale, item.units_from) == (65535, "nothing")


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.uint16])
def test_what_the_file_does_not_say_is_left_open(tmp_path, dtype):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 4), dtype))
    assert open_path(tmp_path)[0].units_from == "nothing"


def test_thumbnails_are_left_out(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(sixteen_bits(16, 16))
        tiff.write(sixteen_bits(4, 4), subfiletype=1)
    (item,) = open_path(tmp_path)
    assert (item.name, item.shape) == ("a", (16, 16))
    assert item.notes == ("a.tif: 1 thumbnails or masks are left out",)


def test_a_codec_that_is_missing_is_named(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", sixteen_bits(16, 16), compression="zlib")
    monkeypatch.setattr(type(tifffile.TIFF.DECOMPRESSORS), "__contains__", lambda self, key: False)
    with pytest.raises(
        UserError, match=r"compressed with ADOBE_DEFLATE, .*pip install imagecodecs"
    ):
        open_path(tmp_path)


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_a_picture_that_promises_too_much(tmp_path, kind):
    """Its header says 12,000² pixels; a few hundred bytes follow."""
    file = tmp_path / f"a.{kind}"
    if kind == "png":
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(file)
        raw = bytearray(file.read_bytes())
        raw[16:24] = (12000).to_bytes(4, "big") * 2
        raw[29:33] = zlib.crc32(bytes(raw[12:29])).to_bytes(4, "big")
        file.write_bytes(bytes(raw))
    else:
        tifffile = pytest.importorskip("tifffile")
        tifffile.imwrite(file, np.zeros((8, 8), np.uint16))
        with tifffile.TiffFile(file, mode="r+b") as tiff:
            tiff.pages[0].tags["ImageWidth"].overwrite(12000)
            tiff.pages[0].tags["ImageLength"].overwrite(12000)
    with pytest.raises(UserError, match=r"promises \d+ bytes of data"):
        open_path(file)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("by", [{"imagej": True}, {}, {"bigtiff": True}], ids=str)
def test_pictures_behind_the_only_page(tmp_path, dtype, by):
    """As ImageJ writes more than four gigabytes: none of them is lost."""
    stack = (4000 * np.random.default_rng(0).random((5, 8, 6))).astype(dtype)
    tifffile.imwrite(tmp_path / "stack.tif", stack, truncate=True, **by)
    items = open_path(tmp_path / "stack.tif")
    assert [item.name for item in items] == [f"stack_00{k}" for k in range(5)]
    assert np.array_equal([item.array() for item in items], stack)


def test_packed_bits_are_whole(tmp_path):
    bits = np.random.default_rng(0).random((9, 13)) < 0.5
    Image.fromarray(bits).save(tmp_path / "bits.tif")
    (item,) = open_path(tmp_path / "bits.tif")
    assert np.array_equal(item.array(), bits)


def test_twelve_bits_are_written_as_twelve_bits(tmp_path):
    """What the run reads again by ``data.units`` is what it wrote."""
    numbers = np.random.default_rng(0).integers(0, 4096, (8, 8)).astype(np.uint16)
    Image.fromarray(numbers).save(tmp_path / "a.png")
    (item,) = open_path(tmp_path / "a.png")
    item = replace(item, units=Units(scale=4095))
    write_images([item], numbers[None].astype(float), tmp_path / "out")
    assert np.array_equal(open_path(tmp_path / "out")[0].array(), numbers)


@pytest.mark.parametrize("channels", [2, 5])
def test_channels_in_the_last_axis_are_no_slivers(tmp_path, channels):
    """tifffile takes the first axis of such an array for pages."""
    tifffile.imwrite(tmp_path / "a.tif", np.ones((32, 32, channels), np.uint16))
    with pytest.raises(UserError, match=rf"32×{channels} pixels.*last axis holds channels"):
        images_of(open_path(tmp_path))


@pytest.mark.parametrize(("shape", "first"), [((32, 32, 3), True), ((3, 32, 32), False)])
def test_colours_are_told_how_to_be_saved(tmp_path, shape, first):
    tifffile.imwrite(tmp_path / "a.tif", np.ones(shape, np.uint8), photometric="rgb")
    with pytest.raises(UserError, match="each channel as an image of its own") as raised:
        images_of(open_path(tmp_path))
    assert ("transpose(2, 0, 1)" in str(raised.value)) == first


@pytest.mark.parametrize(
    ("by", "axes", "first"),
    [("imagej", "ZCYX", "0:6:2"), ("ome", "ZCYX", "0:6:2"), ("ome", "CZYX", "0:3")],
)
def test_channels_that_become_images_are_said_and_one_of_them_can_be_had(tmp_path, by, axes, first):
    values = np.arange(2 * 3 * 16 * 16, dtype=np.uint16).reshape(2, 3, 16, 16)
    shaped = values if axes == "CZYX" else values.swapaxes(0, 1)
    path = tmp_path / ("cells.ome.tif" if by == "ome" else "cells.tif")
    kwargs = {"imagej": True} if by == "imagej" else {}
    tifffile.imwrite(path, np.ascontiguousarray(shaped), metadata={"axes": axes}, **kwargs)
    items = open_path(path)
    (note,) = items[0].notes
    assert "holds 2 channels, and each becomes an image of its own" in note
    assert f"data.slices={first}," in note
    chosen, _ = with_chosen_slices(items, first)
    assert np.array_equal(np.stack([item.array() for item in chosen]), values[0])


def test_slices_and_times_are_images_without_a_word(tmp_path):
    values = np.zeros((4, 16, 16), np.uint16)
    for axes in ("ZYX", "TYX"):
        tifffile.imwrite(tmp_path / "a.tif", values, metadata={"axes": axes}, imagej=True)
        assert all(not item.notes for item in open_path(tmp_path / "a.tif"))
