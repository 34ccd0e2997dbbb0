"""MATLAB's files: one matrix, one of several by name, and scans with their parameters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io

from equipoise.data.formats import first_item, open_path
from equipoise.errors import UserError

from .make import DATA, real_data

PARAMETERS = {
    "geometryType": "Cone",
    "distanceSourceOrigin": 41.0,
    "distanceSourceDetector": 55.0,
    "distanceUnit": "cm",
    "angles": np.array([0.0, 30.0, 61.5]),
    "pixelSize": 0.005,
    "binningPost": 4,
    "numDetectorsPost": 5,
    "effectivePixelSizePost": 0.0149,
}
SINOGRAM = np.random.default_rng(0).random((3, 5))


def save(file: Path, **variables) -> Path:
    scipy.io.savemat(file, variables)
    return file


def save_7_3(file: Path, tree: dict) -> Path:
    """As MATLAB lays it out: HDF5 behind 512 bytes, axes reversed, text as numbers."""
    h5py = pytest.importorskip("h5py")

    def put(group, content):
        for name, value in content.items():
            if isinstance(value, dict):
                put(group.create_group(name), value)
            elif isinstance(value, str):
                codes = np.array([[ord(c)] for c in value], dtype=np.uint16)
                group.create_dataset(name, data=codes).attrs["MATLAB_class"] = np.bytes_("char")
            else:
                group.create_dataset(name, data=np.atleast_2d(value).T)

    with h5py.File(file, "w", userblock_size=512) as stored:
        put(stored, tree)
    with file.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return file


@pytest.mark.parametrize("version", [5, 7.3])
@pytest.mark.parametrize("name", ["CtDataFull", "CtDataLimited", "CtDataSparse", "CtData"])
def test_a_scan_and_its_parameters(tmp_path, version, name):
    """Lengths in millimetres, angles in this package's sense, whatever version wrote them."""
    tree = {name: {"type": "2D", "sinogram": SINOGRAM, "parameters": PARAMETERS}}
    file = tmp_path / "scan.mat"
    save(file, **tree) if version == 5 else save_7_3(file, tree)
    (item,) = open_path(file)
    assert np.array_equal(item.array(), SINOGRAM)
    assert (item.name, item.patient, item.shape) == ("scan", "scan", (3, 5))
    geometry = item.geometry
    assert geometry.beam == "fan"
    assert geometry.angles == (0.0, -30.0, -61.5)
    assert (geometry.source_to_axis, geometry.source_to_detector) == (410.0, 550.0)
    assert geometry.detector_pitch == pytest.approx(0.2)
    assert geometry.image_pixel == pytest.approx(0.149)
    assert geometry.detectors == 5
    assert "scan.mat" in geometry.source


def test_what_a_scan_does_not_say(tmp_path):
    some = {"angles": [0.0, 1.0, 2.0]}
    file = save(tmp_path / "a.mat", scan={"sinogram": SINOGRAM, "parameters": some})
    geometry = first_item(file).geometry
    assert geometry.angles == (0.0, -1.0, -2.0)
    assert geometry.source_to_axis is geometry.detector_pitch is geometry.image_pixel is None
    inches = {**some, "distanceUnit": "inch"}
    file = save(tmp_path / "b.mat", scan={"sinogram": SINOGRAM, "parameters": inches})
    with pytest.raises(UserError, match=r"distanceUnit must be one of mm, cm.*got 'inch'"):
        open_path(file)
    negative = {**some, "distanceSourceOrigin": -3.0}
    file = save(tmp_path / "c.mat", scan={"sinogram": SINOGRAM, "parameters": negative})
    with pytest.raises(UserError, match=r"c.mat: cannot be read.*source_to_axis"):
        open_path(file)


def test_axes_that_are_swapped_and_angles_that_do_not_fit(tmp_path):
    file = save(tmp_path / "a.mat", s={"sinogram": SINOGRAM.T, "parameters": PARAMETERS})
    (item,) = open_path(file)
    assert np.array_equal(item.array(), SINOGRAM)
    assert item.geometry.detectors == 5
    assert "transposed" in item.notes[0]
    more = {**PARAMETERS, "angles": np.arange(7.0)}
    (item,) = open_path(save(tmp_path / "b.mat", s={"sinogram": SINOGRAM, "parameters": more}))
    assert item.geometry.angles is None
    assert "names 7 angles for a sinogram of 3 × 5" in item.notes[0]


