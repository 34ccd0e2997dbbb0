"""Laws of the denoisers."""

from __future__ import annotations

import pytest
import torch

import equipoise as eq
from equipoise.reconstruction.denoisers import ComplexDenoiser, make_denoiser, save_denoiser


class TestPriors:
    def test_invariant_denoisers_commute_with_the_group(self):
        torch.manual_seed(0)
        group = eq.Rotations(multiples=90) * eq.Reflections(("x",))
        denoiser = eq.Invariant(eq.ConvDenoiser(channels=4, layers=2).double(), group)
        assert len(denoiser.moves) == 8
        x = torch.rand(2, 1, 10, 10, dtype=torch.float64)
        for move in denoiser.moves:
            a, b = group.transform(denoiser(x), **move), denoiser(group.transform(x, **move))
            assert (a - b).abs().max() < 1e-14
        assert (
            denoiser.denoiser(x.rot90(1, (2, 3))) - denoiser.denoiser(x).rot90(1, (2, 3))
        ).abs().max() > 1e-6
        with pytest.raises(ValueError, match="no finite group"):
            eq.Invariant(denoiser, eq.Rotations())

    def test_invariant_denoisers_of_sequences_and_rectangles(self):
        torch.manual_seed(0)
        inner = ComplexDenoiser(eq.ConvDenoiser(channels=4, layers=2).double())
        flips = eq.Invariant(inner, eq.Reflections())
        x = torch.rand(2, 2, 3, 8, 10, dtype=torch.float64)
        for move in flips.moves:
            moved = eq.Reflections().transform(x, **move)
            expected = eq.Reflections().transform(flips(x, 0.1), **move)
            assert (flips(moved, 0.1) - expected).abs().max() < 1e-14
        frame = flips(x[:, :, 1], 0.1)
        assert (flips(x, 0.1)[:, :, 1] - frame).abs().max() < 1e-14
        turns = eq.Invariant(inner, eq.Rotations(multiples=90))
        with pytest.raises(ValueError, match=r"images must be square to be turned, got \(8, 10\)"):
            turns(x)
        assert turns(x[..., :8], 0.1).shape == (2, 2, 3, 8, 8)

    def test_complex_images_are_two_real_ones_in_other_units(self):
        torch.manual_seed(0)
        D = eq.ConvDenoiser(channels=4, layers=2).double()
        with torch.no_grad():
            D.noise.normal_()
        x = 2 * torch.rand(3, 2, 2, 8, 8, dtype=torch.float64) - 1
        levels = torch.tensor([0.02, 0.1, 0.3], dtype=torch.float64)
        out = ComplexDenoiser(D)(x, levels)
        for b in range(3):
            for part in range(2):
                for t in range(2):
                    image = x[b, part, t][None, None]
                    expected = 2 * D((image + 1) / 2, levels[b] / 2) - 1
                    assert (out[b, part, t] - expected[0, 0]).abs().max() < 1e-14
        assert (ComplexDenoiser(D)(x, 0.1)[1] - out[1]).abs().max() < 1e-14

    def test_a_proximal_network_without_layers_is_its_convexity(self):
        """ψ(x) = ½α‖x‖² + ½‖Q x‖²: D(x) = α x + QᵀQ x, and the identity at first."""
        torch.manual_seed(0)
        D = eq.ProximalNetwork(channels=3, layers=2, convexity=0.2).double()
        x = torch.rand(1, 1, 9, 9, dtype=torch.float64)
        assert (D(x) - x).norm() < 0.2 * x.norm()
        with torch.no_grad():
            D.last.zero_()
            D.Q.weight.zero_()
            D.Q.weight[0, 0, 2, 2] = 0.5
        c = 0.2 + 0.25
        assert (D(x, 0.0) - c * x).abs().max() < 1e-12
        # c x = prox_φ(x) of φ(u) = ½ (1/c − 1) ‖u‖²
        assert float(D.prior(x, 0.0)) == pytest.approx(
            float((1 / c - 1) / 2 * (c * x).square().sum())
        )
        with pytest.raises(ValueError, match=r"convexity must be in \(0, 1\), got 1"):
            eq.ProximalNetwork(convexity=1)

    def test_a_proximal_network_is_a_proximal_map(self):
        torch.manual_seed(0)
        D = eq.ProximalNetwork(channels=6, layers=3).double()
        with torch.no_grad():
            for p in D.parameters():
                p.add_(0.1 * torch.randn_like(p))
        x = torch.rand(1, 1, 6, 6, dtype=torch.float64)
        J = torch.autograd.functional.jacobian(lambda v: D(v, 0.1), x).reshape(36, 36)
        assert (J - J.T).abs().max() < 1e-12
        assert float(torch.linalg.eigvalsh(J).min()) >= D.convexity - 1e-9
        # D(x) minimises ½‖u − x‖² + φ(u): over all u = D(z), at which φ is known
        z = x + 0.5 * torch.randn(200, 1, 6, 6, dtype=torch.float64)
        value = 0.5 * (D(z, 0.1) - x).square().flatten(1).sum(1) + D.prior(z, 0.1)
        assert float(value.min()) >= float(0.5 * (D(x, 0.1) - x).square().sum() + D.prior(x, 0.1))

    def test_a_proximal_network_in_a_model(self):
        torch.manual_seed(0)
        physics = eq.ParallelBeam(8, 6, normalize=True)
        y = physics.A(torch.rand(2, 1, 8, 8, dtype=torch.float64))
        D = eq.ProximalNetwork(channels=4, layers=2).double()
        with torch.no_grad():
            D.Q.weight.mul_(0.7)
        stop = eq.Stop(1e-11, 400)
        model = eq.EquilibriumReconstructor(
            eq.ProximalStep(D, 0.3, tol=1e-13).double(), stop=stop, gradient=eq.Implicit(stop=stop)
        )
        weight = D.Q.weight
        (g,) = torch.autograd.grad(model(y, physics).square().sum(), weight)
        e = torch.randn_like(weight)
        with torch.no_grad():
            values = []
            for h in (1e-5, -1e-5):
                weight.add_(h * e)
                values.append(float(model(y, physics).square().sum()))
                weight.sub_(h * e)
        assert abs((values[0] - values[1]) / 2e-5 - float((g * e).sum())) < 1e-5 * abs(
            float((g * e).sum())
        )

    @pytest.mark.parametrize("name", ["shipped", "unet"])
    def test_shipped_weights_denoise(self, name):
        x = eq.phantoms(4, 63, 900)
        noisy = x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            out = eq.load_denoiser(name)(noisy, 0.05)
        assert out.shape == x.shape
        assert (out - x).square().mean() < 0.2 * (noisy - x).square().mean()


