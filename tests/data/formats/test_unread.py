"""What is known and not read: one sentence, with the program that converts it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from equipoise.data.formats import FORMATS, Format, open_path, register
from equipoise.data.item import Item
from equipoise.errors import LONGEST_MESSAGE, UserError

from .make import hounsfield, make_dicom

TWIX = b"\0\0\0\0\2\0\0\0" + bytes(200)
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100)


@pytest.mark.parametrize(
    ("name", "content", "beside", "says"),
    [
        ("tooth.txrm", OLE, (), "Zeiss.*XMReconstructor"),
        ("tooth.TXM", OLE, (), "Zeiss"),
        ("flat.xrm", OLE, (), "Zeiss"),
        ("scan.xtekct", b"[XTekCT]\n", (), r"Nikon.*data\.layout=projections"),
        ("scan.vgi", b"{volume1}\n", (), "Nikon"),
        ("scan.log", b"[System]\nScanner=Skyscan1172\n", (), "SkyScan"),
        ("meas_MID00020.dat", TWIX, (), "siemens_to_ismrmrd"),
        ("other.dat", TWIX, (), "siemens_to_ismrmrd"),
        ("P12345.7", bytes(100), (), "ge_to_ismrmrd"),
        ("ScanArchive_1.h5", b"\x89HDF\r\n\x1a\n" + bytes(100), (), "ge_to_ismrmrd"),
        ("scan.raw", bytes(100), ("scan.lab", "scan.sin"), "philips_to_ismrmrd"),
        ("scan.lab", bytes(100), ("scan.raw",), "philips_to_ismrmrd"),
        ("scan.PAR", b"# === DATA DESCRIPTION FILE", ("scan.REC",), "dcm2niix"),
        ("2dseq", bytes(100), (), "brkraw"),
        ("fid", bytes(100), ("acqp", "method"), "bruker_to_ismrmrd"),
        ("rawdata.job0", bytes(100), ("acqp",), "bruker_to_ismrmrd"),
        ("fid", bytes(100), ("procpar",), "nmrglue"),
        ("old.ima", b"SIEMENS" + bytes(300), (), "dcm2niix"),
    ],
)
def test_families(tmp_path, name, content, beside, says):
    file = tmp_path / name
    file.write_bytes(content)
    for other in beside:
        (tmp_path / other).write_bytes(b"x")
    for path in (file, tmp_path):
        with pytest.raises(UserError, match=says) as error:
            open_path(path)
        assert len(str(error.value)) <= LONGEST_MESSAGE
        assert "not read here" in str(error.value)


def test_projections_in_dicom(tmp_path):
    """DICOM-CT-PD has pixels like any other, and they are no image."""
    pydicom = make_dicom(tmp_path / "p.dcm", hounsfield() + 1024)
    data = pydicom.dcmread(tmp_path / "p.dcm")
    data.add_new((0x7031, 0x0010), "LO", "TG18")
    data.add_new((0x7031, 0x1001), "FL", 1.5)
    data.save_as(tmp_path / "p.dcm")
    for path in (tmp_path / "p.dcm", tmp_path):
        with pytest.raises(UserError, match=r"DICOM-CT-PD.*fan-beam sinograms"):
            open_path(path)


def test_tiff_beside_a_log_is_read(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.tif", np.ones((8, 8), np.uint8))
    (tmp_path / "scan.log").write_bytes(b"[System]\nScanner=Skyscan1172\n")
    assert len(open_path(tmp_path)) == 1


def test_a_format_of_ones_own_comes_first(tmp_path):
    class Zeiss(Format):
        name = "zeiss"
        suffixes = (".txrm",)
        needs = "A .txrm file."

        def open(self, path: Path) -> list[Item]:
            return [Item("x", path, (2, 2), lambda: np.ones((2, 2)), format="zeiss")]

    before = dict(FORMATS)
    register(Zeiss())
    try:
        (tmp_path / "x.txrm").write_bytes(OLE)
        assert len(open_path(tmp_path / "x.txrm")) == 1
    finally:
        FORMATS.clear()
        FORMATS.update(before)
