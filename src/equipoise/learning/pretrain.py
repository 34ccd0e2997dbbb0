"""How the shipped denoiser was made: trained on synthetic images alone, from a seed."""

from __future__ import annotations

import copy
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..imaging.scenes import heads, scenes
from ..imaging.torsos import torsos
from ..machine import check_writable
from ..reconstruction.denoisers import make_denoiser, save_denoiser
from . import checkpoint

Say = Callable[[str], None]

#: Bounds of the noise level, which is log-uniform.
SIGMAS = (0.005, 0.15)
#: Squared errors are divided by σ and this, so that small levels count too.
SMALLEST_SIGMA = 0.02
#: Pixels of scenes, and of what is cut out of slices of bodies.
SIZE = 128
#: Of the average of the weights over steps, which is what is saved.
AVERAGE = 0.998
#: Where it is scored.
SCORED = (0.01, 0.02, 0.05, 0.1)
#: Steps from one checkpoint to the next.
EVERY = 500
#: How often each kind of images is drawn: torsos, heads, scenes.
SHARES = (0.55, 0.2, 0.25)


def synthetic(count: int, seed: int) -> tuple[Tensor, ...]:
    """Torsos, heads and scenes, each (N, 1, 128, 128) in [0, 1], N about as they are drawn; of
    bodies, which have twice as many pixels each way, the quarters."""
    quarters = [max(1, round(count * share / 4)) for share in SHARES[:2]]
    torso = torsos(quarters[0], 2 * SIZE, seed)
    head = heads(quarters[1], 2 * SIZE, seed)
    return _quarters(torso), _quarters(head), scenes(max(1, round(count * SHARES[2])), SIZE, seed)


def _quarters(images: Tensor) -> Tensor:
    return torch.cat(torch.cat(images.chunk(2, -2)).chunk(2, -1))


class Pretraining:
    """A denoiser in training: its weights, their average, the optimiser and the draws.

    Args:
        architecture: of the network, by its name.
        steps: of the optimiser.
        images: how many; they are made anew from the seed whenever it begins or goes on.
        batch: images a step.
        patch: their sides.
        lr: the largest learning rate; it rises over 100 steps, and falls as a cosine.
        seed: of everything random.
    """

    def __init__(
        self,
        architecture: str = "unet",
        steps: int = 14_000,
        images: int = 4000,
        batch: int = 10,
        patch: int = 96,
        lr: float = 2e-3,
        seed: int = 0,
    ):
        self.settings: dict[str, Any] = {
            "architecture": architecture,
            "steps": steps,
            "images": images,
            "batch": batch,
            "patch": patch,
            "lr": lr,
            "seed": seed,
        }
        torch.manual_seed(seed)
        self.model = make_denoiser({"architecture": architecture})
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr)
        self.rng = torch.Generator().manual_seed(seed)
        self.step = 0
        self.images = synthetic(images, seed)
        self.held_out = torch.cat(synthetic(40, seed + 1))

    def take_step(self) -> float:
        """One step of the optimiser; the loss."""
        noisy, clean, sigma = self._batch()
        loss = _loss(self.model, noisy, clean, sigma)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        # Of few steps, the average is over all of them.
        share = 1 - min(AVERAGE, self.step / (self.step + 9))
        with torch.no_grad():
            pairs = zip(self.average.parameters(), self.model.parameters(), strict=True)
            for mean, weight in pairs:
                mean.lerp_(weight, share)
        return float(loss.detach())

    def scores(self) -> dict[str, float]:
        """The PSNR of the averaged weights at some noise levels, on images of another seed."""
        return {f"psnr_sigma_{s}": round(self._mean_psnr(s), 2) for s in SCORED}

    def save(self, path: Path) -> None:
        """Writes all that it takes to go on."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        tensors |= checkpoint.flatten_optimizer(self.optimizer)
        tensors["rng"] = self.rng.get_state()
        checkpoint.write(path, tensors, {"step": self.step, "settings": self.settings})

    def restore(self, path: Path) -> None:
        """Undoes :meth:`save`.

        Raises:
            UserError: the file is damaged, or of other settings.
        """
        saved = checkpoint.read(path)
        if saved.state.get("settings") != self.settings:
            raise UserError(
                f"{path}: was begun with {saved.state.get('settings')}, not with {self.settings}; "
                "go on with the same options, delete it, or name another file with --out"
            )
        for name, network in (("model.", self.model), ("average.", self.average)):
            state = {
                k.removeprefix(name): v for k, v in saved.tensors.items() if k.startswith(name)
            }
            network.load_state_dict(state)
        checkpoint.restore_optimizer(self.optimizer, saved.tensors)
        self.rng.set_state(saved.tensors["rng"])
        self.step = saved.state["step"]

    def _learning_rate(self) -> float:
        rising = min(1.0, (self.step + 1) / 100)
        falling = 0.5 + 0.5 * math.cos(math.pi * self.step / self.settings["steps"])
        return float(self.settings["lr"]) * rising * falling

    def _batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Noisy and clean patches (batch, 1, patch, patch), and the noise levels (batch,)."""
        count, patch = self.settings["batch"], self.settings["patch"]
        kinds = torch.multinomial(torch.tensor(SHARES), count, True, generator=self.rng).tolist()
        parts = []
        for kind in kinds:
            images = self.images[kind]
            parts.append(images[torch.randint(0, len(images), (1,), generator=self.rng)])
        top, left = torch.randint(0, SIZE - patch + 1, (2,), generator=self.rng).tolist()
        x = torch.cat(parts)[..., top : top + patch, left : left + patch]
        x = _augmented(x, self.rng)
        low, high = (math.log(sigma) for sigma in SIGMAS)
        sigma = torch.exp(low + (high - low) * torch.rand(count, generator=self.rng))
        noise = torch.randn(x.shape, generator=self.rng)
        return x + sigma[:, None, None, None] * noise, x, sigma

    def _mean_psnr(self, sigma: float) -> float:
        """Of the held-out images, denoised of noise that is always the same."""
        x = self.held_out
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(7))
        with torch.no_grad():
            error = (self.average(x + sigma * noise, sigma) - x).square().flatten(1).mean(1)
        return float(-10 * error.log10().mean())