@pytest.mark.parametrize("version", [5, 7.3])
def test_one_matrix_and_one_of_several(tmp_path, version):
    write = save_7_3 if version == 7.3 else lambda file, tree: save(file, **tree)
    file = write(tmp_path / "one.mat", {"x": SINOGRAM, "pixel": 0.3, "by": "somebody"})
    (item,) = open_path(file)
    assert np.array_equal(item.array(), SINOGRAM)
    assert item.geometry is None
    file = write(tmp_path / "two.mat", {"x": SINOGRAM, "y": 2 * SINOGRAM, "z": {"w": SINOGRAM}})
    with pytest.raises(UserError, match=r"x \(3×5 float64\).*choose one with data.variable"):
        open_path(file)
    assert np.array_equal(open_path(file, "y")[0].array(), 2 * SINOGRAM)
    assert np.array_equal(open_path(file, "z.w")[0].array(), SINOGRAM)
    with pytest.raises(UserError, match=r"no variable 'q'; it holds x .*z \(struct of w\)"):
        open_path(file, "q")
    file = write(tmp_path / "none.mat", {"pixel": 0.3, "by": "somebody"})
    with pytest.raises(UserError, match=r"no matrix of numbers and no scan; it holds.*pixel"):
        open_path(file)


def test_slices_are_counted_along_matlabs_last_axis(tmp_path):
    volume = np.random.default_rng(0).random((6, 7, 3))
    (item,) = open_path(save(tmp_path / "a.mat", v=volume))
    assert np.array_equal(item.array(), np.moveaxis(volume, -1, 0))
    volume = np.random.default_rng(0).random((3, 7, 7))
    assert open_path(save(tmp_path / "b.mat", v=volume))[0].shape == (3, 7, 7)


def test_other_formats_have_no_variables(tmp_path):
    np.save(tmp_path / "x.npy", SINOGRAM)
    with pytest.raises(UserError, match=r"data.variable=x: .npy files hold no variables by name"):
        open_path(tmp_path / "x.npy", "x")
    np.savez(tmp_path / "x.npz", a=SINOGRAM, b=2 * SINOGRAM)
    (item,) = open_path(tmp_path / "x.npz", "b")
    assert np.array_equal(item.array(), 2 * SINOGRAM)
    with pytest.raises(UserError, match=r"no array 'c'; it holds a, b"):
        open_path(tmp_path / "x.npz", "c")


@real_data
def test_the_challenges_scans():
    (item,) = open_path(DATA / "ct" / "htc2022" / "htc2022_01a_full.mat")
    geometry = item.geometry
    assert item.shape == (721, 560)
    assert (geometry.source_to_axis, geometry.source_to_detector) == (410.66, 553.74)
    assert geometry.detector_pitch == pytest.approx(0.2)
    assert geometry.image_pixel == pytest.approx(0.148322, abs=1e-6)
    assert (geometry.angles[0], geometry.angles[1], geometry.angles[-1]) == (0, -0.5, -360)


@pytest.mark.parametrize("suffix", [".mat", ".npz"])
def test_angles_beside_a_sinogram_are_not_used_and_that_is_said(tmp_path, suffix):
    """``physics.angles`` says where views are: a file that says otherwise must not be passed over
    in silence."""
    file = tmp_path / f"x{suffix}"
    arrays = {"sino": SINOGRAM, "theta": np.arange(3.0), "times": np.arange(3.0)}
    if suffix == ".mat":
        scipy.io.savemat(file, arrays)
    else:
        np.savez(file, **arrays)
    (item,) = open_path(file)
    assert np.array_equal(item.array(), SINOGRAM)
    (note,) = item.notes
    assert note.startswith(f"x{suffix}: theta, times left out: no array of rows and columns")
    assert f"not where theta does: equipoise init x{suffix} writes" in note
    alone = tmp_path / "alone.mat"
    scipy.io.savemat(alone, {"sino": SINOGRAM, "dose": 3.0})
    assert not open_path(alone)[0].notes
