"""The equivariant bootstrap: the error of a reconstruction, estimated without the truth."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from deepinv.utils.tensorlist import TensorList
from torch import Tensor

from ...equilibrium import Equilibrium, EquilibriumError, EquilibriumWarning, Status, Stop, Unrolled
from ...equilibrium.result import whole_number
from ...errors import ArgumentError
from ...imaging.operators import select
from ...reconstruction.model import EquilibriumReconstructor
from .blindness import blindness
from .kept import Kept
from .moves import Move, check_group, seed_for
from .noise import is_noiseless, measured, noise_variance, with_noise
from .parts import measured_and_invented
from .record import Uncertainty, UncertaintyWarning, unfinished_in_words

MOVE, NOISE = 0, 1
#: Numbers in the images that are solved for at once, unless the caller says how many images.
SOLVED_AT_ONCE = 1 << 19
#: Samples are solved to this share of the model's tolerance, as far as the numbers resolve it: a
#: deviation is a small difference, and the solve starts at the answer that it deviates from.
TIGHTER = 0.01
#: A residual of this many roundings can be reached by networks as they are trained.
RESOLVED = 512
#: Of x̂ to y, without noise: above, something is unexplained.
MISFIT = 1e-2

Quantity = Callable[[Tensor], Tensor]


@torch.no_grad()
def uncertainty(
    model: Any,
    y: Any,
    physics: Any,
    group: Any,
    samples: int = 100,
    level: float = 0.9,
    seed: int = 0,
    *,
    noise: Any = None,
    keep: bool = False,
    quantity: Quantity | None = None,
    parts: bool = False,
    levels: Sequence[float] = (),
    value: Tensor | None = None,
    keys: Sequence[int] | None = None,
    batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Uncertainty:
    """How far from the truth a reconstruction is, estimated from its measurement alone.

    The equivariant bootstrap (Tachella and Pereyra, 2023, arXiv 2310.11838): x̂ is moved by a random
    element g of ``group``, measured with fresh noise, reconstructed and moved back; the spread of
    many such samples x̃ = T_g⁻¹ f*(A T_g x̂ + noise) about x̂ estimates the error of x̂, also of what
    A does not see. docs/uncertainty.md says when to trust it.

    What is drawn for a sample depends on ``seed``, its number and the image's key alone, whatever
    else is in the batch. Memory does not grow with ``samples``, unless ``keep``.

    Args:
        model: an ``EquilibriumReconstructor``, whose solves start at T_g x̂, or anything that is
            called as ``model(y, physics)``.
        y: (B, …) measurements, or a list of such for stacked operators; float32 or float64.
        physics: the linear operator that measured y, with ‖A‖ of about 1.
        group: ``Rotations()``, ``Reflections()``, ``Shifts()``, a chain, or any deepinv transform,
            under which images stay images; None: the parametric bootstrap without moves.
        samples: how many for each image.
        level: of the bounds, in (0, 1).
        seed: of all draws, ≥ 0.
        noise: standard deviation of the noise in y, one number or (B,), or a noise model; default
            ``physics.noise_model``.
        keep: return the samples as well, (samples, B, C, …, H, W).
        quantity: of which the uncertainty is asked, a function of images (n, C, …, H, W) → (n, …);
            default: the image itself. ``value`` and all else are then this quantity's.
        parts: also split x̂ in what y determines and what the prior adds, with the uncertainty of
            both (a least-squares solve for each sample).
        levels: of further quantiles of |x̃ − x̂|, for ``widths``.
        value: x̂, where it is known already.
        keys: a whole number for each image, which makes its draws its own; default: all alike.
        batch: samples that are solved for at once.
        progress: called with the number of solves that are done, and of all: first with 0.

    Raises:
        ArgumentError: too few samples for the level, a group that needs square images, no known
            noise, or another argument out of bounds (a ``UserError`` and a ``ValueError``).

    Warns:
        UncertaintyWarning: the group is blind to the null space of A, say.
        EquilibriumWarning: some samples did not converge (as ``model.on_failure`` says).
    """
    samples, seed = whole_number("samples", samples, 1), _checked_seed(seed)
    every = [_checked_level(p, samples) for p in (level, *levels)]
    physics = with_noise(physics, noise)
    solved = None
    if value is None:
        value, solved = _estimate(model, y, physics)
    value = value.detach()
    check_group(group, value)
    count = len(value)
    keys = [0] * count if keys is None else [whole_number("keys", key, 0) for key in keys]
    if len(keys) != count:
        raise ArgumentError(f"keys: one for each of {count} images is needed, got {len(keys)}")
    done = _Progress(progress, samples * count)
    found = []
    for b in range(count):
        image = _Image(model, physics, value[b : b + 1], b, count, y, group, (seed, keys[b]))
        found.append(_sampled(image, samples, every, quantity or _itself, keep, parts, batch, done))
    u = _joined(found, every[0], solved)
    u.notes += _notes(u, y, physics, group, value, seed)
    _tell(u, getattr(model, "on_failure", "warn"))
    return u


def _itself(x: Tensor) -> Tensor:
    return x


def _checked_seed(seed: Any) -> int:
    try:
        return whole_number("seed", seed, 0)
    except ValueError as error:
        raise ArgumentError(str(error)) from error


def _checked_level(level: float, samples: int) -> float:
    if isinstance(level, str) or not 0 < level < 1:
        raise ArgumentError(f"level must be in (0, 1), got {level!r}; 0.9 gives 90 % bounds")
    if samples * (1 - level) < 1 - 1e-9:
        needed = math.ceil(1 / (1 - level) - 1e-9)
        raise ArgumentError(
            f"samples must be at least {needed} for the {level:g} quantile, got {samples}: fewer "
            f"say nothing about what one in {needed} exceeds; take more samples or a lower level"
        )
    return float(level)


class _Progress:
    """Counts solves."""

    def __init__(self, tell: Callable[[int, int], None] | None, total: int):
        self.tell, self.total, self.done = tell, total, 0
        if tell is not None:
            tell(0, total)

    def __call__(self, count: int) -> None:
        self.done += count
        if self.tell is not None:
            self.tell(self.done, self.total)


# ---------------------------------------------------------------------------------------- solves


def _estimate(model: Any, y: Any, physics: Any) -> tuple[Tensor, Equilibrium | None]:
    """x̂, and its equilibria, where the model has such."""
    if not isinstance(model, EquilibriumReconstructor):
        value: Tensor = model(y, physics)
        return value, None
    solved = _quiet(model, model.stop).equilibrium(y, physics)
    return solved.value, solved


def _quiet(model: EquilibriumReconstructor, stop: Stop) -> EquilibriumReconstructor:
    """The same model, sharing all its parameters, with another tolerance; it never warns."""
    same = copy.copy(model)
    same.stop, same.on_failure = stop, "ignore"
    return same


def _tighter(model: EquilibriumReconstructor, x: Tensor) -> Stop:
    """The tolerance of the samples."""
    if isinstance(model.gradient, Unrolled) or model.step.precision is not None:
        return model.stop
    rtol = max(TIGHTER * model.stop.rtol, RESOLVED * torch.finfo(x.dtype).eps)
    return Stop(min(rtol, model.stop.rtol), model.stop.max_steps, model.stop.atol)


class _Image:
    """One image of the batch: how its samples are made.

    Args:
        model: the reconstructor.
        physics: the operator of all images.
        x: (1, C, …, H, W)  x̂.
        b: its place among
        count: images.
        y: measurements of all of them.
        group: moves it.
        key: whole numbers that its draws are made of.
    """

    def __init__(
        self,
        model: Any,
        physics: Any,
        x: Tensor,
        b: int,
        count: int,
        y: Any,
        group: Any,
        key: tuple[int, ...],
    ):
        self.model, self.x, self.group, self.key = model, x, group, key
        self._physics, self._b, self._count, self._y = physics, b, count, y
        self.physics = self.repeated(1)

    def repeated(self, times: int) -> Any:
        """The operator of so many copies of this image.

        Raises:
            ArgumentError: it cannot be told from that of all images.
        """
        if self._count == 1:
            return self._physics
        index = torch.full((times,), self._b)
        try:
            return select(self._physics, index, self._count, self._y)
        except ValueError as error:
            raise ArgumentError(
                f"physics: {error}; or ask for the uncertainty of one image at a time"
            ) from error

    def solve(self, numbers: range) -> tuple[Tensor, Equilibrium]:
        """The samples of these numbers, (n, C, …, H, W), moved back; and their solves."""
        moves = [Move(self.group, self.x, seed_for(*self.key, k, MOVE)) for k in numbers]
        moved = [move(self.x) for move in moves]
        y = [
            measured(one, self.physics, seed_for(*self.key, k, NOISE))
            for one, k in zip(moved, numbers, strict=True)
        ]
        many, start = self.repeated(len(numbers)), torch.cat(moved)
        found = _reconstructed(self.model, _stacked(y), many, start)
        back = [move.undo(one) for move, one in zip(moves, found.value.split(1), strict=True)]
        return torch.cat(back), found


def _stacked(y: list[Any]) -> Any:
    if isinstance(y[0], Tensor):
        return torch.cat(y)
    return TensorList([torch.cat(parts) for parts in zip(*y, strict=True)])


def _reconstructed(model: Any, y: Any, physics: Any, start: Tensor) -> Equilibrium:
    """What the model makes of y. A sample that misses the tighter tolerance and not the model's own
    has converged."""
    if isinstance(model, EquilibriumReconstructor):
        unrolled = isinstance(model.gradient, Unrolled)
        exact = _quiet(model, _tighter(model, start))
        found = exact.equilibrium(y, physics, x0=None if unrolled else start)
        near = (found.status == Status.MAX_STEPS) & (found.residual <= model.stop.rtol)
        found.status = torch.where(near, int(Status.CONVERGED), found.status)
        return found
    value: Tensor = model(y, physics)
    finite = value.flatten(1).isfinite().all(1)
    status = torch.where(finite, int(Status.CONVERGED), int(Status.NONFINITE))
    nothing = torch.zeros(len(value))
    return Equilibrium(value, nothing, torch.ones_like(status), status, nothing[None])


# -------------------------------------------------------------------------------------- statistics


class _Sums:
    """Running sums of the deviations of one image, in float64."""

    def __init__(self, like: Tensor):
        self.first = torch.zeros(like.shape, dtype=torch.float64, device=like.device)
        self.second = torch.zeros_like(self.first)
        self.count = 0

    def add(self, deviations: Tensor) -> None:
        """(n, …) of finite samples."""
        exact = deviations.double()
        self.first += exact.sum(0, keepdim=True)
        self.second += exact.square().sum(0, keepdim=True)
        self.count += len(exact)

    def mean(self) -> Tensor:
        return self.first / self.count if self.count else self.first + torch.nan

    def rms(self) -> Tensor:
        return (self.second / self.count).sqrt() if self.count else self.second + torch.nan


def _sampled(
    image: _Image,
    samples: int,
    levels: list[float],
    quantity: Quantity,
    keep: bool,
    parts: bool,
    batch: int | None,
    done: _Progress,
) -> Uncertainty:
    """The record of one image, whose samples are made ``batch`` at a time."""
    x = quantity(image.x)
    batch = max(1, min(16, SOLVED_AT_ONCE // image.x.numel())) if batch is None else batch
    sums, kept = _Sums(x), Kept(samples, x.numel(), x.dtype)
    divided = _Divided(image) if parts else None
    status, steps, rmse = [], [], []
    all_samples = []
    for first in range(0, samples, batch):
        numbers = range(first, min(first + batch, samples))
        back, found = image.solve(numbers)
        deviations = quantity(back) - x
        finite = deviations.flatten(1).isfinite().all(1) & (found.status != Status.NONFINITE)
        sums.add(deviations[finite])
        for k, one in zip(numbers, deviations, strict=True):
            kept.write(k, one.abs())
        if divided is not None:
            divided.add((back - image.x)[finite])
        rmse.append(_rms(deviations))
        status.append(torch.where(finite, found.status, int(Status.NONFINITE)))
        steps.append(found.steps)
        if keep:
            all_samples.append(quantity(back))
        done(len(numbers))
    outcome = torch.cat(status)
    good = outcome != Status.NONFINITE
    widths = (
        kept.quantiles(torch.tensor(levels, dtype=torch.float64), good.cpu())
        .reshape(len(levels), *x.shape)
        .to(x)
    )
    kept.close()
    deviation, sample_rmse = sums.rms(), torch.cat(rmse)
    return Uncertainty(
        value=x,
        std=deviation.to(x),
        lower=x - widths[0],
        upper=x + widths[0],
        mean=x + sums.mean().to(x),
        rmse=deviation.square().flatten(1).mean(1).sqrt().to(x),
        rmse_upper=_quantile(sample_rmse[good], levels[0]).to(x),
        level=levels[0],
        status=outcome.max()[None],
        sample_status=outcome[:, None],
        sample_rmse=sample_rmse[:, None].to(x),
        steps=torch.cat(steps)[:, None],
        blind=torch.zeros(1, dtype=torch.bool),
        samples=torch.cat(all_samples)[:, None] if keep else None,
        widths=widths[1:] if len(widths) > 1 else None,
        **({} if divided is None else divided.record()),
    )


def _rms(x: Tensor) -> Tensor:
    return x.double().square().flatten(1).mean(1).sqrt()


def _quantile(values: Tensor, level: float) -> Tensor:
    return values.quantile(level)[None] if len(values) else torch.full((1,), torch.nan)


class _Divided:
    """x̂ and the deviations of its samples, each split in what is measured and what is invented."""

    def __init__(self, image: _Image):
        clean = image.physics.A(image.x)
        self.physics = image.physics
        self.repeated = image.repeated
        self.variance = noise_variance(clean, self.physics, seed_for(*image.key))
        self.x = measured_and_invented(self.physics, image.x, self.variance)
        self.measured, self.invented = _Sums(image.x), _Sums(image.x)

    def add(self, deviations: Tensor) -> None:
        if len(deviations):
            many = self.repeated(len(deviations))
            parts = measured_and_invented(many, deviations, self.variance)
            self.measured.add(parts.measured)
            self.invented.add(parts.invented)

    def record(self) -> dict[str, Tensor]:
        return {
            "measured": self.x.measured,
            "invented": self.x.invented,
            "measured_std": self.measured.rms().to(self.x.measured),
            "invented_std": self.invented.rms().to(self.x.invented),
        }


#: Fields of which the images are the first axis, and those where they are the second.
BY_IMAGE = (
    *("value", "std", "lower", "upper", "mean", "rmse", "rmse_upper", "status", "blind"),
    *("measured", "invented", "measured_std", "invented_std"),
)
BY_SAMPLE = ("sample_status", "sample_rmse", "steps", "samples", "widths")


def _joined(found: list[Uncertainty], level: float, solved: Equilibrium | None) -> Uncertainty:
    """One record of the images'."""
    fields = {}
    for names, axis in ((BY_IMAGE, 0), (BY_SAMPLE, 1)):
        for name in names:
            each = [getattr(u, name) for u in found]
            fields[name] = None if each[0] is None else torch.cat(each, axis)
    if solved is not None:
        fields["status"] = torch.maximum(fields["status"], solved.status)
    return Uncertainty(level=level, solved=solved, **fields)


