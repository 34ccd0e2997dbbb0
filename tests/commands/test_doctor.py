"""What the doctor says of set-ups that can work, and of those that cannot."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support import equipoise

from equipoise.commands.doctor.examine import _range, examine
from equipoise.commands.simulate import simulate
from equipoise.config import changed, load_config, parse

MODEL = {
    "max_steps": 6,
    "test_max_steps": 6,
    "denoiser": {"kind": "random", "channels": 4, "layers": 2},
    "gradient": {"kind": "implicit", "max_steps": 20},
}


def set_up(physics: dict, objective: dict | None = None):
    tree = {
        "data": {"size": 16, "count": 5},
        "physics": physics,
        "model": MODEL,
        "objective": {"splitting": 0, **(objective or {})},
        "learning": {"steps": 2, "batch": 2},
    }
    return parse(tree, "test")


def findings(config):
    return {finding.what.split(":")[0]: finding for finding in examine(config)}


@pytest.mark.slow
def test_simulate_and_doctor_from_the_shell(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "data: {size: 16, count: 4}\nphysics: {angles: 8}\nmodel: {denoiser: random}\n"
    )
    done = equipoise("simulate", "c.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "wrote 4 measurements" in done.stdout
    assert len(list((tmp_path / "simulated" / "c" / "measurements").iterdir())) == 4
    good = equipoise("doctor", "simulated/c/config.yaml", cwd=tmp_path)
    lines = [line.split() for line in good.stdout.splitlines()]
    fine = {line[1].rstrip(":") for line in lines if line[0] == "ok"}
    every = {"adjoint", "norm", "data", "fit", "range", "prior", "noise", "group", "inner", "step"}
    assert (good.returncode, every - fine) == (0, set()), good.stdout + good.stderr
    overrides = ["objective.group=reflections", "physics.angles=9"]
    bad = equipoise("doctor", "simulated/c/config.yaml", *overrides, cwd=tmp_path)
    assert bad.returncode == 1
    assert "does not fit the geometry, which measures (9, 23)" in bad.stdout
    assert "1 thing(s) to mend" in bad.stdout
    assert equipoise("doctor", "nowhere.yaml", cwd=tmp_path).returncode == 2


def test_a_group_that_commutes():
    commutes = {"parallel_beam": "reflections", "mri": "shifts", "blur": "shifts"}
    for kind, group in commutes.items():
        options = {"angles": 8} if kind == "parallel_beam" else {}
        objective = {"equivariance": {"group": group}}
        found = findings(set_up({"kind": kind, **options}, objective))["group"]
        assert found.verdict == "wrong", kind
        assert "commutes" in found.remedy
    assert findings(set_up({"kind": "parallel_beam", "angles": 4}))["group"].verdict == "ok"


def test_a_wrong_adjoint(tmp_path):
    (tmp_path / "bad.py").write_text(
        "from deepinv.physics import LinearPhysics\n"
        "def physics(size):\n"
        "    sum_up = lambda x: x.cumsum(-1) / size\n"
        "    return LinearPhysics(A=sum_up, A_adjoint=sum_up)\n"
    )
    found = findings(set_up({"kind": "custom", "file": str(tmp_path / "bad.py")}))
    assert found["adjoint"].verdict == "wrong"
    assert "transpose" in found["adjoint"].remedy


def test_units_and_geometry(tmp_path):
    simulate(set_up({"kind": "parallel_beam", "angles": 12}), tmp_path / "m")
    file = tmp_path / "m" / "measurements" / "phantom_000.npy"
    y = np.load(file)
    for path in file.parent.glob("*.npy"):
        np.save(path, 50 * np.load(path))
    on_files = load_config(tmp_path / "m" / "config.yaml")
    found = findings(on_files)
    assert (found["range"].verdict, found["fit"].verdict) == ("wrong", "ok")
    on_files = changed(on_files, {"data.peak": 50})
    assert findings(on_files)["range"].verdict == "ok"
    for path in file.parent.glob("*.npy"):
        np.save(path, np.random.default_rng(0).permutation(y.ravel()).reshape(y.shape))
    found = findings(on_files)["fit"]
    assert found.verdict == "wrong"
    assert "views, detectors" in found.remedy
    np.save(file, np.zeros((3, 3)))
    unreadable = findings(on_files)["the data cannot be read"]
    assert "does not fit the geometry" in unreadable.what


def test_noise(tmp_path):
    physics = {"kind": "parallel_beam", "angles": 12, "noise": 0.01}
    simulate(set_up(physics), tmp_path / "m")
    on_files = load_config(tmp_path / "m" / "config.yaml")
    assert findings(on_files)["noise"].verdict == "ok"
    found = findings(changed(on_files, {"physics.noise": 0.5}))["noise"]
    assert found.verdict == "wrong"
    assert "set physics.noise to 0.0" in found.remedy


def test_what_cannot_be_split():
    few = {"kind": "parallel_beam", "angles": 3}
    found = list(examine(set_up(few, {"splitting": 1})))
    assert any(f.verdict == "wrong" and "cannot split 3 views" in f.what for f in found)
    found = list(examine(set_up({"kind": "super_resolution"}, {"splitting": 1})))
    assert any(f.verdict == "wrong" and "the others see to 16%" in f.what for f in found)
    found = list(examine(set_up({"kind": "blur"}, {"splitting": 1})))
    assert not any(f.verdict == "wrong" and "split" in f.what for f in found)


@pytest.mark.parametrize("holds", ["image", "measurement"])
@pytest.mark.parametrize(
    ("top", "is_fine"), [(0.19, False), (0.21, True), (1.0, True), (2.9, True), (3.1, False)]
)
def test_how_bright_images_may_be(top, is_fine, holds):
    sample = SimpleNamespace(items=[SimpleNamespace(holds=holds)])
    found = _range(sample, torch.full((2, 1, 8, 8), top))
    bad = "wrong" if holds == "measurement" else "note"
    assert found.verdict == ("ok" if is_fine else bad)
    assert f"{top:.2g}" in found.what
