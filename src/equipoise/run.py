"""A run's folder: what is in it, and how it is loaded.

runs/NAME/
  config.yaml              what was asked for, with every default written out
  log.jsonl                one line a step
  checkpoint.safetensors   the state to continue from (and the one before it)
  model.safetensors        the trained weights: the running average
  curves.html, curves.png  how training went
  versions.json            of the packages, and the git state
  results.json             after `equipoise evaluate` or `equipoise demo`
"""

from __future__ import annotations

import math
import platform
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import deepinv
import torch
import yaml
from torch import Tensor

from .config import Config, changed, parse
from .data.dataset import Dataset
from .data.likeness import unlike
from .data.load import load_dataset
from .data.scan import Scan
from .data.settings import FileSettings, ImageSettings
from .data.sinograms import geometry_of
from .equilibrium import Equilibrium
from .errors import UserError
from .imaging.tomography.settings import RaysSettings
from .learning import checkpoint
from .learning.validation import solve_dataset
from .machine import contents
from .reconstruction import contraction
from .reconstruction.model import EquilibriumReconstructor
from .settings import read_yaml_parts
from .version import __version__

if TYPE_CHECKING:
    from lightning_fabric import Fabric

MODEL = "model.safetensors"
MARK = "This folder is a run of Equipoise."
ABOUT = """{mark}

config.yaml: what was asked for, every default written out. log.jsonl: one line a training step.
checkpoint.safetensors: the state to continue from. model.safetensors: the trained weights.
curves.html: how training went.

  equipoise train {folder}/config.yaml        continues, if it was interrupted
  equipoise reconstruct {folder} DATA OUT     reconstructs DATA (measurements, or images to measure)
  equipoise evaluate {folder} DATA            scores it against classical methods
"""
#: What is added to a run's seed for measurements that are scored on while it trains, and for
#: phantoms that it never saw.
VALIDATION_SEED, UNSEEN_SEED = 1000, 500_000


@dataclass
class Run:
    """A trained model with the scan that it was trained for."""

    folder: Path
    config: Config
    scan: Scan
    model: EquilibriumReconstructor
    #: The fingerprint of what it learnt from, and the size of what was measured; empty: of an
    #: earlier release, which kept none.
    learnt_from: dict[str, Any] = field(default_factory=dict)

    def solve(self, dataset: Dataset, batch: int = 16, fabric: Fabric | None = None) -> Equilibrium:
        """The equilibria of a data set's measurements; ``value`` (N, C, …, H, W)."""
        return solve_dataset(self.model, dataset, batch, fabric)

    def with_notes(self, dataset: Dataset) -> Dataset:
        """A data set whose notes also say how it is unlike what the model has learnt from."""
        differences = unlike(self.learnt_from.get("measured"), dataset)
        return replace(dataset, notes=[*dataset.notes, *differences])

    def contraction(self, dataset: Dataset, x: Tensor) -> dict[str, Any]:
        """How f contracts at the first few of the equilibria x, and the same in words."""
        index = dataset.by_size(torch.arange(min(4, len(x))))[0]  # of one size
        y, physics, images = dataset.taken_out(index, dataset.batch(index).y, x[index])
        assert images is not None
        dtype = next(self.model.parameters()).dtype
        y, x = y.to(dtype), images.to(dtype)
        step = self.model.step
        rng = torch.Generator().manual_seed(0)
        found = contraction.measure(step.bind(y, physics), step.lift(x, y, physics), rng=rng)
        norm = "a norm that is not known"
        if bool(found.norm.isfinite().all()):
            norm = f"a norm up to {float(found.norm.max()):.2f}"
        words = (
            f"Contraction: at {len(index)} equilibria, ∂f/∂x has a spectral radius up to "
            f"{float(found.radius.max()):.3f} (below 1: an equilibrium that iteration finds) and "
            f"{norm}."
        )
        norms = [value if math.isfinite(value) else None for value in found.norm.tolist()]
        return {"radius": found.radius.tolist(), "norm": norms, "words": words}


def load_run(folder: str | Path) -> Run:
    """The trained model of a run folder, ready to reconstruct.

    Raises:
        UserError: there is no run, its files are damaged, or they do not belong together.
    """
    folder = Path(folder)
    file = folder / "config.yaml"
    if not file.is_file():
        raise UserError(
            f"{folder}: no run of Equipoise there (no config.yaml); train one with: equipoise "
            "train CONFIG"
        )
    config = read_config(folder)
    weights, state = _trained_weights(folder)
    _check_that_it_belongs(config, state["config"], file)
    config = changed(config, state.get("chosen", {}))
    config.out = folder
    scan = Scan.planned(config.physics, config.data.size, config.seed).with_noise(state["noise"])
    model = config.model.make(scan.image_shape[0], scan.noise, denoiser=state.get("denoiser"))
    _fill(model, weights, file)
    model.stop = config.model.test_stop()
    return Run(folder, config, scan, model.eval(), state.get("data") or {})


