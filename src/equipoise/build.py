"""Where a configuration becomes objects: operator, objective, problem (the model: ``reconstruction/assemble.py``)."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import deepinv.physics as deepinv
import torch
from deepinv.loss import SureGaussianLoss, SurePoissonLoss, TVLoss
from deepinv.physics.functional import gaussian_blur
from torch import Tensor
from torch.utils.data import Dataset

from . import config as settings
from .errors import UserError
from .imaging.data import Images, Stack, in_memory, read_images, read_kspace, read_measurements, split_by_patient
from .imaging.groups import named_group
from .imaging.linear import variant
from .imaging.mri import MASKS, acquisition, birdcage, edge_samples
from .imaging.operators import PER_SAMPLE, from_file, prepared, select
from .imaging.phantoms import phantoms, smooth_phase
from .imaging.readers import Found, find
from .imaging.splitting import split
from .imaging.tomography import FanBeam, ParallelBeam
from .learning.objectives import (
    Equivariance,
    MeasurementConsistency,
    MultiOperator,
    Recorrupted,
    Splitting,
    Supervised,
    Weighted,
)
from .reconstruction.assemble import MIN_STRENGTH, build_denoiser, build_gradient, build_model, denoiser_config
from .reconstruction.contraction import JacobianPenalty

__all__ = ["MIN_STRENGTH", "build_denoiser", "build_gradient", "build_model", "denoiser_config"]  # of the model, from there


def build_physics(config: settings.Physics, size: int, seed: int = 0) -> Any:
    """The operator with ‖A‖ = 1, which knows its ``gain``, ``image_shape`` and ``measurement_shape``."""
    try:
        frames = config.frames if isinstance(config, settings.DynamicMRI) else None
        return prepared(_operator(config, size, seed), size, frames)
    except (ValueError, ImportError) as error:
        raise UserError(f"physics: {error}") from error


def _operator(c: settings.Physics, size: int, seed: int) -> Any:
    rng, shape = torch.Generator().manual_seed(seed), (1, size, size)
    match c:
        case settings.ParallelBeam():
            return ParallelBeam(size, c.angles, c.detectors, c.pixel, offset=c.offset, normalize=True)
        case settings.FanBeam():
            distances = c.source_distance, c.detector_distance
            options: dict[str, Any] = {"pitch": c.pitch, "curved": c.curved, "offset": c.offset, "normalize": True}
            return FanBeam(size, c.angles, *distances, c.detectors, c.pixel, **options)
        case settings.MRI():
            mask = MASKS[c.mask](size, size, c.acceleration, c.center, seed)
            if c.coils == 1:
                return deepinv.MRI(mask=mask, img_size=(size, size))
            return deepinv.MultiCoilMRI(mask=mask, coil_maps=birdcage(c.coils, size, size), img_size=(size, size))
        case settings.DynamicMRI():
            frames = [MASKS[c.mask](size, size, c.acceleration, c.center, seed + t) for t in range(c.frames)]
            return deepinv.DynamicMRI(mask=torch.stack(frames), img_size=(2, c.frames, size, size))
        case settings.NonCartesianMRI():
            return deepinv.NonCartesianMRI(
                img_size=(2, size, size), trajectory=c.trajectory, num_shots=c.shots, num_samples_per_shot=c.samples
            )
        case settings.Inpainting():
            return deepinv.Inpainting(shape, mask=(torch.rand(shape, generator=rng) < c.keep).float())
        case settings.Blur():
            return deepinv.BlurFFT(shape, filter=gaussian_blur(sigma=(c.width, c.width)))
        case settings.SuperResolution():
            return deepinv.Downsampling(img_size=shape, filter="bicubic", factor=c.factor)
        case settings.CompressedSensing():
            return deepinv.CompressedSensing(max(1, round(c.ratio * size * size)), shape, rng=rng)
        case settings.Custom():
            return from_file(c.file, size)


PHANTOM_SEED = 77_000  # none of the phantoms that the shipped denoiser was trained on


def build_objective(config: settings.Objective, physics: Any, y: Tensor | Dataset) -> dict[str, Any]:
    """Name → loss; what is weighted zero is left out. ``physics`` has its noise model.

    Raises:
        UserError: nothing is left, or the measurements cannot be split.
    """
    losses: dict[str, Any] = {}
    if config.consistency:
        losses["consistency"] = MeasurementConsistency(config.consistency, config.floor)
    if config.splitting:
        try:
            split(physics, y[0][None], config.parts, 0)
        except (ValueError, TypeError) as error:
            raise UserError(f"objective.parts={config.parts}: {error}, or set objective.splitting=0") from error
        losses["splitting"] = Splitting(config.parts, config.splitting, config.floor)
    if config.equivariance:
        group = named_group(config.group, config.draws)
        losses["equivariance"] = Equivariance(group, config.equivariance, config.renoise, config.stop_gradient)
    if config.operators:
        if not any(len(getattr(physics, name, ())) > 1 for name in PER_SAMPLE):
            raise UserError("objective.operators: all samples share one operator; set it to 0, or give each its own mask")
        losses["operators"] = MultiOperator(config.operators, noise=config.renoise)
    noise: Any = getattr(physics, "noise_model", None)
    if config.sure:
        poisson = isinstance(noise, deepinv.PoissonNoise)
        risk = SurePoissonLoss(float(noise.gain)) if poisson else SureGaussianLoss(float(getattr(noise, "sigma", 0)))
        losses["sure"] = Weighted(risk, config.sure)
    if config.r2r:
        if not isinstance(noise, deepinv.GaussianNoise):
            raise UserError("objective.r2r needs Gaussian noise; set it to 0, or leave out physics.photons")
        losses["r2r"] = Recorrupted(float(noise.sigma), config.r2r)
    if config.supervised:
        losses["supervised"] = Supervised(config.supervised)
    if config.variation:
        losses["variation"] = TVLoss(config.variation)
    if config.contraction:
        losses["contraction"] = JacobianPenalty(config.contraction, config.bound)
    if not losses:
        raise UserError("objective: all weights are 0, so there is nothing to learn from; raise objective.consistency")
    return losses


@dataclass
class Problem:
    """Measurements in the units of the model, what measured them, and where they came from."""

    physics: Any
    y: Any  #: (N, …) for physics with ‖A‖ = 1; a data set of them, if they are read while training
    noise: float  #: standard deviation of the noise in y
    source: Stack
    truth: Tensor | None  #: (N, C, H, W) where images were measured; training never sees it


def as_complex(images: Tensor, seed: int) -> Tensor:
    """Magnitudes (N, 1, …, H, W) with a smooth synthetic phase: real and imaginary part, (N, 2, …, H, W)."""
    phase = smooth_phase(len(images), images.shape[-1], seed).reshape(len(images), *[1] * (images.ndim - 3), *images.shape[-2:])
    return torch.cat([images * phase.cos(), images * phase.sin()], 1)


def as_sequences(images: Images, physics: Any) -> Images:
    """Those that follow each other as the frames of one sequence, (1, T, H, W), where the physics measures such.

    Raises:
        UserError: there are fewer images than a sequence has frames.
    """
    if len(physics.image_shape) == 3:
        return images
    frames, n = physics.image_shape[1], len(images)
    if n < frames:
        raise UserError(f"{images.path}: {n} images, but a sequence has {frames} frames; lower physics.frames")
    starts = range(0, n - frames + 1, frames)
    load = [partial(_sequence, images, range(i, i + frames)) for i in starts]
    left = [f"{n - len(load) * frames} images at the end make no whole sequence and are left out"] if n % frames else []
    names, patients = [images.names[i] for i in starts], [images.patients[i] for i in starts]
    return Images(load, names, patients, "npy", images.path, images.notes + left)


def _sequence(images: Images, index: range) -> Tensor:
    return torch.stack([images[i] for i in index], 1)


def set_noise(physics: Any, config: settings.Physics, sigma: float) -> None:
    """The noise that the physics adds when it is called; for MRI it is masked with the measurements."""
    if config.photons is None:
        physics.noise_model = deepinv.GaussianNoise(sigma)
    else:
        physics.noise_model = deepinv.PoissonNoise(physics.gain / config.photons, clip_positive=True)


def noise_level(config: settings.Physics, physics: Any, clean: Tensor) -> float:
    """Standard deviation of the noise in measurements like ``clean``: ``noise`` times the largest, or of the counts."""
    if config.photons is None:
        return config.noise * float(clean.abs().max())
    if float(clean.min()) < -1e-3 * float(clean.abs().max()):
        raise UserError(
            "physics.photons: these measurements are negative in places, counts are not; leave it out and set physics.noise"
        )
    return float((clean.clamp_min(0).mean() * physics.gain / config.photons).sqrt())


def measure(images: Tensor, physics: Any, config: settings.Physics, seed: int, sigma: float | None = None) -> tuple[Tensor, float]:
    """y = A x + noise for every image, and the noise's standard deviation."""
    with torch.no_grad():
        clean = torch.cat([physics.A(x) for x in images.split(32)])
    sigma = noise_level(config, physics, clean) if sigma is None else sigma
    noisy = variant(physics)
    set_noise(noisy, config, sigma)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return noisy.noise(clean), sigma


