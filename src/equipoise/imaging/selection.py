"""The operator of some samples of a batch, where its parameters differ from sample to sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import deepinv.physics
import torch
from deepinv.physics import LinearPhysics, NoiseModel
from torch import Tensor, nn

from .fine import FineCoils, FineKspace
from .framed import Framed
from .kept import Kept
from .linear import has_other_products, variant
from .scaled import Scaled
from .tomography import FanBeam, ParallelBeam

#: Operators whose parameters are known: the buffers of which each sample may have its own. Their
#: first axis is then that of the samples.
PARAMETERS: dict[type, tuple[str, ...]] = {
    ParallelBeam: (),
    FanBeam: (),
    deepinv.physics.Tomography: (),
    deepinv.physics.CompressedSensing: (),
    deepinv.physics.Denoising: (),
    deepinv.physics.Inpainting: ("mask",),
    deepinv.physics.Demosaicing: ("mask",),
    Kept: ("mask",),
    deepinv.physics.MRI: ("mask",),
    deepinv.physics.DynamicMRI: ("mask",),
    deepinv.physics.SequentialMRI: ("mask",),
    deepinv.physics.MultiCoilMRI: ("mask", "coil_maps"),
    deepinv.physics.NonCartesianMRI: ("coil_maps",),
    deepinv.physics.Blur: ("filter",),
    deepinv.physics.BlurFFT: ("filter", "angle", "mask"),
    deepinv.physics.Downsampling: ("filter", "Fh", "Fhc", "Fh2"),
    deepinv.physics.SpaceVaryingBlur: ("filters", "multipliers"),
}
#: Operators made of others.
AROUND_ANOTHER = (Scaled, FineKspace, FineCoils)
COMPOSITES = (
    *AROUND_ANOTHER,
    deepinv.physics.ComposedLinearPhysics,
    deepinv.physics.StackedLinearPhysics,
)


def select(physics: Any, index: Tensor, count: int, y: Any = None) -> Any:
    """The operator of the samples ``index``, of a batch of ``count``.

    Masks, filters and coil maps of which each sample has its own are restricted, in deepinv's
    operators, in compositions and stacks of them, and in their noise. An operator of another kind
    is tried out: with all it is made of, and with those of its tensors restricted that have
    ``count`` rows; the one that does to some images what the whole does to all is taken.

    Args:
        physics: a deepinv LinearPhysics.
        index: (n,) whole numbers below ``count``, in any order, also repeated.
        count: how many samples there are.
        y: (count, …) measurements, whose shape is what an operator of another kind is tried out
            with; without it, the operator's ``img_size`` tells the shape.

    Raises:
        ValueError: the operator has parameters for another number of samples, or, being of another
            kind, cannot be restricted (see :func:`selector`).
    """
    return _taken(physics, count, _way(physics, index, count, y), index)


def selector(physics: Any, count: int, y: Any = None) -> Callable[[Tensor], Any] | None:
    """:func:`select` of this operator as a function of ``index`` alone, for as long as it does not
    change: an operator of another kind is tried out once, not each time.

    None where it is not sure that it can be restricted; then let the samples that are done ride
    along with the others. Without ``y`` (count, …), that is so for operators of kinds that are not
    known and that do not say their ``img_size``.
    """
    index = torch.arange(count - 1, count // 2 - 1, -1)
    try:
        way = _way(physics, index, count, y)
        _taken(physics, count, way, index)
    except ValueError:
        return None
    return partial(_taken, physics, count, way) if way.is_sure else None


class _Way(NamedTuple):
    """How an operator is restricted."""

    unknown: bool = False  #: with those of its tensors that are not known
    is_sure: bool = True


def _way(physics: Any, index: Tensor, count: int, y: Any) -> _Way:
    """
    Raises:
        ValueError: there is none.
    """
    if count == 1 or _is_known(physics):
        return _Way()
    trial = _trial(physics, count, y)
    if trial is None and not _has_rows(physics, count):
        return _Way(is_sure=False)  # nothing about it looks as if it differed among samples
    if trial is not None:
        for unknown in (False, True):
            part = _restricted(physics, index, count, unknown)
            if _agrees(physics, part, index, trial):
                return _Way(unknown)
    raise ValueError(
        f"the {type(physics).__name__} of some of {count} samples cannot be told from that of all: "
        "its parameters must have one row for each sample, in buffers or attributes"
    )


def _taken(physics: Any, count: int, way: _Way, index: Tensor) -> Any:
    if count == 1:
        return physics
    if type(physics) is Framed:
        return physics.restricted(index, select)
    return _restricted(physics, index, count, way.unknown)


def differs_per_sample(physics: Any, count: int) -> bool:
    """Whether each of ``count`` > 1 samples has an operator of its own."""
    if count == 1:
        return False
    if type(physics) is Framed:
        return True
    known = list(_known_parts(physics))
    if any(_own(part, name, count) for part in known for name in PARAMETERS[type(part)]):
        return True
    return not _is_known(physics) and _has_rows(physics, count)


def samples_of(physics: Any) -> int:
    """How many samples an operator has parameters for, as far as its kind is known; 1 where they
    serve all."""
    if type(physics) is Framed:
        return len(physics)
    count = 1
    for part in _known_parts(physics):
        for name in PARAMETERS[type(part)]:
            buffer = getattr(part, name)
            if buffer is not None and buffer.ndim >= _axes(part):
                count = max(count, len(buffer))
    return count


def of_the_first(physics: Any) -> Any:
    """The operator of the first sample, where each has its own."""
    return select(physics, torch.zeros(1, dtype=torch.int64), samples_of(physics))


def _parts(physics: Any) -> list[Any]:
    """What a composite is made of."""
    if isinstance(physics, AROUND_ANOTHER):
        return [physics.physics]
    return list(physics.physics_list)


def _is_known(physics: Any) -> bool:
    if type(physics) is Framed:
        return True
    if type(physics) in COMPOSITES:
        return all(_is_known(part) for part in _parts(physics))
    return type(physics) in PARAMETERS and not has_other_products(physics)


def _known_parts(physics: Any) -> Iterator[Any]:
    if type(physics) in COMPOSITES:
        for part in _parts(physics):
            yield from _known_parts(part)
    elif type(physics) in PARAMETERS:
        yield physics


def _own(physics: Any, name: str, count: int) -> bool:
    """Whether each sample has its own buffer ``name``.

    Raises:
        ValueError: there are buffers for another number of samples.
    """
    buffer = getattr(physics, name)
    if buffer is None or buffer.ndim < _axes(physics) or len(buffer) == 1:
        return False
    if len(buffer) != count:
        raise ValueError(
            f"this {type(physics).__name__} has a {name} for each of {len(buffer)} samples, but "
            f"there are {count}; select those of the batch first"
        )
    return True


def _axes(physics: Any) -> int:
    """How many axes a parameter has at least, if the first of them is that of the samples."""
    if isinstance(physics, deepinv.physics.Inpainting):
        return len(physics.img_size) + 1
    volumes = isinstance(physics, deepinv.physics.DynamicMRI) or getattr(physics, "three_d", False)
    return 5 if volumes else 4


def _restricted(physics: Any, index: Tensor, count: int, unknown: bool) -> Any:
    """The operator with its parameters restricted; those of unknown kinds too, if ``unknown``.
    What nothing of changes is returned as it is."""
    out = physics
    if type(physics) in COMPOSITES:
        parts = _parts(physics)
        restricted = [_restricted(part, index, count, unknown) for part in parts]
        if any(new is not old for new, old in zip(restricted, parts)):
            out = _made_of(physics, restricted)
    elif type(physics) in PARAMETERS:
        names = [name for name in PARAMETERS[type(physics)] if _own(physics, name, count)]
        if names:
            out = variant(physics, **{name: getattr(physics, name)[index] for name in names})
    elif unknown:
        out = _with_rows(physics, index, count)
    noise = getattr(physics, "noise_model", None)
    levels = _levels(noise, count) if isinstance(noise, NoiseModel) else {}
    if levels:
        out = variant(out) if out is physics else out
        out.noise_model = variant(noise, **{name: each[index] for name, each in levels.items()})
    return out


def _made_of(physics: Any, parts: list[Any]) -> Any:
    """The composite with other parts."""
    out = variant(physics)
    if isinstance(physics, AROUND_ANOTHER):
        out.physics = parts[0]
    elif isinstance(physics.physics_list, nn.ModuleList):
        out.physics_list = nn.ModuleList(parts)
    else:
        out.physics_list = parts
    return out


def _levels(noise: NoiseModel, count: int) -> dict[str, Tensor]:
    """Of deepinv's noise models, the levels of which each of ``count`` samples has its own."""
    return {
        name: level
        for name, level in noise.named_buffers(recurse=False)
        if level.is_floating_point() and level.ndim > 0 and len(level) == count
    }