class TestDenoiser:
    def test_shipped_one_denoises_what_it_never_saw(self):
        clean = eq.phantoms(6, 64, seed=12345)
        noisy = clean + 0.05 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            out = eq.load_denoiser()(noisy, 0.05)
        gain = 10 * torch.log10((noisy - clean).square().mean() / (out - clean).square().mean())
        assert float(gain) > 7

    def test_saved_and_loaded(self, tmp_path):
        a = eq.ConvDenoiser(2, 5, 3)
        save_denoiser(a, tmp_path / "d.safetensors", {"command": "none"})
        b = eq.load_denoiser(tmp_path / "d.safetensors")
        x = torch.rand(2, 2, 9, 9)
        assert torch.equal(a(x, 0.1), b(x, 0.1))
        with pytest.raises(FileNotFoundError, match="equipoise pretrain"):
            eq.load_denoiser(tmp_path / "nothing.safetensors")

    def test_noise_level_per_sample(self):
        d, x = eq.load_denoiser(), torch.rand(2, 1, 16, 16)
        both = d(x, torch.tensor([0.02, 0.1]))
        assert torch.allclose(both[1:], d(x[1:], 0.1), atol=1e-6)
        assert not torch.allclose(both[0], d(x[:1], 0.1)[0], atol=1e-6)

    @pytest.mark.parametrize("kind", [eq.ConvDenoiser, eq.UNet, eq.ProximalNetwork])
    def test_a_network_is_made_again_from_its_config(self, kind):
        network = kind(in_channels=2, channels=3)
        other = make_denoiser(network.config)
        assert type(other) is kind
        other.load_state_dict(network.state_dict())
        x = torch.rand(1, 2, 9, 10)
        assert torch.equal(other(x, 0.1), network(x, 0.1))

    @pytest.mark.parametrize("kind", [eq.ConvDenoiser, eq.UNet, eq.ProximalNetwork])
    def test_every_weight_takes_part(self, kind):
        """In the image, and so in its gradient."""
        torch.manual_seed(0)
        network = kind(in_channels=2, channels=3)
        x = torch.rand(2, 2, 9, 10)
        network(x, 0.1).square().sum().backward()
        idle = [name for name, p in network.named_parameters() if not p.grad.abs().sum() > 0]
        assert not idle

    def test_too_few_layers(self):
        with pytest.raises(ValueError, match="layers must be at least 2, got 1"):
            eq.ConvDenoiser(layers=1)
        with pytest.raises(ValueError, match="scales must be at least 2, got 1"):
            eq.UNet(scales=1)

    @pytest.mark.parametrize("network", [eq.ConvDenoiser(), eq.UNet(channels=4)])
    def test_the_residual_starts_small_and_the_level_counts(self, network):
        x = torch.rand(2, 1, 13, 10)
        assert 0 < float((network(x, 0.1) - x).norm()) < 0.3 * float(x.norm())
        assert torch.equal(network(x, 0.1), network(x, 0.3))  # its bias starts at zero
        with torch.no_grad():
            for name, p in network.named_parameters():
                if name.startswith("noise"):
                    p.fill_(0.1)
        middle = network(x, torch.tensor([0.1, 0.3]))
        assert torch.allclose(middle[0], network(x, 0.1)[0], atol=1e-6)
        assert torch.allclose(middle[1], network(x, 0.3)[1], atol=1e-6)
        assert not torch.allclose(network(x, 0.1), network(x, 0.3), atol=1e-5)
