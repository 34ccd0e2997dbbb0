"""Files in, files out, and what is said of bad ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from equipoise.errors import UserError
from equipoise.imaging.data import read_images, read_kspace, read_measurements, split_by_patient
from equipoise.imaging.readers import SUFFIXES, find
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
        make_dicom(folder / "preview", hounsfield() + 1024)  # as ours is called
        images = read_images(folder, 8)
        blocks = np.clip(hounsfield(), -1000, 1000).reshape(8, 2, 8, 2).mean((1, 3))
        assert np.abs(images.values[0, 0].numpy() * 2000 - 1000 - blocks).max() < 60  # clipped after averaging
        (path,) = write_images(images, images.values, tmp_path / "out")
        import pydicom

        assert path.name == "preview_.dcm"
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


def write_bart(stem: Path, kspace: np.ndarray) -> None:
    """(coils, rows, columns) as BART lays it out: read, phase 1, phase 2, coils."""
    coils, rows, columns = kspace.shape
    stem.with_suffix(".hdr").write_text(f"# Dimensions\n{rows} {columns} 1 {coils} 1\n# Command\nmade up\n")
    kspace.transpose(1, 2, 0).astype(np.complex64).ravel(order="F").tofile(stem.with_suffix(".cfl"))


def complex_array(*shape: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


class TestPictures:
    def test_png_and_tiff(self, tmp_path):
        tifffile = pytest.importorskip("tifffile")
        from PIL import Image

        pixels = np.random.default_rng(0).integers(0, 65535, (2, 10, 12)).astype(np.uint16)
        for kind in ("png", "tif"):
            (tmp_path / kind).mkdir()
        for i, p in enumerate(pixels):
            Image.fromarray(p).save(tmp_path / "png" / f"{i}.png")
        tifffile.imwrite(tmp_path / "tif" / "stack.tif", pixels)
        tifffile.imwrite(tmp_path / "float.tif", pixels[0].astype(np.float32) / 7)
        for folder in ("png", "tif"):
            images = read_images(tmp_path / folder)
            assert np.allclose(images.values[:, 0] * 65535, pixels)
            paths = write_images(images, images.values, tmp_path / f"{folder}-out")
            assert np.allclose(read_images(paths[0].parent).values * read_images(paths[0].parent).scale, pixels[:, None], atol=1)
        assert np.allclose(read_images(tmp_path / "float.tif").values[0, 0] * 7, pixels[0])
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "colour.png")
        with pytest.raises(UserError, match=r"colour.png: a picture of mode RGB, not grey values"):
            read_images(tmp_path / "colour.png")


class TestKspace:
    def test_every_format_gives_the_same(self, tmp_path):
        h5py = pytest.importorskip("h5py")
        k = complex_array(3, 10, 12)
        write_bart(tmp_path / "b", k)
        np.save(tmp_path / "n.npy", k)
        np.savez(tmp_path / "z.npz", k)
        with h5py.File(tmp_path / "f.h5", "w") as f:  # fastMRI: slices × coils × rows × columns
            f["kspace"], f["ismrmrd_header"] = np.stack([k, 2 * k]), b"<xml/>"
            f.attrs["patient_id"] = "P7"
        for name in ("b.cfl", "b.hdr", "n.npy", "z.npz", "f.h5"):
            found = read_kspace(tmp_path / name)
            assert torch.equal(found[0], torch.from_numpy(k)), name
        assert (len(found), found.patients) == (2, ["P7", "P7"])
        assert torch.equal(found[1], torch.from_numpy(2 * k))
        with pytest.raises(UserError, match="holds complex k-space, not images"):
            read_images(tmp_path / "f.h5")

    def test_ismrmrd(self, tmp_path):
        ismrmrd = pytest.importorskip("ismrmrd")
        k = complex_array(2, 6, 8)
        xml = """<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><experimentalConditions>
        <H1resonanceFrequency_Hz>1</H1resonanceFrequency_Hz></experimentalConditions><encoding><encodedSpace><matrixSize><x>8</x>
        <y>6</y><z>1</z></matrixSize><fieldOfView_mm><x>1</x><y>1</y><z>1</z></fieldOfView_mm></encodedSpace><reconSpace><matrixSize>
        <x>8</x><y>6</y><z>1</z></matrixSize><fieldOfView_mm><x>1</x><y>1</y><z>1</z></fieldOfView_mm></reconSpace><encodingLimits/>
        <trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"""
        dataset = ismrmrd.Dataset(str(tmp_path / "scan.h5"), "dataset")
        dataset.write_xml_header(xml.encode())
        for row in (0, 2, 5):
            line = ismrmrd.Acquisition.from_array(k[:, row])
            line.idx.kspace_encode_step_1, line.center_sample = row, 4
            dataset.append_acquisition(line)
        dataset.close()
        found = read_kspace(tmp_path / "scan.h5")[0]
        assert torch.equal(found[:, :, [0, 2, 5]], torch.from_numpy(k[:, [0, 2, 5]]).mT)  # coils × readout × phase
        assert not found[:, :, [1, 3, 4]].any()
        dataset = ismrmrd.Dataset(str(tmp_path / "scan.h5"), "dataset")
        line.idx.contrast = 1
        dataset.append_acquisition(line)
        dataset.close()
        with pytest.raises(UserError, match="2 contrasts, phases or sets"):
            read_kspace(tmp_path / "scan.h5")

    def test_bad_files(self, tmp_path):
        write_bart(tmp_path / "b", complex_array(3, 10, 12))
        data = (tmp_path / "b.cfl").read_bytes()
        (tmp_path / "b.cfl").write_bytes(data[:-8])
        with pytest.raises(UserError, match=r"b.hdr says \[10, 12, 1, 3, 1\], which is 2880 bytes; the file has 2872"):
            find(tmp_path / "b.cfl")
        (tmp_path / "b.hdr").unlink()
        with pytest.raises(UserError, match=r"has no b.hdr beside it"):
            find(tmp_path / "b.cfl")
        np.save(tmp_path / "real.npy", np.zeros((4, 4)))
        with pytest.raises(UserError, match=r"expected complex k-space.*got real numbers of shape \(4, 4\)"):
            read_kspace(tmp_path / "real.npy")
        big = tmp_path / "big.npy"
        np.save(big, np.zeros(1000))
        big.write_bytes(big.read_bytes()[:500])
        with pytest.raises(UserError, match=r"its header promises 8000 bytes of data, 372 are there"):
            find(big)

    def test_several_kinds_in_one_folder(self, tmp_path):
        np.save(tmp_path / "a.npy", np.zeros((4, 4)))
        np.savez(tmp_path / "a.npz", np.zeros((4, 4)))
        with pytest.raises(UserError, match=r"several kinds of files \(npy, npz\)"):
            find(tmp_path)


@pytest.mark.parametrize("suffix", [s for suffixes in SUFFIXES.values() for s in suffixes])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=400), header=st.booleans())
def test_random_bytes_are_an_error_of_the_user(tmp_path, suffix, data, header):
    """No reader crashes, hangs, or makes something of nothing."""
    marks = {
        ".npy": b"\x93NUMPY\x01\x00",
        ".npz": b"PK\x03\x04",
        ".h5": b"\x89HDF\r\n\x1a\n",
        ".tif": b"II*\x00",
        ".nii": b"\x5c\x01\0\0",
    }
    marks |= {".png": b"\x89PNG\r\n\x1a\n", ".dcm": b"\0" * 128 + b"DICM", ".nii.gz": b"\x1f\x8b\x08"}
    file = tmp_path / f"x{suffix}"
    file.write_bytes((marks.get(suffix, b"") if header else b"") + data)
    if suffix == ".cfl":
        file.with_suffix(".hdr").write_bytes(b"# Dimensions\n" + data[:20])
    for read in (read_images, read_kspace, lambda path: read_measurements(path, (1, 4, 4))):
        with pytest.raises(UserError) as error:
            read(file).values.sum()
        assert str(file.stem) in str(error.value)


def test_names_that_would_collide(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 4, 4)))
    np.save(tmp_path / "a_000.npy", np.zeros((4, 4)))
    np.save(tmp_path / "preview.npy", np.zeros((4, 4)))
    images = read_images(tmp_path)
    assert images.names == ["a_000", "a_001", "a_000-2", "preview_"]
    assert len(set(write_images(images, images.values, tmp_path / "out"))) == 4


def test_what_a_dicom_folder_may_lack(tmp_path):
    pydicom = make_dicom(tmp_path / "a.dcm", hounsfield(0) + 1024, patient="", z=0.0)
    make_dicom(tmp_path / "b.dcm", hounsfield(1) + 1024, patient="", z=1.0)
    assert len(set(read_images(tmp_path).patients)) == 1  # of one series
    d = pydicom.dcmread(tmp_path / "b.dcm")
    d.Modality = "MR"
    d.save_as(tmp_path / "b.dcm")
    with pytest.raises(UserError, match="only CT has Hounsfield units"):
        read_images(tmp_path)


def test_images_are_not_distorted(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((12, 8)))
    with pytest.raises(UserError, match=r"the image has 12×8 pixels, which data\.size=4 would distort"):
        read_images(tmp_path, 4)


def test_a_missing_slice_is_noted(tmp_path):
    for k in (0, 1, 2, 4, 5):
        make_dicom(tmp_path / f"{k}.dcm", hounsfield(k) + 1024, z=2.5 * k)
    assert read_images(tmp_path).notes == ["patient P1: slices are missing at 1 place(s): gaps up to 5 mm, where 2.5 mm is usual"]


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    np.save(tmp_path / "a.npy", np.full((1000, 8, 8), np.nan))
    images = read_images(tmp_path)
    assert len(images) == 1000
    with pytest.raises(UserError, match="64 of 64 values are NaN"):
        images[3]


@given(
    patients=st.lists(st.sampled_from("ABCDEF"), min_size=2, max_size=30).filter(lambda p: len(set(p)) > 1),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 9),
)
def test_splits_keep_patients_apart(patients, fraction, seed):
    kept, held = split_by_patient(patients, fraction, seed)
    assert sorted(kept + held) == list(range(len(patients)))
    assert kept
    assert held
    assert not {patients[i] for i in kept} & {patients[i] for i in held}


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


def write_valid(folder: Path, kind: str) -> Path:
    """One readable file of a kind."""
    pixels = hounsfield(3, 24) + 1024
    file = folder / f"x{SUFFIXES[kind][0]}"
    if kind == "dicom":
        make_dicom(file, pixels)
    elif kind == "nifti":
        nibabel = pytest.importorskip("nibabel")
        nibabel.save(nibabel.Nifti1Image(np.random.default_rng(0).random((24, 24, 3)), np.eye(4)), file)
    elif kind == "hdf5":
        with pytest.importorskip("h5py").File(file, "w") as f:
            f.create_dataset("hu", data=np.stack([pixels] * 3), compression="gzip")
    elif kind == "npy":
        np.save(file, pixels)
    elif kind == "npz":
        np.savez(file, pixels)
    elif kind == "tiff":
        pytest.importorskip("tifffile").imwrite(file, pixels.astype(np.uint16))
    elif kind == "png":
        from PIL import Image

        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)).save(file)
    else:
        write_bart(file.with_suffix(""), complex_array(2, 24, 24))
    return file


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("kind", SUFFIXES)
def test_files_that_are_cut_short(tmp_path, kind, share):
    file = write_valid(tmp_path, kind)
    read = read_kspace if kind == "bart" else read_images
    assert len(read(file).values) in (1, 3)
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match=r"x\.|x_0"):
        read(file).values.sum()


def test_a_compressed_dicom_names_the_codec_that_is_missing(tmp_path):
    pydicom = make_dicom(tmp_path / "a.dcm", hounsfield() + 1024)
    d = pydicom.dcmread(tmp_path / "a.dcm")
    d.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
    d.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51 no picture"])
    d["PixelData"].is_undefined_length = True
    d.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    with pytest.raises(UserError, match=r"compressed with a codec that is not installed \(pip install 'pydicom\[pixeldata\]'"):
        read_images(tmp_path).values.sum()


def test_what_16_bits_cannot_hold_is_clipped(tmp_path):
    make_dicom(tmp_path / "a.dcm", hounsfield() + 1024)
    images = read_images(tmp_path)
    write_images(images, torch.full((1, 1, 16, 16), 1e4), tmp_path / "out")
    again = pytest.importorskip("pydicom").dcmread(tmp_path / "out" / "a.dcm")
    assert again.pixel_array.min() == 32767