def _is_row_by_row(value: Any, count: int) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == count


def _tensors(physics: Any) -> Iterator[Any]:
    """All that an operator of an unknown kind, and what it is made of, hold."""
    for module in physics.modules():
        if isinstance(module, NoiseModel):
            continue  # known, see _levels
        yield from module._buffers.values()
        yield from module._parameters.values()
        yield from (value for value in vars(module).values() if isinstance(value, Tensor))


def _has_rows(physics: Any, count: int) -> bool:
    """Whether an operator holds anything that could differ among ``count`` samples."""
    parts = _parts(physics) if type(physics) in COMPOSITES else [physics]
    return any(_is_row_by_row(value, count) for part in parts for value in _tensors(part))


def _with_rows(module: Any, index: Tensor, count: int) -> Any:
    """A copy in which whatever has ``count`` rows has the rows ``index``."""
    out = variant(module)
    for name, value in [*module._buffers.items(), *module._parameters.items()]:
        if _is_row_by_row(value, count):
            out._parameters.pop(name, None)
            out._buffers[name] = value[index]
    for name, value in vars(module).items():
        if _is_row_by_row(value, count):
            out.__dict__[name] = value[index]
    for name, child in module._modules.items():
        if child is not None:
            out._modules[name] = _with_rows(child, index, count)
    return out