class Streamed(Dataset):
    """Measurements, each made (or read) when it is asked for; ``worker`` processes may do so."""

    def __init__(self, source: Stack, measurement: Any):
        self.source, self.measurement = source, measurement

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Tensor:
        y: Tensor = self.measurement(self.source[i][None], i)[0]
        return y


def build_problem(
    config: settings.Config, physics: Any, path: Any = None, seed: int | None = None, stream: bool = False
) -> Problem:
    """Reads (or makes) the data, and measures them if they are images.

    Args:
        physics: from ``build_physics``. A real MRI acquisition brings its own mask and coil maps instead.
        path: data to read instead of those in the configuration.
        seed: of the phantoms and the noise, instead of the configuration's.
        stream: leave the data in their files until they are asked for.
    """
    problem = _read_or_make(config, physics, path, seed, stream)
    if config.model.precision != "64":
        return problem
    double = copy.deepcopy(problem.physics).double()  # streamed measurements go on being made by their own
    for part in double.modules():
        if vars(part).get("dtype") == torch.float32:
            part.dtype = torch.float64  # compressed sensing casts to what it says
    y, truth = problem.y, None if problem.truth is None else problem.truth.double()
    twice = y.double() if isinstance(y, Tensor) else Streamed(problem.source, lambda x, i: y.measurement(x, i).double())
    return replace(problem, physics=double, y=twice, truth=truth)


