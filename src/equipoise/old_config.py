"""What a run is made of, as strict pydantic models: an unknown key is an error, and every option says what it means."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from .errors import UserError


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, tree: Any) -> Any:
        """pydantic would take ``steps: true`` for 1."""
        for key, value in tree.items() if isinstance(tree, dict) else ():
            field = cls.model_fields.get(key)
            if isinstance(value, bool) and field is not None and field.annotation is not bool:
                raise ValueError(f"{key} must be {'a number' if 'int' in str(field.annotation) else 'a value'}, not {value}")
        return tree


class Data(Strict):
    """What is measured."""

    path: Path | None = Field(None, description="file or folder of images (DICOM, NIfTI, HDF5, TIFF, PNG), k-space, or arrays")
    kind: Literal["auto", "images", "measurements", "phantoms"] = Field(
        "auto", description="auto: arrays and k-space are measurements, no path is phantoms, all else is images to be measured"
    )
    size: int = Field(64, ge=8, le=4096, description="pixels each way of the reconstruction; larger images are averaged down")
    peak: float = Field(1.0, gt=0, description="the value of x that counts as 1 in measurements from files")
    count: int = Field(200, ge=1, description="how many phantoms, if there is no path")
    validation: Path | None = Field(None, description="images to score on while training; never trained on")
    holdout: float = Field(0, ge=0, lt=1, description="fraction of the patients to keep from training and score on instead")
    keep_out: float = Field(
        0, ge=0, le=0.5, description="fraction (one half, third, quarter, …) of each measurement to validate on"
    )
    stream: bool = Field(False, description="read and measure while training, for data that do not fit into memory")

    @field_validator("path", "validation", mode="before")
    @classmethod
    def _name(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value  # a folder named 20240101


class Noise(Strict):
    """What every operator has: y = A x + noise."""

    noise: float = Field(0.001, ge=0, description="standard deviation of the noise, as a fraction of the largest measurement")
    photons: float | None = Field(
        None, gt=0, description="Poisson noise instead: how many counts a measurement of 1 stands for (of an image in [0, 1])"
    )


Views = Annotated[int, Field(ge=1)] | Annotated[list[float], Field(min_length=1)]


class Rays(Noise):
    """What both kinds of CT have."""

    pixel: float = Field(1.0, gt=0, description="length of a pixel's side, in the unit of the sinogram's lengths")
    offset: float = Field(0.0, description="of the detector's middle from the shadow of the centre of rotation, in detectors")


class ParallelBeam(Rays):
    """CT with parallel rays."""

    kind: Literal["parallel_beam"] = "parallel_beam"
    angles: Views = Field(20, description="views: how many over 180°, or each in degrees")
    detectors: int | None = Field(None, ge=1, description="detectors, each as wide as a pixel; none: the image's diagonal")


class FanBeam(Rays):
    """CT with a fan of rays from one source."""

    kind: Literal["fan_beam"] = "fan_beam"
    angles: Views = Field(40, description="views: how many over 360°, or each in degrees")
    source_distance: float = Field(gt=0, description="from the source to the centre of rotation, in pixels")
    detector_distance: float = Field(ge=0, description="from the centre of rotation to the detector, in pixels")
    detectors: int | None = Field(None, ge=1, description="detectors; none: enough to see the whole image")
    pitch: float | None = Field(None, gt=0, description="width of a detector, in pixels; none: a pixel's shadow at the centre")
    curved: bool = Field(False, description="the detector is an arc about the source")


class Cartesian(Noise):
    """What both kinds of Cartesian MRI have; each frame of a sequence has a mask of its own."""

    mask: Literal["lines", "poisson_disc", "radial"] = Field("lines", description="which points of k-space are measured")
    acceleration: float = Field(4.0, ge=1, description="how many times fewer points than pixels")
    center: float = Field(0.08, gt=0, le=1, description="fraction of lines, each way, fully sampled in the centre")


class MRI(Cartesian):
    """Cartesian MRI, with one coil or several."""

    kind: Literal["mri"] = "mri"
    coils: int = Field(1, ge=1, description="simulated coils, for images that are to be measured")


class Inpainting(Noise):
    """Some pixels are measured, others are not."""

    kind: Literal["inpainting"] = "inpainting"
    keep: float = Field(0.5, gt=0, lt=1, description="fraction of the pixels that is measured, at random places")


class Blur(Noise):
    """A Gaussian blur, periodic at the borders."""

    kind: Literal["blur"] = "blur"
    width: float = Field(1.5, gt=0, description="standard deviation of the blur, in pixels")


class SuperResolution(Noise):
    """A smaller image is measured."""

    kind: Literal["super_resolution"] = "super_resolution"
    factor: int = Field(2, ge=2, description="how many times smaller, each way")


class DynamicMRI(Cartesian):
    """Cartesian MRI of a moving object: a mask for each frame; images that follow each other are the frames."""

    kind: Literal["dynamic_mri"] = "dynamic_mri"
    frames: int = Field(8, ge=2, description="images in a sequence")


class NonCartesianMRI(Noise):
    """MRI along radial or spiral trajectories, through mri-nufft (pip install 'equipoise[nufft]')."""

    kind: Literal["non_cartesian_mri"] = "non_cartesian_mri"
    trajectory: Literal["radial", "spiral"] = Field("radial", description="how k-space is crossed")
    shots: int = Field(24, ge=1, description="spokes, or spiral arms")
    samples: int = Field(128, ge=2, description="samples along each")


class CompressedSensing(Noise):
    """Random projections."""

    kind: Literal["compressed_sensing"] = "compressed_sensing"
    ratio: float = Field(0.3, gt=0, le=1, description="measurements, as a fraction of the pixels")


class Custom(Noise):
    """Any operator, written in Python."""

    kind: Literal["custom"] = "custom"
    file: Path = Field(description="Python file with a function physics(size) that returns a deepinv LinearPhysics")


Physics = Annotated[
    ParallelBeam | FanBeam | MRI | DynamicMRI | NonCartesianMRI | Inpainting | Blur | SuperResolution | CompressedSensing | Custom,
    Field(discriminator="kind"),
]
KINDS: dict[str, Any] = {kind.model_fields["kind"].default: kind for kind in get_args(get_args(Physics)[0])}


class Model(Strict):
    """The learned step and how its equilibrium is found and differentiated."""

    step: Literal["proximal", "gradient", "red", "admm", "douglas_rachford", "primal_dual", "mirror"] = Field(
        "proximal", description="which learned step"
    )
    strength: float | None = Field(
        None,
        gt=0,
        description="λ of proximal, admm, douglas_rachford, red; none: (noise / sigma)² of scaled data, at least 1e-4 (red: 0.05)",
    )
    step_size: float = Field(1.0, gt=0, lt=2, description="η of gradient, primal_dual and mirror")
    learnable: bool = Field(False, description="train λ and η too")
    sigma: float = Field(0.02, ge=0, description="noise level that the denoiser is told")
    denoiser: str = Field("shipped", description='"shipped", "unet", "random", or a file made by `equipoise pretrain`')
    invariant: Literal["none", "quarter_turns", "reflections"] = Field("none", description="average the denoiser over this group")
    precision: Literal["32", "64", "bf16"] = Field("32", description="of all numbers; bf16: of the denoiser's convolutions alone")

    @field_validator("precision", mode="before")
    @classmethod
    def _bits(cls, value: Any) -> Any:
        return str(value) if value in (32, 64) else value

    channels: int = Field(32, ge=1, description="width of a random denoiser")
    layers: int = Field(6, ge=2, description="depth of a random denoiser")
    solver: Literal["anderson", "picard", "broyden"] = Field("anderson", description="of the fixed-point equation")
    rtol: float = Field(1e-3, gt=0, description="relative residual at which a training solve stops")
    max_steps: int = Field(50, ge=1, description="most evaluations of f in a training solve")
    gradient: Literal["implicit", "jacobian_free", "neumann", "phantom", "unrolled"] = Field(
        "implicit", description="how it is differentiated"
    )
    depth: int = Field(10, ge=1, description="unrolled: how many steps, in training and after")
    untied: bool = Field(False, description="unrolled: each step has weights of its own")
    adjoint_rtol: float = Field(1e-2, gt=0, description="relative residual at which the adjoint solve stops")
    adjoint_inexact: float = Field(0, ge=0, description="c: the adjoint's tolerance is at least c times the forward residual")
    adjoint_max_steps: int = Field(40, ge=1, description="most vector–Jacobian products in the adjoint solve")
    test_rtol: float = Field(1e-4, gt=0, description="relative residual at which a solve outside training stops")
    test_max_steps: int = Field(100, ge=1, description="most evaluations of f in a solve outside training")


class Objective(Strict):
    """What is minimised: the sum of these terms; a weight of 0 leaves one out."""

    consistency: float = Field(0.1, ge=0, description="weight of the measurement consistency")
    floor: float = Field(1e-3, ge=0, description="δ: the misfit is counted in the image, down to this variance; 0: plain misfit")
    equivariance: float = Field(0.2, ge=0, description="α, the weight of the equivariance term")
    splitting: float = Field(1.0, ge=0, description="weight of the measurement-splitting term")
    parts: int = Field(5, ge=2, description="splitting: into how many parts; one is left out and predicted")
    sure: float = Field(0, ge=0, description="weight of Stein's unbiased risk estimate, for the physics' noise")
    r2r: float = Field(0, ge=0, description="weight of recorrupted-to-recorrupted, for Gaussian noise")
    operators: float = Field(0, ge=0, description="weight of multi-operator imaging, where samples have masks of their own")
    variation: float = Field(0, ge=0, description="weight of the total variation of the image")
    supervised: float = Field(0, ge=0, description="weight of the squared error to the true images, as a ceiling to compare with")
    group: Literal["rotations", "quarter_turns", "reflections", "shifts"] = Field(
        "rotations", description="the group that moves images"
    )
    draws: int = Field(1, ge=1, description="elements of the group for each sample and step")
    renoise: bool = Field(True, description="add noise to the second measurement")
    stop_gradient: bool = Field(True, description="treat the moved image as a constant target; false: as in the first paper on EI")
    contraction: float = Field(0.1, ge=0, description="weight of the Jacobian penalty")
    bound: float = Field(0.9, gt=0, lt=1, description="gain of the adjoint Jacobian that is free")


class Learning(Strict):
    """The loop."""

    steps: int = Field(1000, ge=1, description="optimiser steps")
    batch: int = Field(8, ge=1, description="measurements in a step")
    workers: int = Field(0, ge=0, description="processes that read ahead, for data.stream (needs an operating system that forks)")
    lr: float = Field(2e-4, gt=0, description="learning rate of Adam")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="of the learning rate, down to a tenth of it")
    accumulate: int = Field(1, ge=1, description="parts that a step's batch is handled in, one after the other, to save memory")
    warmup: int = Field(50, ge=0, description="steps over which the learning rate rises")
    clip: float = Field(0.1, gt=0, description="largest norm of the gradient; longer ones are scaled down")
    ema: float = Field(0.99, ge=0, lt=1, description="decay of the running average of the weights, which is what is kept")
    checkpoint_every: int = Field(50, ge=1, description="steps between checkpoints")
    validate_every: int = Field(100, ge=1, description="steps between validations")
    patience: int = Field(0, ge=0, description="validations without progress after which training ends; 0: never. Keeps the best")
    loggers: list[Literal["tensorboard", "wandb", "mlflow"]] = Field([], description="where else than log.jsonl a step is logged")


class Config(Strict):
    """A whole run."""

    name: str = Field("run", pattern=r"^[\w.\-]+$", description="name of the run, and of its folder under runs/")
    out: Path | None = Field(None, description="run folder; none: runs/NAME")
    seed: int = Field(0, ge=0, description="seed of everything random")
    data: Data = Field(default_factory=lambda: Data())
    physics: Physics = Field(default_factory=lambda: ParallelBeam())
    model: Model = Field(default_factory=lambda: Model())
    objective: Objective = Field(default_factory=lambda: Objective())
    learning: Learning = Field(default_factory=lambda: Learning())

    @field_validator("physics", mode="before")
    @classmethod
    def _kind(cls, tree: Any) -> Any:
        return {"kind": "parallel_beam", **tree} if isinstance(tree, dict) else tree

    @model_validator(mode="after")
    def _held_out(self) -> Config:
        if self.data.holdout and (self.data.validation is not None or self.data.stream):
            raise ValueError("data.holdout keeps patients of data.path; leave out data.validation and data.stream, or set it to 0")
        if self.data.keep_out and self.data.stream:
            raise ValueError("data.keep_out needs the data in memory; set data.stream=false, or data.keep_out=0")
        if self.objective.supervised and self.data.stream:
            raise ValueError("objective.supervised needs the images in memory; set data.stream=false, or objective.supervised=0")
        if self.model.untied and self.model.gradient != "unrolled":
            raise ValueError("model.untied is for model.gradient=unrolled: an equilibrium has one step; set it to false")
        if self.learning.patience and not self.data.keep_out:
            raise ValueError("learning.patience needs measurements to validate on: set data.keep_out=0.1, or learning.patience=0")
        return self

    @property
    def folder(self) -> Path:
        return self.out if self.out is not None else Path("runs") / self.name


def options() -> list[tuple[str, str, str]]:
    """(dotted name, default, meaning) of everything that can be set; the operators as ``physics.KIND.…``."""
    sections = {"": Config, "data": Data, **{f"physics.{k}": v for k, v in KINDS.items()}}
    sections |= {"model": Model, "objective": Objective, "learning": Learning}
    out = []
    for section, kind in sections.items():
        for name, entry in kind.model_fields.items():
            if entry.description is None:  # a section of its own, or the operator's kind
                continue
            default = "(required)" if entry.is_required() else "none" if entry.default is None else str(entry.default)
            out.append((f"{section}.{name}".removeprefix("."), default, entry.description))
    return out


def _complaint(error: ValidationError, where: str) -> str:
    parts = []
    for e in error.errors():
        loc = [k for k in e["loc"] if k not in KINDS and not str(k).startswith(("int", "list", "function", "constrained"))]
        key = ".".join(map(str, loc))
        if e["type"] == "extra_forbidden":
            parts.append(f"{key}: unknown key (value {e['input']!r}); allowed here are {', '.join(_siblings(e['loc']))}")
        elif e["type"] == "union_tag_invalid":
            parts.append(f"{key}.kind: must be one of {', '.join(KINDS)}, got {e['input'].get('kind')!r}")
        elif e["type"] == "missing":
            parts.append(f"{key}: missing; this kind needs it")
        else:
            got = f", got {e['input']!r}" if not isinstance(e["input"], dict) else ""
            parts.append(f"{key}: ".removeprefix(": ") + e["msg"].removeprefix("Value error, ") + got)
    return f"{where}: " + "; ".join(dict.fromkeys(parts))


def _siblings(loc: tuple[Any, ...]) -> list[str]:
    """The keys beside the last of ``loc``; for physics, ``loc`` names the kind after the section."""
    model: Any = Config
    for key in loc[:-1]:
        if key == "physics":
            model = KINDS[loc[1]]
            break
        model = model.model_fields[key].annotation
    return sorted(model.model_fields)


def _override(tree: dict[str, Any], text: str) -> None:
    key, eq, value = text.partition("=")
    if not eq or not key:
        raise UserError(f"{text!r}: an override is written section.key=value, such as learning.steps=500")
    *sections, last = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise UserError(f"{text!r}: {section} is a value, not a section")
    try:
        tree[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"{text!r}: the value is not YAML: {error}") from error
    tree[last] = _numbers(tree[last])


def _numbers(tree: Any) -> Any:
    """YAML 1.1 takes 1e-4 (without a point) for a string; nobody who writes it does."""
    if isinstance(tree, dict):
        return {k: _numbers(v) for k, v in tree.items()}
    return float(tree) if isinstance(tree, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", tree) else tree


def load_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Reads a YAML file and applies overrides such as ``learning.steps=500``.

    Data paths that do not exist from here are looked for beside the file.

    Raises:
        UserError: the file is missing or not YAML; a key is unknown or its value is of a wrong type or out of bounds.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such configuration file; the examples are in configs/")
    try:
        tree = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML: {error}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected sections such as data: and physics:, got {type(tree).__name__}")
    tree = _numbers(tree)
    for text in overrides or []:
        _override(tree, text)
    tree.setdefault("name", path.stem)
    config = parse(tree, str(path))
    for section, name, key in (
        (config.data, "data", "path"),
        (config.data, "data", "validation"),
        (config.physics, "physics", "file"),
    ):
        given = getattr(section, key, None)
        if given is not None and not given.exists():
            beside = path.parent / given
            if not beside.exists():
                raise UserError(
                    f"{path}: {name}.{key}: {given} does not exist, from here or from {path.parent}/; name one that does"
                )
            setattr(section, key, beside)
    return config


def parse(tree: dict[str, Any], where: str) -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise UserError(_complaint(error, where)) from error


def dump(config: Config) -> str:
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