def _augmented(x: Tensor, rng: torch.Generator) -> Tensor:
    """A random quarter turn and flip of the batch, and a random contrast for some of its images."""
    turns = torch.randint(0, 4, (), generator=rng)
    is_flipped = torch.randint(0, 2, (), generator=rng)
    x = torch.rot90(x, int(turns), (-2, -1))
    x = x.flip(-1) if is_flipped else x
    largest = torch.tensor([0.3, 0.5])[:, None, None, None, None]
    low, high = torch.rand(2, len(x), 1, 1, 1, generator=rng) * largest
    unchanged = torch.rand(len(x), 1, 1, 1, generator=rng) < 0.6
    return torch.where(unchanged, x, low + (1 - low - high) * x)


def _loss(model: nn.Module, noisy: Tensor, clean: Tensor, sigma: Tensor) -> Tensor:
    """The squared error of each image, divided by σ, so that small levels count too."""
    error = (model(noisy, sigma) - clean).square().flatten(1).mean(1)
    return (error / (sigma + SMALLEST_SIGMA)).mean()


def pretrain(
    out: str | Path,
    steps: int = 14_000,
    architecture: str = "unet",
    seed: int = 0,
    say: Say = print,
    **settings: Any,
) -> dict[str, float]:
    """Trains a denoiser on synthetic images with noise, and writes safetensors to ``out``.

    What was begun goes on from ``out`` with ``.checkpoint`` appended, which is written every 500
    steps and deleted at the end; the result is the same, to the bit.

    Args:
        out: the file.
        steps: of the optimiser.
        architecture: "conv", "unet" or "proximal".
        seed: of everything random.
        say: is told how it goes.
        settings: see :class:`Pretraining`.

    Returns:
        The PSNR at some noise levels, on images of another seed.

    Raises:
        UserError: the checkpoint is damaged, or of other settings.
    """
    out = Path(out)
    check_writable(out.parent)
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(out.name + ".checkpoint")
    say("making images")
    training = Pretraining(architecture, steps, seed=seed, **settings)
    if unfinished.exists():
        training.restore(unfinished)
        say(f"goes on after step {training.step}")
    began, first, running = time.perf_counter(), training.step, math.nan
    while training.step < steps:
        loss = training.take_step()
        running = loss if math.isnan(running) else 0.99 * running + 0.01 * loss
        if training.step % EVERY == 0 or training.step == steps:
            training.save(unfinished)
            each = (time.perf_counter() - began) / (training.step - first)
            left = each * (steps - training.step) / 60
            score = training.scores()["psnr_sigma_0.05"]
            say(
                f"step {training.step}/{steps}  loss {running:.5f}  PSNR at sigma 0.05: "
                f"{score:.2f} dB  {each:.3f} s a step, {left:.0f} min left"
            )
    scores = training.scores()
    about = {
        "command": f"equipoise pretrain --architecture {architecture} --steps {steps} --seed "
        f"{seed}",
        "data": "synthetic: torsos, heads and shapes (equipoise.imaging.torsos, scenes)",
        "scores": str(scores),
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    save_denoiser(training.average, out, about)
    unfinished.unlink()
    return scores