def _read_or_make(config: settings.Config, physics: Any, path: Any, seed: int | None, stream: bool) -> Problem:
    d, seed = config.data, config.seed if seed is None else seed
    kind = d.kind
    if path is None and (d.path is None or kind == "phantoms"):
        if kind not in ("auto", "phantoms"):
            raise UserError(f"data.path: missing, but data.kind is {kind!r}; name a folder or a file")
        looks = ("brain",) if physics.image_shape[0] == 2 else ("thorax", "abdomen", "head")
        values = phantoms(d.count, d.size, PHANTOM_SEED + seed, looks)
        return _measured(in_memory(values, [f"phantom_{i:03d}" for i in range(d.count)]), config, physics, seed, stream)
    found = find(Path(d.path if path is None else path))  # type: ignore[arg-type]
    holds = "images" if found.kind not in ("npy", "npz", "kspace", "bart") else "measurements"
    # What data.kind says is about data.path; other data are what they look like, unless they could be either.
    if kind in ("images", "measurements") and (path is None or found.kind in ("npy", "npz", "tiff")):
        holds = kind
    if holds == "images":
        return _measured(read_images(found, d.size), config, physics, seed, stream)
    if isinstance(config.physics, settings.MRI) and all(entry.complex for entry in found.entries):
        return _acquired(found, config)
    source = read_measurements(found, tuple(physics.measurement_shape))
    factor = physics.gain / d.peak
    if stream:
        few = torch.stack([source[i] for i in range(min(FEW, len(source)))]) * factor
        return Problem(physics, Streamed(source, lambda y, i: y * factor), noise_level(config.physics, physics, few), source, None)
    y = source.values * factor
    return Problem(physics, y, noise_level(config.physics, physics, y), source, None)


