"""deepinv's networks by name: their weights come from a file, and so does their shape."""

from __future__ import annotations

import deepinv.models
import pytest
import torch
from safetensors.torch import save_file

from equipoise.config import parse
from equipoise.errors import UserError
from equipoise.reconstruction.denoisers import make_denoiser


def drunet(channels=1):
    torch.manual_seed(0)
    return deepinv.models.DRUNet(channels, channels, nc=(4, 5, 6, 7), nb=2, pretrained=None).eval()


def unet(batch_norm=False):
    torch.manual_seed(0)
    return deepinv.models.UNet(
        1, 1, channels_per_scale=(4, 5, 6), scales=3, batch_norm=batch_norm
    ).eval()


def made(kind, path):
    config = parse({"model": {"denoiser": {"kind": kind, "path": str(path)}}}, "test")
    return config.model.denoiser.make()


@pytest.mark.parametrize("how", ["pth", "wrapped", "parallel", "safetensors"])
@pytest.mark.parametrize(("kind", "network"), [("drunet", drunet), ("deepinv_unet", unet)])
def test_it_is_deepinvs(tmp_path, kind, network, how):
    theirs = network()
    state = theirs.state_dict()
    path = tmp_path / f"weights.{'safetensors' if how == 'safetensors' else 'pth'}"
    if how == "safetensors":
        save_file(state, str(path))
    elif how == "parallel":
        torch.save({f"module.{k}": v for k, v in state.items()}, path)
    else:
        torch.save({"state_dict": state} if how == "wrapped" else state, path)
    ours = made(kind, path)
    x = torch.rand(2, 1, 32, 40)
    with torch.no_grad():
        assert torch.equal(ours(x, 0.1), theirs(x, 0.1))
    again = make_denoiser(ours.config)
    again.load_state_dict(ours.state_dict())
    assert torch.equal(again(x, 0.1), ours(x, 0.1))


def test_sizes_that_need_padding(tmp_path):
    """Smaller than its coarsest scale, and those that deepinv would cut into pieces."""
    torch.save(drunet().state_dict(), tmp_path / "w.pth")
    D = made("drunet", tmp_path / "w.pth").eval()
    for shape in ((9, 12), (70, 81)):
        x = torch.rand(1, 1, *shape)
        both = D(torch.cat([x, x]), torch.tensor([0.1, 0.02]))
        assert both.shape == (2, 1, *shape)
        assert torch.allclose(both[:1], D(x, 0.1), atol=1e-6)
        wanted = [max(32, side + -side % 8) for side in shape]
        missing = (0, wanted[1] - shape[1], 0, wanted[0] - shape[0])
        padded = D(torch.nn.functional.pad(x, missing, mode="replicate"), 0.1)
        assert torch.equal(D(x, 0.1), padded[..., : shape[0], : shape[1]])
    assert not torch.allclose(both[0], both[1])


def test_complex_images(tmp_path):
    torch.save(drunet().state_dict(), tmp_path / "w.pth")
    tree = {"model": {"denoiser": {"kind": "drunet", "path": str(tmp_path / "w.pth")}}}
    D = parse(tree, "test").model.make_denoiser(2)
    assert D(torch.rand(1, 2, 32, 32), 0.1).shape == (1, 2, 32, 32)


def test_what_does_not_fit_says_why(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(drunet(3).state_dict(), path)
    with pytest.raises(UserError, match="3 channels, and 1 is needed"):
        made("drunet", path)
    with pytest.raises(UserError, match="weights of another network"):
        made("deepinv_unet", path)
    torch.save(unet(True).state_dict(), path)
    with pytest.raises(UserError, match="batch normalisation"):
        made("deepinv_unet", path)
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="not the weights of a network"):
        made("drunet", path)
    path.write_bytes(b"no weights at all")
    with pytest.raises(UserError, match="cannot be read"):
        made("drunet", path)
    state = drunet().state_dict()
    state["m_tail.weight"] = state["m_tail.weight"][:, :2]
    torch.save(state, path)
    with pytest.raises(UserError, match="m_tail"):
        made("drunet", path)
    with pytest.raises(UserError, match="missing"):
        parse({"model": {"denoiser": "drunet"}}, "test")
