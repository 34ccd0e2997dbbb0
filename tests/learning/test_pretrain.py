"""The denoiser that models start from: it learns, goes on where it stopped, says what made it."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from support import quiet

import equipoise as eq
from equipoise.errors import UserError
from equipoise.imaging.scenes import heads, scenes
from equipoise.imaging.torsos import torsos
from equipoise.learning import pretrain as module
from equipoise.learning.pretrain import Pretraining, pretrain

SMALL = {"images": 8, "batch": 4, "patch": 24}


def weights(path):
    return eq.load_denoiser(path).state_dict()


@pytest.mark.slow
def test_it_learns(tmp_path):
    before = Pretraining("unet", 1, **SMALL).scores()
    after = pretrain(tmp_path / "d.safetensors", 60, "unet", say=quiet, **SMALL)
    assert after["psnr_sigma_0.1"] > before["psnr_sigma_0.1"] + 0.4
    with safe_open(str(tmp_path / "d.safetensors"), "pt") as file:
        about = file.metadata()
    assert about["command"] == "equipoise pretrain --architecture unet --steps 60 --seed 0"
    assert about["scores"] == str(after)
    assert [p.name for p in tmp_path.iterdir()] == ["d.safetensors"]


@pytest.mark.slow
def test_what_was_interrupted_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "EVERY", 3)
    pretrain(tmp_path / "whole.safetensors", 8, "conv", say=quiet, **SMALL)

    def stop_after_six(text):
        if text.startswith("step 6"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(tmp_path / "d.safetensors", 8, "conv", say=stop_after_six, **SMALL)
    said = []
    pretrain(tmp_path / "d.safetensors", 8, "conv", say=said.append, **SMALL)
    assert "goes on after step 6" in said
    one, other = weights(tmp_path / "whole.safetensors"), weights(tmp_path / "d.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_was_begun_otherwise_is_not_continued(tmp_path, monkeypatch):
    training = Pretraining("conv", 8, **SMALL)
    training.save(tmp_path / "d.safetensors.checkpoint")
    with pytest.raises(UserError, match="go on with the same options"):
        pretrain(tmp_path / "d.safetensors", 9, "conv", say=quiet, **SMALL)
    assert (tmp_path / "d.safetensors.checkpoint").exists()


def test_the_average_follows_the_weights():
    training = Pretraining("conv", 20, **SMALL)
    first = [p.clone() for p in training.average.parameters()]
    training.take_step()
    for mean, start, now in zip(
        training.average.parameters(), first, training.model.parameters(), strict=True
    ):
        assert torch.allclose(mean, start + 0.9 * (now - start), atol=1e-6)


@pytest.mark.parametrize("make", [scenes, heads, torsos])
def test_images_are_made_from_the_seed(make):
    """Each in [0, 1], none like the other, and the same whatever else is made."""
    images = make(4, 64, 3)
    assert images.shape == (4, 1, 64, 64)
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1
    assert torch.equal(make(2, 64, 3), images[:2])
    assert not torch.equal(make(1, 64, 4), images[:1])
    assert all(float((images[0] - image).abs().mean()) > 0.01 for image in images[1:])
    assert float(images.std()) > 0.05