def _trained_weights(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights that a run has come to, and what is saved with them."""
    file = folder / "config.yaml"
    if (folder / MODEL).exists():
        try:
            saved = checkpoint.read(folder / MODEL)
        except UserError as error:
            raise UserError(
                f"{error}; make it anew from the checkpoint with: equipoise train {file}"
            ) from error
        return saved.tensors, saved.state
    latest, _ = checkpoint.load_latest(folder)
    if latest is None:
        raise UserError(f"{folder}: not trained yet; run: equipoise train {file}")
    averages = {
        name.removeprefix("average."): tensor
        for name, tensor in latest.tensors.items()
        if name.startswith("average.")
    }
    return averages, latest.state


def _check_that_it_belongs(config: Config, saved: dict[str, Any], file: Path) -> None:
    """Tolerances outside training may be edited in a run's folder; what the weights are of, not.

    Raises:
        UserError: model or physics are not those that were trained.
    """
    trained = parse(saved, str(file), is_saved=True)
    may_change = {"test_rtol", "test_max_steps"}
    now = config.model_dump(mode="json", include={"physics", "model"})
    then = trained.model_dump(mode="json", include={"physics", "model"})
    for key in may_change:
        del now["model"][key], then["model"][key]
    if changes := differences(now, then):
        raise UserError(
            f"{file}: describes another model than the weights beside it ({'; '.join(changes)}); "
            "restore the file"
        )


def differences(now: Any, then: Any, key: str = "") -> list[str]:
    """What differs between two trees of settings, by dotted name."""
    if not (isinstance(now, dict) and isinstance(then, dict)):
        return [] if now == then else [f"{key}: {then!r} then, {now!r} now"]
    found: list[str] = []
    for name in sorted(now.keys() | then.keys()):
        inner = f"{key}.{name}" if key else name
        found += differences(now.get(name), then.get(name), inner)
    return found


def _fill(model: EquilibriumReconstructor, weights: dict[str, Tensor], file: Path) -> None:
    """Gives the model its weights. What was never trained, such as a constant λ, may be missing.

    Raises:
        UserError: a weight is missing, is left over, or has another shape.
    """
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    try:
        missing, left_over = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        missing, left_over = [], [str(error)]
    absent = trained.intersection(missing)
    if absent or left_over:
        problem = "; ".join([*sorted(absent), *left_over])[:300]
        raise UserError(
            f"{file}: describes another model than the weights beside it; restore the file "
            f"({problem})"
        )


def is_run(folder: Path) -> bool:
    """Whether the folder was made by a training run."""
    return _is_marked(folder) and (folder / "config.yaml").is_file()


def is_begun(folder: Path) -> bool:
    """Whether a training run was stopped before it had said in the folder what it would do."""
    return _is_marked(folder) and contents(folder) <= {"README.txt", "versions.json"}


def _is_marked(folder: Path) -> bool:
    """Whether the README there is that of a training run."""
    readme = folder / "README.txt"
    return readme.is_file() and readme.read_text(errors="replace").startswith(MARK)


def read_config(folder: Path) -> Config:
    """The configuration of a run folder, of this release or of an earlier one."""
    file = folder / "config.yaml"
    configs = read_configs(file)
    if len(configs) > 1:
        raise UserError(
            f"{file}: holds {len(configs)} configurations, as a comparison does; name the folder "
            "of one run"
        )
    return configs[0]


def read_configs(file: Path) -> list[Config]:
    """The configurations that a run or a comparison keeps, of this release or of an earlier one.

    Raises:
        UserError: the file is damaged, or says what no release understands.
    """
    problem: object = "it is empty"
    try:
        trees = read_yaml_parts(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        trees, problem = [], error
    if not trees:
        raise UserError(
            f"{file}: not YAML any more ({problem}); give the command again that trained it, "
            "which writes it anew from the checkpoint, or restore it from a backup"
        )
    return [parse(tree, str(file), is_saved=True) for tree in trees]


def versions() -> dict[str, str]:
    """What a run is made with: packages, Python, and the state of the git repository it was started
    in, if there is one."""
    found = {
        "equipoise": __version__,
        "torch": torch.__version__,
        "deepinv": deepinv.__version__,
        "python": platform.python_version(),
    }
    for key, command in (("git", ("rev-parse", "HEAD")), ("uncommitted", ("status", "--short"))):
        try:
            done = subprocess.run(("git", *command), capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            break
        found[key] = done.stdout.strip()
    return found


# ---------------------------------------------------------------------------------------- data


def described(config: Config) -> Config:
    """The configuration with what the file of its data says of the scanner, where it says that.

    Raises:
        UserError: the operator needs what the file says, and it cannot be read.
    """
    settings, data = config.physics, config.data
    if not isinstance(settings, RaysSettings) or not isinstance(data, FileSettings):
        return config
    if settings.read is not None or isinstance(data, ImageSettings):
        return config
    try:
        geometry = geometry_of(data.path, data.variable)
    except UserError:
        try:
            if not isinstance(data.size, str):
                settings.setup(data.size)
        except ValueError:
            pass
        else:
            return config  # whoever reads the data says what is wrong with them
        raise
    if geometry is None:
        return config
    return config.model_copy(update={"physics": settings.reading(geometry)})


def with_stored_axis(config: Config) -> Config:
    """The configuration with the axis of rotation that the run in its folder has found already,
    where ``physics.offset`` is auto: a run has one axis, however often it is continued."""
    settings, file = config.physics, config.folder / "config.yaml"
    if not isinstance(settings, RaysSettings) or settings.offset != "auto" or not file.is_file():
        return config
    if settings.axis_found is not None:
        return config
    stored = read_config(config.folder).physics
    if not isinstance(stored, RaysSettings) or stored.offset != "auto":
        return config
    kept = {"axis_found": stored.axis_found, "detectors": stored.detectors}
    return config.model_copy(update={"physics": settings.model_copy(update=kept)})


def with_axis_of(config: Config, dataset: Dataset) -> Config:
    """The configuration with the axis of rotation that was found in its data, if it was asked
    for."""
    settings, found = config.physics, dataset.scan.settings
    if not isinstance(settings, RaysSettings) or settings.offset != "auto":
        return config
    return config.model_copy(update={"physics": found})


def load_data(
    config: Config,
    scan: Scan,
    path: Path | None = None,
    seed: int | None = None,
    stream: bool = False,
    whole: bool = False,
) -> Dataset:
    """The data of a configuration (or those in ``path``), in its precision; in memory, or, with
    ``stream``, read when they are asked for; with ``whole``, all slices, whatever ``data.slices``
    says."""
    return _in_precision(config, scan, path, seed, stream, whole)


def load_training_data(config: Config, scan: Scan) -> tuple[Dataset, Dataset | None]:
    """What is trained on, and what is held out to score on, if anything is."""
    dataset = _in_precision(config, scan, None, None, stream=config.data.stream)
    if config.data.holdout:
        return dataset.hold_out(config.data.holdout)
    if config.data.validation is not None:
        seed = config.seed + VALIDATION_SEED
        return dataset, load_data(config, scan, config.data.validation, seed)
    return dataset, None


def _in_precision(
    config: Config,
    scan: Scan,
    path: Path | None,
    seed: int | None,
    stream: bool,
    whole: bool = False,
) -> Dataset:
    seed = config.seed if seed is None else seed
    dataset = load_dataset(config.data, scan, seed, path, stream, whole)
    if config.model.precision != "64":
        return dataset
    try:
        return dataset.double()
    except UserError as error:
        raise UserError(f"model.precision=64: {error}; set it to 32") from error


def unseen_phantoms(config: Config, scan: Scan, count: int) -> Dataset:
    """Phantoms of another seed than the run's, measured."""
    size = config.data.size
    phantoms = changed(config, {"data": {"kind": "phantoms", "size": size, "count": count}})
    return load_data(phantoms, scan, seed=config.seed + UNSEEN_SEED)


def unseen(
    config: Config, scan: Scan, data: str | Path | None = None, count: int = 24
) -> tuple[Dataset, str]:
    """What training did not see, and its name: ``data``, or the configuration's ``data.validation``
    or held-out patients, or, for a run on phantoms, ``count`` of another seed.

    Raises:
        UserError: there is nothing of the kind, or it cannot be read.
    """
    data = config.data.validation if data is None else Path(data)
    if data is not None:
        return load_data(config, scan, data, config.seed + VALIDATION_SEED), str(data)
    if config.data.holdout:
        _, held_out = load_data(config, scan).hold_out(config.data.holdout)
        return held_out, "held-out"
    if config.data.kind != "phantoms":
        raise UserError(
            f"{config.name}: name the data to score on (what it was trained on would flatter it): "
            "equipoise evaluate RUN DATA, equipoise diagnose RUN --data DATA, or, when training, "
            "data.validation=… or data.holdout=0.2"
        )
    return unseen_phantoms(config, scan, count), "phantoms"