# ------------------------------------------------------------------------------------------ words


def _notes(u: Uncertainty, y: Any, physics: Any, group: Any, x: Tensor, seed: int) -> list[str]:
    """Why not to trust it."""
    notes = [
        _on_blindness(u, physics, group, x, y, seed),
        _on_noise(physics, y, x),
        _on_interpolation(u, group, x, seed),
    ]
    return [note for note in notes if note]


def _on_blindness(u: Uncertainty, physics: Any, group: Any, x: Tensor, y: Any, seed: int) -> str:
    if not hasattr(physics, "A_adjoint"):
        return ""
    alike = len(x) == 1 or select(physics, torch.zeros(1).long(), len(x), y) is physics
    shares = []
    for b in range(1 if alike else len(x)):
        one = physics if len(x) == 1 else select(physics, torch.tensor([b]), len(x), y)
        shares.append(blindness(one, group, x[b : b + 1], seed))
    u.blind[:] = torch.tensor([share.is_blind for share in shares])
    if not bool(u.blind.any()):
        return ""
    worst = max(shares, key=lambda share: share.of_images)
    name = "no group" if group is None else f"the group {type(group).__name__}"
    return (
        f"blind to the null space: A sees nothing of {worst.of_images:.0%} of a random image, and "
        f"{name} moves only {worst.of_moved:.1%} of what A sees there (it commutes with the "
        "operator), so the spread says nothing about the error in that part; take another group"
    )


