"""equipoise doctor CONFIG --fix OUT: the configuration that the doctor would have."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from support import equipoise

import equipoise as eq
from equipoise.commands.doctor import fix
from equipoise.commands.doctor.edit import edited
from equipoise.commands.doctor.fix import write_fixed
from equipoise.config import load_config
from equipoise.errors import UserError

FILE = """# my scan
data:
  path: scan.npy   # from the lab
  size: 32
physics:
  kind: fan_beam
  angles: 24       # all around
  source_distance: 80
  detector_distance: 40
  detectors: 56    # of them
  noise: 0.002
model: {denoiser: random, max_steps: 5}
learning: {steps: 1, batch: 1}
"""


def scan(folder, y, text=FILE):
    np.save(folder / "scan.npy", y)
    (folder / "mine.yaml").write_text(text)
    return folder / "mine.yaml"


def measured(**options):
    physics = eq.FanBeam(32, 24, 80, 40, detectors=56, **options)
    y = physics.A(eq.phantoms(1, 32, 4))[:, 0].numpy()
    return y + 0.001 * y.max() * np.random.default_rng(0).standard_normal(y.shape)


def fixed(file, out, overrides=None):
    said = []
    left = write_fixed(file, overrides, out, said.append)
    return left, load_config(out), "\n".join(said)


def test_the_axis(tmp_path):
    file = scan(tmp_path, measured(offset=2.4))
    left, config, said = fixed(file, tmp_path / "new.yaml")
    assert left == 0
    assert config.physics.offset == pytest.approx(2.4, abs=0.1)
    assert "changed: physics.offset=2." in said
    text = (tmp_path / "new.yaml").read_text()
    for comment in ("# my scan", "# from the lab", "# all around", "# of them"):
        assert comment in text
    assert file.read_text() == FILE


@pytest.mark.slow
def test_the_sense_and_the_axis_one_after_the_other(tmp_path):
    file = scan(tmp_path, measured(offset=2.4)[:, ::-1].copy())
    _, config, said = fixed(file, tmp_path / "new.yaml")
    assert config.physics.sense == -1
    assert config.physics.offset == pytest.approx(2.4, abs=0.1)
    assert said.count("changed") == 2


@pytest.mark.slow
def test_from_the_shell_and_trained(tmp_path):
    scan(tmp_path, 30 * measured())
    done = equipoise("doctor", "mine.yaml", "--fix", "new.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "changed: data.peak=" in done.stdout
    again = equipoise("doctor", "mine.yaml", "--fix", "new.yaml", cwd=tmp_path)
    assert (again.returncode, "exists" in again.stderr) == (2, True)
    trained = equipoise("train", "new.yaml", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr


@pytest.mark.slow
def test_a_range_of_views_stays_one(tmp_path):
    """YAML 1.1 would read 0:24:2 as a number to base 60."""
    text = FILE.replace("angles: 24       # all around", "angles: 24\n  views: 0:24:2")
    file = scan(tmp_path, 30 * measured(), text)
    _, config, said = fixed(file, tmp_path / "new.yaml")
    assert "changed: data.peak=" in said
    assert config.physics.views == "0:24:2"
    _, config, _ = fixed(file, tmp_path / "other.yaml", ["physics.views=1:24:3"])
    assert config.physics.views == "1:24:3"


@pytest.mark.slow
def test_what_is_still_wrong_after_the_last_round_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(fix, "MOST_ROUNDS", 1)
    file = scan(tmp_path, measured(offset=2.4)[:, ::-1].copy())  # the sense and the axis
    left, _, said = fixed(file, tmp_path / "new.yaml")
    assert left >= 1
    assert said.count("changed") == 1
    assert said.count("by hand") == left


@pytest.mark.slow
def test_nothing_is_left_beside_the_file(tmp_path):
    file = scan(tmp_path, 30 * measured())
    fixed(file, tmp_path / "new.yaml")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.yaml", "new.yaml", "scan.npy"]


def test_into_another_folder(tmp_path):
    """Paths that are found beside the file are not beside another."""
    file = scan(tmp_path, 30 * measured())
    _, config, _ = fixed(file, tmp_path / "elsewhere" / "new.yaml")
    assert config.data.path.exists()


def test_nothing_is_overwritten(tmp_path):
    file = scan(tmp_path, measured())
    with pytest.raises(UserError, match="exists; nothing was written"):
        write_fixed(file, None, file)
    assert file.read_text() == FILE


def test_lines_are_changed_where_they_stand():
    text = "a: 1  # one\nphysics:\n  kind: mri  # k\n  angles:\n  - 1\n  - 2\n  noise: 0.1\nb: 2\n"
    new, kept = edited(text, {"physics.angles": [3.0, 4.0], "physics.noise": None, "b": 5})
    assert kept
    assert new == "a: 1  # one\nphysics:\n  kind: mri  # k\n  angles: [3.0, 4.0]\nb: 5\n"
    new, kept = edited(text, {"data.peak": 2.5})
    assert kept
    assert yaml.safe_load(new)["data"] == {"peak": 2.5}


def test_what_is_on_one_line_is_written_anew():
    new, kept = edited("physics: {kind: mri}  # short\n", {"physics.noise": 0.1})
    assert not kept
    assert yaml.safe_load(new) == {"physics": {"kind": "mri", "noise": 0.1}}
    new, kept = edited("physics: {kind: mri}\n", {"physics.noise": 0.1})
    assert kept  # there was no comment to lose
