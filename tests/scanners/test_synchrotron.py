"""docs/scanners/synchrotron.md does what it says, on the real scan where that is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from support import DATA, ROOT, real_data
from typer.testing import CliRunner

from equipoise.cli import app
from equipoise.config import load_config
from equipoise.data.scan import Scan
from equipoise.run import described, load_data

PAGE = (ROOT / "docs" / "scanners" / "synchrotron.md").read_text()
TOOTH = DATA / "scanner" / "tooth.h5"
#: Training at the size of a stamp.
SHORT = ["learning.steps=1", "model.max_steps=3", "model.test_max_steps=3", "data.size=64"]
SHORT += ["physics.bin=10", "model.denoiser.kind=random", "model.gradient.max_steps=3"]


def blocks() -> list[str]:
    """What stands between fences."""
    return [text.strip() for text in re.findall(r"```\n(.*?)```", PAGE, re.S)]


@real_data
@pytest.mark.skipif(not TOOTH.exists(), reason=f"no scan at {TOOTH}")
def test_the_page_begins_with_a_command_that_works(tmp_path: Path):
    command, printed = blocks()[:2]
    assert PAGE.index(command) < 100
    name, verb, config, data = command.split()
    assert (name, verb) == ("equipoise", "train")
    options = [data.replace("my/scan.h5", str(TOOTH)), f"out={tmp_path / 'run'}", *SHORT]
    done = CliRunner().invoke(app, [verb, str(ROOT / config), *options])
    assert done.exit_code == 0, done.output
    geometry, used = printed.splitlines()
    assert geometry in done.output
    assert used.replace("128 detectors of 5", "64 detectors of 10") in done.output
    out = tmp_path / "out"
    done = CliRunner().invoke(
        app, ["reconstruct", str(tmp_path / "run"), str(TOOTH), str(out), "--as", "tiff"]
    )
    assert done.exit_code == 0, done.output
    assert (out / "images.tif").is_file()


def test_options_on_the_page_are_there():
    known = CliRunner().invoke(app, ["config"]).output
    for option in set(re.findall(r"`((?:data|physics|objective)\.\w+)", PAGE)):
        section, key = option.split(".")
        assert re.search(rf"^{section}\.(?:\w+\.)?{key}\b", known, re.M), option


def test_its_configuration_has_the_axis_found():
    tree = yaml.safe_load((ROOT / "configs" / "synchrotron.yaml").read_text())
    assert tree["physics"]["offset"] == "auto"


@real_data
def test_the_axis_of_the_tooth_is_found():
    """At detector 296 ± 0.5 of 640, whose middle is 319.5."""
    config = load_config(ROOT / "configs" / "synchrotron.yaml", [f"data.path={TOOTH}"])
    config = described(config)
    scan = Scan.planned(config.physics, config.data.size)
    dataset = load_data(config, scan)
    found = dataset.scan.settings.axis_found
    assert found == pytest.approx(319.5 - 296, abs=0.5)
    assert any("axis of rotation: physics.offset=+23." in note for note in dataset.notes)