def _on_noise(physics: Any, y: Any, x: Tensor) -> str:
    """Whether y has noise that the samples lack."""
    if not (isinstance(y, Tensor) and is_noiseless(physics)):
        return ""
    size = torch.linalg.vector_norm(y).clamp_min(torch.finfo(y.dtype).tiny)
    left = float(torch.linalg.vector_norm(physics.A(x) - y) / size)
    if not left > MISFIT:
        return ""
    return (
        f"noise: the physics says that there is none, but A x̂ leaves {left:.1%} of y unexplained; "
        "if y is noisy, say how much: noise=σ"
    )


def _on_interpolation(u: Uncertainty, group: Any, x: Tensor, seed: int) -> str:
    """Whether moving back and forth alone makes much of the spread."""
    if group is None or u.value.shape != x.shape:
        return ""
    there_and_back = []
    for b in range(len(x)):
        one = x[b : b + 1]
        move = Move(group, one, seed_for(seed, 0, 0, MOVE))
        there_and_back.append(_rms(move.undo(move(one)) - one))
    lost = torch.cat(there_and_back) / u.rmse.double().clamp_min(1e-30)
    if not bool((lost > 0.3).any()) or float(torch.cat(there_and_back).max()) < 1e-5:
        return ""
    return (
        f"moving x̂ and back changes it by {float(lost.max()):.0%} of the predicted error: this is "
        "the group's own interpolation; equipoise.Rotations and Shifts have none"
    )


def _tell(u: Uncertainty, on_failure: str) -> None:
    for note in u.notes:
        warnings.warn(note, UncertaintyWarning, stacklevel=4)
    unfinished = unfinished_in_words(u)
    if not unfinished or on_failure == "ignore":
        return
    if on_failure == "raise":
        raise EquilibriumError(unfinished)
    warnings.warn(unfinished, EquilibriumWarning, stacklevel=4)
