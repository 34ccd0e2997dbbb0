"""``physics.offset: auto``: found before training, kept in the run, looked for again in other
data."""

from __future__ import annotations

import numpy as np
import pytest
from support import equipoise, quiet, tiny

import equipoise as eq
from equipoise.commands.reconstruct import reconstruct
from equipoise.commands.train import train_run
from equipoise.data.axis import with_axis_found
from equipoise.data.scan import Scan
from equipoise.errors import UserError
from equipoise.imaging.tomography.scanner import ScannerGeometry
from equipoise.run import load_data, load_run, read_config


def scans(folder, offset, count=2, views=24, bin=1, seed=4):
    """A folder of sinograms, and what is known of them but the axis."""
    folder.mkdir()
    physics = eq.ParallelBeam(16, views, detectors=26, offset=offset)
    y = physics.A(eq.phantoms(count, 16, seed))[:, 0].numpy()
    y = y + 0.002 * y.max() * np.random.default_rng(seed).standard_normal(y.shape)
    for i, values in enumerate(y):
        np.save(folder / f"scan{i}.npy", np.repeat(values, bin, -1))
    return {"angles": views, "detectors": 26 * bin, "bin": bin, "offset": "auto"}


def run_on(tmp_path, offset, **options):
    physics = scans(tmp_path / "scans", offset, **options)
    data = {"path": str(tmp_path / "scans"), "kind": "measurements", "size": 16, "count": None}
    data.pop("count")
    config = tiny(tmp_path / "run", physics=physics)
    tree = config.model_dump(mode="json", exclude_none=True)
    return eq_config({**tree, "data": data})


def eq_config(tree):
    from equipoise.config import parse

    return parse(tree, "test")


@pytest.mark.parametrize("bin", [1, 2])
def test_it_is_found_in_detectors_of_the_file(tmp_path, bin):
    config = run_on(tmp_path, 1.7, bin=bin)
    dataset = load_data(config, Scan.planned(config.physics, 16))
    assert dataset.scan.settings.axis_found == pytest.approx(1.7 * bin, abs=0.1 * bin)
    assert dataset.scan.physics.geometry.offset == pytest.approx(1.7, abs=0.1)
    assert any("physics.offset=+" in note for note in dataset.notes)


def test_a_run_keeps_what_it_found(tmp_path):
    config = run_on(tmp_path, 1.7)
    said = []
    assert train_run(config, said.append)
    assert any("axis of rotation: physics.offset=+1." in line for line in said)
    stored = read_config(tmp_path / "run").physics
    assert stored.offset == "auto"
    assert stored.axis_found == pytest.approx(1.7, abs=0.1)
    assert load_run(tmp_path / "run").scan.physics.geometry.offset == stored.axis_found
    said.clear()
    assert train_run(config, said.append)  # the same configuration is the same run
    assert any("already trained" in line for line in said)


def test_other_data_have_their_own(tmp_path):
    train_run(run_on(tmp_path, 1.7), quiet)
    run = load_run(tmp_path / "run")
    scans(tmp_path / "others", -0.9)
    dataset = load_data(run.config, run.scan, tmp_path / "others")
    assert dataset.scan.physics.geometry.offset == pytest.approx(-0.9, abs=0.1)
    assert any("it was +1." in note for note in dataset.notes)
    reconstruct(run, tmp_path / "others", tmp_path / "images", quiet)
    assert (tmp_path / "images" / "scan0.npy").exists()


def several(folder, offsets):
    """A folder of scans, each of its own axis."""
    folder.mkdir()
    for k, offset in enumerate(offsets):
        physics = scans(folder / f"of{k}", offset, count=1, seed=k)
        (folder / f"of{k}" / "scan0.npy").rename(folder / f"scan{k}.npy")
        (folder / f"of{k}").rmdir()
    data = {"path": str(folder), "kind": "measurements", "size": 16}
    return eq_config({"data": data, "physics": {"kind": "parallel_beam", **physics}})


def test_scans_of_several_axes_are_refused(tmp_path):
    """One operator has one axis: a mean of them would be wrong for each, without a word."""
    config = several(tmp_path / "apart", [0.0, 4.0])
    with pytest.raises(UserError, match=r"scan0.npy and .*scan1.npy are 4\.\d detectors apart"):
        load_data(config, Scan.planned(config.physics, 16))
    config = several(tmp_path / "alike", [1.5, 1.6])
    dataset = load_data(config, Scan.planned(config.physics, 16))
    assert dataset.scan.settings.axis_found == pytest.approx(1.55, abs=0.15)


def test_what_cannot_be_told_is_said(tmp_path):
    config = run_on(tmp_path, 1.7, views=2)
    dataset = load_data(config, Scan.planned(config.physics, 16))
    assert dataset.scan.physics.geometry.offset == 0
    assert any("do not tell it" in note for note in dataset.notes)


def test_of_images_there_is_nothing_to_find(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "data: {size: 16, count: 2}\nphysics: {angles: 8, offset: auto}\n"
        "model: {denoiser: random}\n"
    )
    done = equipoise("simulate", "c.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("told", [None, 1.0, 3.0])
def test_where_a_file_puts_it_does_not_move_what_is_found(tmp_path, told):
    """A file's own axis is where the search begins, and no part of what it finds."""
    config = run_on(tmp_path, 1.7)
    items = load_data(config, Scan.planned(config.physics, 16)).items
    geometry = ScannerGeometry(source="scan", axis_offset=told, detector_pitch=1.0, image_pixel=1.0)
    settings = config.physics.reading(geometry)
    scan, _ = with_axis_found(items, Scan.planned(settings, 16), anew=True)
    assert scan.settings.axis_found == pytest.approx(1.7, abs=0.15)
    assert scan.physics.geometry.offset == pytest.approx(1.7, abs=0.15)