def _trial(physics: Any, count: int, y: Any) -> Tensor | None:
    """(count, …) images to try an operator out with, if their shape is known."""
    rng = torch.Generator().manual_seed(0)
    if isinstance(y, Tensor):
        noise = torch.randn(y.shape, generator=rng, dtype=torch.float64).to(y)
        try:
            with torch.no_grad():
                x: Tensor = physics.A_adjoint(noise)
        except Exception:  # whatever an operator of one's own raises
            return None
        return x
    size = getattr(physics, "img_size", None)
    if y is not None or not isinstance(size, (tuple, list, torch.Size)):
        return None
    floats = (value for value in _tensors(physics) if value.is_floating_point())
    precision = next(floats, torch.zeros(1))
    return torch.randn(count, *size, generator=rng, dtype=torch.float64).to(precision)


def _agrees(physics: Any, part: LinearPhysics, index: Tensor, x: Tensor) -> bool:
    """Whether ``part`` does to ``x[index]`` what the whole does to x, forward and back."""
    index = index.to(x.device)
    try:
        with torch.no_grad():
            whole_y, part_y = physics.A(x), part.A(x[index])
            whole_x, part_x = physics.A_adjoint(whole_y), part.A_adjoint(part_y)
    except Exception:  # whatever an operator of one's own raises
        return False
    whole = [*([whole_y] if isinstance(whole_y, Tensor) else whole_y), whole_x]
    parts = [*([part_y] if isinstance(part_y, Tensor) else part_y), part_x]
    return all(_same(a[index], b) for a, b in zip(whole, parts))


def _same(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    return bool((a - b).abs().max() <= 1e-4 * a.abs().max())