FEW = 32  # of a streamed data set, those that tell the noise level


def _measured(images: Images, config: settings.Config, physics: Any, seed: int, stream: bool) -> Problem:
    two = physics.image_shape[0] == 2
    images = as_sequences(images, physics)
    if not stream:
        truth = as_complex(images.values, seed) if two else images.values
        y, sigma = measure(truth, physics, config.physics, seed + 1)
        return Problem(physics, y, sigma, images, truth)

    def one(x: Tensor, i: int, sigma: float | None = None) -> tuple[Tensor, float]:
        x = as_complex(x, seed + i) if two else x
        return measure(x, physics, config.physics, seed + 1 + i, sigma)

    sigma = max(one(images[i][None], i)[1] for i in range(min(FEW, len(images))))
    return Problem(physics, Streamed(images, lambda x, i: one(x, i, sigma)[0]), sigma, images, None)


def _acquired(found: Found, config: settings.Config) -> Problem:
    """Real acquisitions: mask, coil maps, noise and scale come from the data.

    Those that are fully sampled are undersampled as ``physics.mask`` says.
    """
    source = read_kspace(found)
    kspaces = [source[i] for i in range(len(source))]
    parts, noise = [], torch.cat([edge_samples(kspace) for kspace in kspaces], 1)
    for name, kspace in zip(source.names, kspaces):
        try:
            parts.append(acquisition(kspace, noise=noise))
        except UserError as error:
            raise UserError(f"{found.path}, {name}: {error}") from error
    # One noise covariance and one scale for all, so that slices keep their brightness.
    scale = max(a.scale for a in parts)
    y = torch.cat([a.y * (a.scale / scale) for a in parts])
    masks = torch.cat([a.physics.mask for a in parts])
    plane = masks.flatten(0, 1).amax(0)
    inside = plane[plane.any(1)][:, plane.any(0)]  # without the zeros that k-space is padded with
    source.notes.append(f"{float(plane.mean()):.1%} of k-space is measured; 1 is {scale:.3g} in the whitened data's units")
    if float(inside.mean()) > 0.95:
        c = config.physics
        assert isinstance(c, settings.MRI)
        try:
            masks = masks * MASKS[c.mask](masks.shape[-2], masks.shape[-1], c.acceleration, c.center, config.seed)
        except ValueError as error:
            raise UserError(f"physics: {error}") from error
        source.notes.append(f"k-space is fully sampled; undersampled {c.acceleration:g}-fold by physics.mask")
        y = y * (masks if y.ndim == 4 else masks[:, :, None])
    shared = bool((masks == masks[:1]).all())
    own: dict[str, Any] = {"mask": masks[:1] if shared else masks, "img_size": tuple(masks.shape[-2:])}
    if y.ndim == 4:
        found_physics = deepinv.MRI(**own)
    else:
        found_physics = deepinv.MultiCoilMRI(coil_maps=torch.cat([a.physics.coil_maps for a in parts]), **own)
    found_physics.gain, found_physics.image_shape = 1.0, (2, *masks.shape[-2:])
    found_physics.measurement_shape = tuple(y.shape[1:])
    return Problem(found_physics, y, 1 / (scale * 2**0.5), source, None)


def hold_out(problem: Problem, fraction: float) -> tuple[Problem, Problem]:
    """The problem without some patients, and that of those patients alone; of one volume, a block of slices and those that
    are not next to it. The same for every seed.

    Raises:
        UserError: the data are one patient's, and too few to keep a block apart.
    """
    y, parts = problem.y, []
    for index in split_by_patient(problem.source.patients, fraction):
        some = torch.tensor(index)
        truth = None if problem.truth is None else problem.truth[some]
        parts.append(Problem(select(problem.physics, some, len(y)), y[some], problem.noise, problem.source.subset(index), truth))
    return parts[0], parts[1]
