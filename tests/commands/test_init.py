"""equipoise init: what it writes is a configuration, which the doctor and training take."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from support import DATA, equipoise, quiet, real_data

import equipoise as eq
from equipoise.commands.init import FILL_IN, init
from equipoise.config import load_config
from equipoise.errors import UserError


def sinograms(angles=24, count=2, **options):
    physics = eq.ParallelBeam(32, angles, detectors=50, **options)
    return physics.A(eq.phantoms(count, 32, 4))[:, 0].numpy()


def drafted(path, tmp_path):
    out = init(path, tmp_path / "draft.yaml", quiet)
    return load_config(out), out.read_text()


def test_bare_sinograms(tmp_path):
    np.save(tmp_path / "scan.npy", sinograms(offset=1.5))
    config, text = drafted(tmp_path / "scan.npy", tmp_path)
    assert (config.physics.kind, config.physics.angles) == ("parallel_beam", 24)
    assert (config.physics.detectors, config.physics.offset) == (50, "auto")
    assert config.data.kind == "measurements"
    assert 0.5 < config.data.peak < 1.2
    assert (config.model.sigma, config.model.step.strength) == ("auto", "auto")
    assert f"{FILL_IN}: 24 views spread evenly over 180° are assumed" in text


def test_sinograms_with_their_detectors_first(tmp_path):
    np.save(tmp_path / "scan.npy", sinograms()[0].T.copy())
    config, _ = drafted(tmp_path / "scan.npy", tmp_path)
    assert config.data.layout == "transposed"
    assert (config.physics.angles, config.physics.detectors) == (24, 50)


def test_counts(tmp_path):
    y = sinograms()
    np.save(tmp_path / "scan.npy", 5000 * np.exp(-2 * y / y.max()))
    config, text = drafted(tmp_path / "scan.npy", tmp_path)
    assert config.data.values == "counts"
    assert config.data.white == pytest.approx(5000, rel=0.02)
    assert "counts with nothing in the way" in text


def test_views_over_a_whole_turn(tmp_path):
    angles = [15.0 * i for i in range(24)]
    np.save(tmp_path / "scan.npy", sinograms(angles))
    config, _ = drafted(tmp_path / "scan.npy", tmp_path)
    assert config.physics.angles == angles


@pytest.mark.parametrize("kind", ["npz", "mat"])
@pytest.mark.parametrize("unit", [1.0, np.pi / 180])
def test_angles_beside_the_sinograms(tmp_path, kind, unit):
    """Uneven ones would be lost."""
    angles = [7.0 * k + (k % 3) for k in range(24)]
    stored = {"sinogram": sinograms(angles)[0], "theta": unit * np.array(angles), "dose": 3.0}
    path = tmp_path / f"scan.{kind}"
    if kind == "npz":
        np.savez(path, **stored)
    else:
        pytest.importorskip("scipy.io").savemat(path, stored)
    config, text = drafted(path, tmp_path)
    assert config.physics.angles == pytest.approx(angles, abs=1e-4)
    assert "those of 'theta' in the file" in text
    assert ("taken for radians" in text) == (unit != 1.0)


def test_kspace(tmp_path):
    rng = np.random.default_rng(0)
    kspace = rng.standard_normal((4, 32, 32)) + 1j * rng.standard_normal((4, 32, 32))
    kspace[:, :, 1::4] = 0
    np.save(tmp_path / "k.npy", kspace.astype(np.complex64))
    config, text = drafted(tmp_path / "k.npy", tmp_path)
    assert config.physics.kind == "mri"
    assert "24 of 32 columns hold samples, 75.0% of the points" in text


def test_nothing_is_overwritten(tmp_path):
    np.save(tmp_path / "scan.npy", sinograms())
    (tmp_path / "mine.yaml").write_text("name: mine\n")
    with pytest.raises(UserError, match="exists; nothing was written"):
        init(tmp_path / "scan.npy", tmp_path / "mine.yaml", quiet)
    assert (tmp_path / "mine.yaml").read_text() == "name: mine\n"
    with pytest.raises(UserError, match="no such file"):
        init(tmp_path / "nowhere.npy", tmp_path / "new.yaml", quiet)
    assert not (tmp_path / "new.yaml").exists()


@pytest.mark.slow
def test_from_the_shell(tmp_path):
    folder = tmp_path / "my scans"
    folder.mkdir()
    for i, y in enumerate(sinograms()):
        np.save(folder / f"s{i}.npy", y)
    done = equipoise("init", "my scans", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "next: equipoise doctor my-scans.yaml" in done.stdout
    tree = yaml.safe_load((tmp_path / "my-scans.yaml").read_text())
    assert tree["data"]["path"] == "my scans"
    again = equipoise("init", "my scans", cwd=tmp_path)
    assert (again.returncode, "exists" in again.stderr) == (2, True)


#: Of each family: where, the kind of operator, and what is said of it.
FAMILIES = {
    "HTC": ("ct/htc2022/htc2022_01a_full.mat", "fan_beam", "source_to_axis"),
    "Data Exchange": ("scanner/tooth.h5", "parallel_beam", "angles"),
    "DICOM": ("ct/dicom", "parallel_beam", "6 images of 512 × 512"),
    "HDF5": ("ct/val.h5", "parallel_beam", "17 images"),
    "NIfTI": ("mri/IXI012-HH-1211_T1_2mm.nii.gz", "mri", "90 images of 120 × 120"),
    "k-space": ("mri/brain_8coil_kspace.npy", "mri", "12.4% of the points"),
    "ISMRMRD": ("scanner/grappa2_1rep.h5", "mri", "142 of 256 columns"),
}


@real_data
@pytest.mark.parametrize("family", FAMILIES)
def test_real_files(family, tmp_path):
    place, kind, said = FAMILIES[family]
    if not (DATA / place).exists():
        pytest.skip(f"no {place}")
    config, text = drafted(DATA / place, tmp_path)
    assert config.physics.kind == kind
    assert said in text
    assert "cannot be read yet" not in text


@pytest.mark.parametrize("name", ['a "quoted" scan', "back\\slash", "größe: 3 #1", "12"])
def test_names_that_yaml_reads_otherwise(tmp_path, name):
    np.save(tmp_path / f"{name}.npy", sinograms())
    config, _ = drafted(tmp_path / f"{name}.npy", tmp_path)
    assert config.data.path.resolve() == (tmp_path / f"{name}.npy").resolve()


@pytest.mark.parametrize(("file", "name"), [("ä ö.yaml", "ä-ö"), ("a.b.yaml", "a.b")])
def test_a_file_that_a_run_cannot_be_called_like(tmp_path, file, name):
    np.save(tmp_path / "scan.npy", sinograms())
    said = []
    out = init(tmp_path / "scan.npy", tmp_path / file, said.append)
    assert load_config(out).name == name
    assert said[-1].endswith(f"equipoise doctor '{out}'" if " " in file else f"doctor {out}")
