"""Files in, files out, and what is said of bad ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from equipoise.errors import UserError
from equipoise.imaging.data import read_images, read_measurements
from equipoise.imaging.writers import write_images

DATA = Path(__file__).parents[1] / ".." / "shared" / "data"
real = pytest.mark.skipif(not DATA.exists(), reason=f"no real data at {DATA}")


def make_dicom(path: Path, pixels: np.ndarray, patient: str = "P1", z: float = 0.0, slope: float = 1.0, intercept: float = -1024.0):
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    d.SOPClassUID, d.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    d.PatientID, d.SeriesInstanceUID = patient, "1.2.3"
    d.Rows, d.Columns = pixels.shape
    d.PixelSpacing, d.ImagePositionPatient, d.ImageOrientationPatient = [0.7, 0.7], [-10, -20, z], [1, 0, 0, 0, 1, 0]
    d.RescaleSlope, d.RescaleIntercept = slope, intercept
    d.SamplesPerPixel, d.PhotometricInterpretation, d.Modality = 1, "MONOCHROME2", "CT"
    d.BitsAllocated = d.BitsStored = 16
    d.HighBit, d.PixelRepresentation = 15, 0
    d.PixelData = pixels.astype("<u2").tobytes()
    d["PixelData"].VR = "OW"
    d.save_as(path, enforce_file_format=True)
    return pydicom


def hounsfield(seed: int = 0, size: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(-900, 900, (size, size))


class TestDicom:
    def test_round_trip_in_hu(self, tmp_path):
        folder = tmp_path / "series"
        folder.mkdir()
        for i, z in enumerate((5.0, -3.0, 1.0)):
            make_dicom(folder / f"{i}.dcm", hounsfield(i) + 1024, z=z)
        images = read_images(folder)
        assert images.names == ["1.dcm", "2.dcm", "0.dcm"]  # by position
        assert np.allclose(images.values[2, 0].numpy() * 2000 - 1000, hounsfield(0), atol=0.01)
        paths = write_images(images, images.values, tmp_path / "out")
        again = read_images(tmp_path / "out")
        assert len(paths) == 3
        assert torch.allclose(again.values, images.values, atol=1e-6)
        import pydicom

        d = pydicom.dcmread(paths[0])
        assert d.PatientID == "P1"
        assert d.ImageType[0] == "DERIVED"
        assert np.array_equal(d.pixel_array * d.RescaleSlope + d.RescaleIntercept, hounsfield(1))

    def test_smaller_images_keep_their_place(self, tmp_path):
        folder = tmp_path / "series"
        folder.mkdir()
        make_dicom(folder / "a.dcm", hounsfield() + 1024)
        images = read_images(folder, 8)
        blocks = np.clip(hounsfield(), -1000, 1000).reshape(8, 2, 8, 2).mean((1, 3))
        assert np.abs(images.values[0, 0].numpy() * 2000 - 1000 - blocks).max() < 60  # clipped after averaging
        (path,) = write_images(images, images.values, tmp_path / "out")
        import pydicom

        d = pydicom.dcmread(path)
        assert [float(s) for s in d.PixelSpacing] == [1.4, 1.4]
        assert [float(s) for s in d.ImagePositionPatient] == pytest.approx([-9.65, -19.65, 0])

    def test_mixed_sizes(self, tmp_path):
        make_dicom(tmp_path / "a.dcm", hounsfield(size=16) + 1024)
        make_dicom(tmp_path / "b.dcm", hounsfield(size=20) + 1024)
        with pytest.raises(UserError, match=r"images of different sizes: a.dcm is 16×16, b.dcm is 20×20; put each size"):
            read_images(tmp_path)

    def test_cut_short(self, tmp_path):
        make_dicom(tmp_path / "a.dcm", hounsfield() + 1024)
        data = (tmp_path / "a.dcm").read_bytes()
        (tmp_path / "a.dcm").write_bytes(data[: len(data) // 2])
        with pytest.raises(UserError, match=r"a.dcm: cannot be read as DICOM .* repair it or take it out"):
            read_images(tmp_path).values.sum()

    def test_identical_slices_are_noticed(self, tmp_path):
        for name in "ab":
            make_dicom(tmp_path / f"{name}.dcm", hounsfield() + 1024)
        images = read_images(tmp_path)
        assert images.values.shape == (2, 1, 16, 16)
        assert images.notes == ["b.dcm is identical to a.dcm"]


class TestNifti:
    def test_affine_is_kept(self, tmp_path):
        nibabel = pytest.importorskip("nibabel")
        volume = np.random.default_rng(0).uniform(0, 300, (12, 12, 5)).astype(np.float32)
        affine = np.array([[-2.0, 0.1, 0, 90], [0, 2, 0, -126], [0, 0, 3, -72], [0, 0, 0, 1]])
        nibabel.save(nibabel.Nifti1Image(volume, affine), tmp_path / "v.nii.gz")
        images = read_images(tmp_path / "v.nii.gz")
        (path,) = write_images(images, images.values, tmp_path / "out")
        again = nibabel.load(path)
        assert np.allclose(again.affine, affine)
        assert np.allclose(again.get_fdata(), volume, atol=1e-3)
        half = read_images(tmp_path / "v.nii.gz", 6)
        (path,) = write_images(half, half.values, tmp_path / "half")
        small = nibabel.load(path)
        corner = lambda a, shape: a @ np.array([-0.5, -0.5, -0.5, 1])  # noqa: E731
        assert np.allclose(corner(small.affine, 6), corner(affine, 12))  # the outer corner of the volume stays


class TestHdf5AndNpy:
    def test_hdf5(self, tmp_path):
        h5py = pytest.importorskip("h5py")
        with h5py.File(tmp_path / "a.h5", "w") as f:
            f["hu"] = np.stack([hounsfield(0), hounsfield(1)]).astype(np.int16)
            f["patient"] = [b"A", b"B"]
        images = read_images(tmp_path / "a.h5")
        assert images.patients == ["A", "B"]
        write_images(images, images.values, tmp_path / "out")
        with h5py.File(tmp_path / "out" / "a.h5") as f:
            assert np.array_equal(f["hu"][0], hounsfield(0))
        with h5py.File(tmp_path / "b.h5", "w") as f:
            f["other"] = [1]
        with h5py.File(tmp_path / "c.h5", "w") as f:
            f["hu"] = np.zeros((2, 8, 8))
            f["patient"] = [b"A"]
        with pytest.raises(UserError, match="2 slices, but 'patient' names 1"):
            read_images(tmp_path / "c.h5")
        with pytest.raises(UserError, match=r"no dataset 'hu'.*it has \['other'\]"):
            read_images(tmp_path / "b.h5")

    def test_measurements(self, tmp_path):
        y = np.random.default_rng(0).normal(size=(3, 20, 91)).astype(np.float32)
        np.save(tmp_path / "stack.npy", y)
        np.save(tmp_path / "zone.npy", y[0])
        m = read_measurements(tmp_path, (1, 20, 91))
        assert m.names == ["stack_000", "stack_001", "stack_002", "zone"]
        assert torch.equal(m.values[3], m.values[0])
        np.save(tmp_path / "zone.npy", y[:, None])  # (B, 1, views, detectors), as the library makes them
        assert torch.equal(read_measurements(tmp_path / "zone.npy", (1, 20, 91)).values, torch.from_numpy(y)[:, None])
        k = np.random.default_rng(0).normal(size=(4, 8)) + 1j
        np.save(tmp_path / "k.npy", k)
        assert np.allclose(read_measurements(tmp_path / "k.npy", (2, 4, 8)).values[0, 1], k.imag)

    def test_bad_measurements(self, tmp_path):
        np.save(tmp_path / "y.npy", np.zeros((20, 90)))
        with pytest.raises(UserError, match=r"y.npy: shape \(20, 90\) does not fit the geometry, which measures \(20, 91\)"):
            read_measurements(tmp_path, (1, 20, 91))
        bad = np.zeros((20, 91))
        bad[3, 7] = np.nan
        np.save(tmp_path / "y.npy", bad)
        with pytest.raises(UserError, match=r"y.npy: 1 of 1820 values are NaN or infinite, the first at index \(3, 7\)"):
            read_measurements(tmp_path, (1, 20, 91)).values.sum()
        np.save(tmp_path / "y.npy", np.zeros((20, 91), dtype=complex))
        with pytest.raises(UserError, match="complex numbers, but this geometry measures real ones"):
            read_measurements(tmp_path, (1, 20, 91))
        (tmp_path / "y.npy").write_bytes(b"not numpy at all")
        with pytest.raises(UserError, match=r"y.npy: cannot be read as .npy"):
            read_measurements(tmp_path, (1, 20, 91))

    def test_empty_and_missing(self, tmp_path):
        with pytest.raises(UserError, match="no file in this folder can be read"):
            read_images(tmp_path)
        with pytest.raises(UserError, match="no such file or folder"):
            read_images(tmp_path / "nowhere")
        (tmp_path / "x.txt").write_text("hello")
        with pytest.raises(UserError, match="unknown kind of file"):
            read_images(tmp_path / "x.txt")

    def test_nothing_is_overwritten(self, tmp_path):
        np.save(tmp_path / "y.npy", np.zeros((20, 91), dtype=np.float32))
        m = read_measurements(tmp_path / "y.npy", (1, 20, 91))
        out = tmp_path / "out"
        out.mkdir()
        (out / "mine.txt").write_text("precious")
        with pytest.raises(UserError, match="is not empty; nothing was written"):
            write_images(m, torch.zeros(1, 1, 4, 4), out)
        assert [p.name for p in out.iterdir()] == ["mine.txt"]


@real
class TestRealData:
    def test_ct(self):
        train, val = (read_images(DATA / "ct" / f"{n}.h5", 64) for n in ("train", "val"))
        assert len(train) == 49
        assert len(val) == 17
        assert not set(train.patients) & set(val.patients)
        assert 0.1 < float(train.values.mean()) < 0.5

    def test_dicom(self, tmp_path):
        images = read_images(DATA / "ct" / "dicom", 64)
        assert len(images) == 6
        write_images(images, images.values, tmp_path / "out")
        again = read_images(tmp_path / "out")
        assert (again.values - images.values).abs().max() <= 0.5 / 2000 + 1e-6

    def test_mri(self):
        images = read_images(DATA / "mri" / "IXI012-HH-1211_T1_2mm.nii.gz")
        assert images.values.shape == (90, 1, 120, 120)
