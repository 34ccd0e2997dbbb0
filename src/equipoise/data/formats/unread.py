"""Families that are known and not read: what they are, and the program that people convert them
with."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from .base import first_bytes


class Family(NamedTuple):
    """A family of files that is known by name or content."""

    what: str
    remedy: str
    knows: Callable[[Path, bytes], bool]  #: the file, and its first 4,096 bytes


def unread(path: Path) -> str | None:
    """What is said of a file that is known and not read, in a sentence; None: it is unknown."""
    start = first_bytes(path, 4096)
    for family in FAMILIES:
        if family.knows(path, start):
            return f"{family.what}, which is not read here; {family.remedy}"
    return None


def unread_in(files: Sequence[Path]) -> tuple[Path, str] | None:
    """The first of some files that is known and not read, and what is said of it."""
    for file in files:
        said = unread(file)
        if said is not None:
            return file, said
    return None


def _ends(*suffixes: str) -> Callable[[Path, bytes], bool]:
    return lambda path, start: path.name.lower().endswith(suffixes)


def _beside(path: Path, *names: str) -> bool:
    return any((path.parent / name).is_file() for name in names)


def _zeiss(path: Path, start: bytes) -> bool:
    return path.suffix.lower() in (".txrm", ".txm", ".xrm")


def _skyscan(path: Path, start: bytes) -> bool:
    is_log = path.suffix.lower() in (".log", ".ctan")
    return is_log and re.search(rb"skyscan|\[acquisition\]|\[system\]", start, re.I) is not None


def _siemens(path: Path, start: bytes) -> bool:
    """Twix: a directory of at most 64 measurements (VD, VE, XA), or the length of a header that
    holds text (VB)."""
    if path.suffix.lower() != ".dat" or len(start) < 16:
        return False
    first, second = (int.from_bytes(start[k : k + 4], "little") for k in (0, 4))
    is_new = first < 10_000 and 1 <= second <= 64
    is_old = 32 < first < 2**24 and 1 <= second < 100 and b"<" in start
    return is_new or is_old or path.name.lower().startswith("meas_")


def _siemens_ima(path: Path, start: bytes) -> bool:
    return path.suffix.lower() == ".ima" and start[128:132] != b"DICM" and b"SIEMENS" in start


def _bruker_image(path: Path, start: bytes) -> bool:
    return path.name.lower() == "2dseq"


def _bruker_raw(path: Path, start: bytes) -> bool:
    is_job = re.fullmatch(r"(fid|ser|rawdata\.job\d+)", path.name.lower()) is not None
    return is_job and _beside(path, "acqp", "method", "acqus")


def _varian(path: Path, start: bytes) -> bool:
    return path.name.lower() == "fid" and _beside(path, "procpar")


def _ge(path: Path, start: bytes) -> bool:
    name = path.name.lower()
    is_archive = name.startswith("scanarchive") and name.endswith(".h5")
    return is_archive or re.fullmatch(r"p\d{5}\.7", name) is not None


def _philips(path: Path, start: bytes) -> bool:
    suffix = path.suffix.lower()
    if suffix in (".lab", ".sin", ".list", ".rec", ".par"):
        partner = {".lab": ".raw", ".sin": ".raw", ".list": ".data", ".rec": ".par", ".par": ".rec"}
        other = partner[suffix]
        return _beside(path, path.stem + other, path.stem + other.upper())
    return suffix in (".raw", ".data") and any(
        _beside(path, path.stem + other, path.stem + other.upper())
        for other in (".lab", ".sin", ".list")
    )


#: Elements of DICOM-CT-PD: the detector's rows, the angle of the tube.
CT_PD = ((0x7029, 0x1010), (0x7031, 0x1001))


def _dicom_ct_pd(path: Path, start: bytes) -> bool:
    """Projections in DICOM, by the private elements that say where tube and detector were."""
    return start[128:132] == b"DICM" and _has_elements(path)


def _has_elements(path: Path) -> bool:
    try:
        import pydicom

        data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(CT_PD))
    except Exception:  # not installed, or damaged: the reader of DICOM will say so
        return False
    return any(tag in data for tag in CT_PD)


ISMRMRD = "and read the ISMRMRD file that it writes"
FAMILIES = (
    Family(
        "a Zeiss (Xradia) scan (.txrm, .txm, .xrm)",
        "export TIFF in XMReconstructor, or read it in Python with dxchange.read_txrm or "
        "olefile, and save counts and white as .npy",
        _zeiss,
    ),
    Family(
        "a Nikon (X-Tek) scan (.xtekct, .xtekvolume, .vgi, .ang)",
        "its projections are the TIFF files beside it: name their folder with "
        "data.layout=projections, and the distances as physics.source_to_axis and so on; "
        "CIL (cil.io.NikonDataReader) reads it whole",
        _ends(".xtekct", ".xtekvolume", ".xtekhelixct", ".vgi", ".ang"),
    ),
    Family(
        "the log of a Bruker (SkyScan) scan",
        "its projections are the TIFF files beside it: name a folder of them alone with "
        "data.layout=projections, and what the log says of the geometry under physics",
        _skyscan,
    ),
    Family(
        "Siemens raw data (twix .dat)",
        f"convert it with siemens_to_ismrmrd {ISMRMRD}",
        _siemens,
    ),
    Family(
        "a Siemens .IMA file from before DICOM, or raw data",
        "export DICOM from the scanner, or convert it with dcm2niix",
        _siemens_ima,
    ),
    Family(
        "DICOM-CT-PD, the projections of a clinical CT",
        "rebin its helix to fan-beam sinograms (with the Mayo Clinic's readers or helix2fan), and "
        "save them as .npy",
        _dicom_ct_pd,
    ),
    Family("GE raw data (P-file or ScanArchive)", f"convert it with ge_to_ismrmrd {ISMRMRD}", _ge),
    Family(
        "Philips raw data or PAR/REC",
        f"convert raw data with philips_to_ismrmrd {ISMRMRD}; PAR/REC with dcm2niix",
        _philips,
    ),
    Family("Varian (Agilent) raw data", "read it with nmrglue, and save k-space as .npy", _varian),
    Family(
        "Bruker raw data (ParaVision fid or rawdata.job)",
        f"convert it with bruker_to_ismrmrd {ISMRMRD}",
        _bruker_raw,
    ),
    Family(
        "a Bruker image (2dseq)",
        "convert it with brkraw or dicomifier, and read the NIfTI or DICOM files that it writes",
        _bruker_image,
    ),
)
