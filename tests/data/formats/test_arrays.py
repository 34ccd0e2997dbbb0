"""NumPy's arrays: measurements and k-space, or images where ``data.kind`` says so."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from equipoise.data.formats import holds_images, may_hold_either, open_path, write_images
from equipoise.data.load import load_dataset
from equipoise.data.pick import acquisitions_of, images_of, measurements_of
from equipoise.data.scan import Scan
from equipoise.data.settings import ImageSettings
from equipoise.errors import UserError
from equipoise.imaging.settings import MRISettings, ParallelBeamSettings

from .make import arrays, complex_array


def test_measurements(tmp_path):
    y = np.random.default_rng(0).normal(size=(3, 20, 91)).astype(np.float32)
    np.save(tmp_path / "stack.npy", y)
    np.save(tmp_path / "zone.npy", y[0])
    items = measurements_of(open_path(tmp_path), (1, 20, 91), peak=1.0)
    assert [item.name for item in items] == ["stack_000", "stack_001", "stack_002", "zone"]
    assert np.array_equal(items[3].array(), items[0].array())
    np.save(
        tmp_path / "zone.npy", y[:, None]
    )  # (B, 1, views, detectors), as the library makes them
    items = measurements_of(open_path(tmp_path / "zone.npy"), (1, 20, 91), peak=1.0)
    assert np.array_equal(arrays(items), y[:, None])
    k = np.random.default_rng(0).normal(size=(4, 8)) + 1j
    np.save(tmp_path / "k.npy", k)
    (item,) = measurements_of(open_path(tmp_path / "k.npy"), (2, 4, 8), peak=1.0)
    assert np.array_equal(item.array(), k)


def test_bad_measurements(tmp_path):
    def measurements():
        return arrays(measurements_of(open_path(tmp_path), (1, 20, 91), peak=1.0))

    np.save(tmp_path / "y.npy", np.zeros((20, 90)))
    wanted = r"y.npy: shape \(20, 90\) does not fit the geometry, which measures \(20, 91\)"
    with pytest.raises(UserError, match=wanted):
        measurements()
    bad = np.zeros((20, 91))
    bad[3, 7] = np.nan
    np.save(tmp_path / "y.npy", bad)
    wanted = r"y.npy: 1 of 1820 values are NaN or infinite, the first at index \(3, 7\)"
    with pytest.raises(UserError, match=wanted):
        measurements()
    np.save(tmp_path / "y.npy", np.zeros((20, 91), dtype=complex))
    with pytest.raises(UserError, match="complex numbers, but this geometry measures real ones"):
        measurements()
    (tmp_path / "y.npy").write_bytes(b"not numpy at all")
    with pytest.raises(UserError, match=r"y.npy: cannot be read as .npy"):
        measurements()


@pytest.mark.parametrize(
    ("shape", "remedy"),
    [
        ((15, 16), r"set data\.size, .* or crop them to \(16, 16\)"),
        ((16, 16, 3), r"looks like colours.*a\.mean\(-1\)"),
        ((256,), r"save a\.reshape\(16, 16\)"),
        ((2, 2, 16, 16), "set physics and data.size"),
    ],
)
def test_measurements_of_no_rays_have_remedies_of_their_own(tmp_path, shape, remedy):
    np.save(tmp_path / "y.npy", np.zeros(shape))
    wanted = rf"does not fit the operator, which measures \(16, 16\).*{remedy}"
    with pytest.raises(UserError, match=wanted):
        measurements_of(open_path(tmp_path), (1, 16, 16), 1.0, of_rays=False)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_kspace(tmp_path, suffix):
    k = complex_array(3, 10, 12)
    k[:, 5, 6] *= 100  # the zero frequency
    save = np.save if suffix == "npy" else np.savez
    save(tmp_path / f"k.{suffix}", k)
    items = open_path(tmp_path)
    assert np.array_equal(acquisitions_of(items)[0].array(), k)
    assert not holds_images(items)
    assert may_hold_either(items)
    with pytest.raises(UserError, match="holds complex k-space, not images"):
        images_of(items)
    save(tmp_path / f"k.{suffix}", np.zeros((4, 4)))
    wanted = r"expected complex k-space.*got real numbers of shape \(4, 4\)"
    with pytest.raises(UserError, match=wanted):
        acquisitions_of(open_path(tmp_path))


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ((24, 20, 3), r"shape \(24, 20, 3\) looks like the colours of one image.*a\[\.\.\., 0\]"),
        ((24, 20, 4), "looks like the colours of one image"),
        ((24, 20, 2), r"looks like real and imaginary parts of one image.*1j \* a"),
    ],
)
def test_colours_are_no_slices(tmp_path, shape, wanted):
    np.save(tmp_path / "a.npy", np.ones(shape))
    with pytest.raises(UserError, match=wanted):
        images_of(open_path(tmp_path / "a.npy"))


@pytest.mark.parametrize(
    ("shape", "told"), [((24, 24, 9), True), ((24, 9, 9), False), ((24, 20, 9), False)]
)
def test_slices_that_may_be_counted_last_are_told(tmp_path, shape, told):
    np.save(tmp_path / "a.npy", np.ones(shape))
    items = images_of(open_path(tmp_path / "a.npy"))
    assert len(items) == 24
    notes = {note for item in items for note in item.notes}
    assert len(notes) == told
    assert not told or "24 images of 24×9; if the last axis counts them" in notes.pop()


def test_several_arrays_in_one_file(tmp_path):
    values = {"a": np.ones((4, 4)), "b": np.zeros((4, 4), np.uint8)}
    np.savez_compressed(tmp_path / "z.npz", **values)
    items = images_of(open_path(tmp_path))
    assert [item.name for item in items] == ["z_a", "z_b"]
    assert np.array_equal(arrays(items), np.stack(list(values.values())))


@pytest.mark.parametrize("beside", ["maps", "coil_sens", "flats", "dark", "mask", "truth"])
def test_what_stands_beside_measurements_is_not_read_as_one(tmp_path, beside):
    values = {"scan": np.ones((4, 4)), beside: np.zeros((4, 4))}
    np.savez(tmp_path / "z.npz", **values)
    with pytest.raises(UserError, match=rf"\(scan, {beside}\).*choose one with data.variable"):
        open_path(tmp_path)
    (item,) = open_path(tmp_path, "scan")
    assert np.array_equal(item.array(), values["scan"])
    np.savez(tmp_path / "z.npz", **{f"{beside}1": np.ones((4, 4)), f"{beside}2": np.ones((4, 4))})
    assert len(open_path(tmp_path)) == 2  # there is nothing else


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_complex_images_are_images_where_it_is_said(tmp_path, suffix):
    image = complex_array(2, 16, 16)
    save = np.save if suffix == "npy" else np.savez
    save(tmp_path / f"a.{suffix}", image)
    scan = Scan.planned(MRISettings(acceleration=2), 16, 0)
    settings = ImageSettings(path=tmp_path, size=16, units=1.0)
    dataset = load_dataset(settings, scan)
    found = dataset.require_truth()
    assert np.allclose(found[:, 0] + 1j * found[:, 1].numpy(), image, atol=1e-6)
    kspace = np.fft.fftshift(np.fft.fft2(np.ones((2, 16, 16)) + 0.1 * image), (-2, -1))
    save(tmp_path / f"a.{suffix}", kspace)
    with pytest.raises(UserError, match="holds complex k-space, not images"):
        load_dataset(settings, scan)


def test_what_is_cut_short_is_said(tmp_path):
    big = tmp_path / "big.npy"
    np.save(big, np.zeros(1000))
    big.write_bytes(big.read_bytes()[:500])
    wanted = r"its header promises 8000 bytes of data, 372 are there\); the file is cut short"
    with pytest.raises(UserError, match=wanted):
        open_path(big)


def test_an_archive_that_promises_too_much(tmp_path):
    """Noticed before memory is set aside."""
    stream = io.BytesIO()
    promise = {"shape": (100, 100), "fortran_order": False, "descr": "<f8"}
    np.lib.format.write_array_header_1_0(stream, promise)
    with zipfile.ZipFile(tmp_path / "z.npz", "w") as archive:
        archive.writestr("a.npy", stream.getvalue() + bytes(8 * 100 * 99))
    with pytest.raises(UserError, match=r"a.npy promises 80000 bytes of data, 79328 are there"):
        open_path(tmp_path)


def test_objects_are_no_numbers(tmp_path):
    np.save(tmp_path / "o.npy", np.array([{}, {}]), allow_pickle=True)
    with pytest.raises(UserError, match="holds object, not numbers"):
        open_path(tmp_path)
    np.savez(tmp_path / "o.npz", np.array(["text"]))
    with pytest.raises(UserError, match="holds <U4, not numbers"):
        open_path(tmp_path / "o.npz")


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    np.save(tmp_path / "a.npy", np.full((1000, 8, 8), np.nan))
    items = images_of(open_path(tmp_path))
    assert len(items) == 1000
    with pytest.raises(UserError, match="64 of 64 values are NaN"):
        items[3].array()


def test_images_are_not_distorted(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((12, 8)))
    wanted = r"the image has 12×8 pixels, which data\.size=4 would distort"
    with pytest.raises(UserError, match=wanted):
        images_of(open_path(tmp_path), 4)


def test_names_that_would_collide(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 4, 4)))
    np.save(tmp_path / "a_000.npy", np.zeros((4, 4)))
    np.save(tmp_path / "preview.npy", np.zeros((4, 4)))
    items = images_of(open_path(tmp_path))
    assert [item.name for item in items] == ["a_000", "a_001", "a_000-2", "preview_"]
    assert len(set(write_images(items, arrays(items), tmp_path / "out"))) == 4


def test_empty_arrays_hold_no_image(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((0, 4, 4)))
    with pytest.raises(UserError, match="nothing to read"):
        images_of(open_path(tmp_path))


def test_numbers_beside_an_array_are_left_out_and_said(tmp_path):
    sinogram = np.random.default_rng(0).random((12, 46)).astype(np.float32)
    np.savez(tmp_path / "s.npz", sino=sinogram, pixel=0.5, angles=np.arange(12.0))
    (item,) = open_path(tmp_path / "s.npz")
    assert np.array_equal(item.array(), sinogram)
    assert any("pixel, angles left out" in note for note in item.notes)
    (angles,) = open_path(tmp_path / "s.npz", "angles")
    assert angles.shape == (12,)


@pytest.mark.parametrize("shape", [(0, 12, 46), (3, 0)])
def test_arrays_of_no_numbers_are_refused(tmp_path, shape):
    np.save(tmp_path / "e.npy", np.zeros(shape, np.float32))
    with pytest.raises(UserError, match="has nothing to read: an array of shape"):
        open_path(tmp_path / "e.npy")


def test_truth_values_are_numbers(tmp_path):
    mask = np.random.default_rng(0).random((8, 8)) > 0.5
    np.save(tmp_path / "b.npy", mask)
    (item,) = open_path(tmp_path / "b.npy")
    assert np.array_equal(item.array(), mask.astype(np.float32))
    scan = Scan.planned(ParallelBeamSettings(angles=4), 8)
    dataset = load_dataset(ImageSettings(path=tmp_path / "b.npy", size=8), scan)
    assert float(dataset.require_truth().max()) == 1.0


def test_numbers_in_names_count_as_numbers(tmp_path):
    """view_2 comes before view_10, in folders too: an order of views is an order of angles."""
    names = [f"scan_{k}/view_{v}" for k in (1, 2, 10) for v in (1, 2, 9, 10, 11, 100)]
    for name in reversed(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / f"{name}.npy", np.full((4, 4), 7.0))
    found = [
        item.file.relative_to(tmp_path).with_suffix("").as_posix() for item in open_path(tmp_path)
    ]
    assert found == names
