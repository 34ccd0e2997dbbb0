"""deepinv's operators and the user's own, brought to one convention."""

from __future__ import annotations

import copy
import importlib.util
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from deepinv.physics import BlurFFT, LinearPhysics
from torch import Tensor

from ..errors import UserError
from .framed import Framed
from .kept import factors
from .linear import norm, variant
from .scaled import Scaled, fits_inside, unscaled
from .selection import of_the_first
from .sizes import Size, image_size
from .tomography import Tomography


class Normalized(NamedTuple):
    """An operator with ‖A‖ = 1, and what is known about it."""

    physics: LinearPhysics
    gain: float  #: what A was multiplied by
    image_shape: tuple[int, ...]  #: of one x: (C, H, W), or (2, frames, H, W) for sequences
    measurement_shape: tuple[int, ...]  #: of one y


#: By this share A(2x) may differ from 2 A(x), by rounding.
NOT_LINEAR = 1e-2


def normalized(physics: Any, size: Size, frames: int | None = None) -> Normalized:
    """The operator with ‖A‖ = 1, its gain, and the shapes of what it takes and gives.

    With ``frames``, x is a complex sequence (2, frames, H, W).

    Raises:
        UserError: it is not linear, or takes neither real (1, H, W) nor complex (2, H, W) images,
            or its norm is zero or infinite.
    """
    name, (h, w) = type(physics).__name__, image_size(size)
    if not isinstance(physics, LinearPhysics):
        raise UserError(
            f"physics: {name} is no deepinv.physics.LinearPhysics; only linear operators can be "
            "trained with"
        )
    _check_filters(physics)
    if frames is None:
        shapes: list[tuple[int, ...]] = [(1, h, w), (2, h, w)]
    else:
        shapes = [(2, frames, h, w)]
    complaints = []
    for shape in shapes:
        measurement, complaint = _try_shape(physics, shape)
        if measurement is not None:
            if isinstance(physics, Tomography):
                ours = physics if physics.gain != 1 else variant(physics).normalize()
                return Normalized(ours, ours.gain, shape, measurement)
            gain = _gain(physics, shape)
            # Of what is composed, Scaled has noise where the last factor measures.
            as_it_is = gain == 1 and len(factors(physics)) == 1
            scaled = physics if as_it_is else Scaled(physics, gain)
            return Normalized(scaled, gain, shape, measurement)
        complaints.append(f"{shape}: {complaint}")
    raise UserError(
        f"physics: {name} takes neither real images (1, {h}, {w}) nor complex ones "
        f"(2, {h}, {w}): {'; '.join(complaints)}"
    )


def _check_filters(physics: LinearPhysics) -> None:
    """
    Raises:
        UserError: a filter is larger than the images; deepinv cuts off what does not fit, from one
            side, and says nothing.
    """
    for part in physics.modules():
        if not isinstance(part, BlurFFT) or part.filter is None:
            continue
        sides, widths = tuple(part.img_size[-2:]), tuple(part.filter.shape[-2:])
        if not fits_inside(part.filter, sides):
            raise UserError(
                f"physics: the filter of {type(part).__name__} has {widths[0]}×{widths[1]} pixels, "
                f"more than its images of {sides[0]}×{sides[1]}: crop the filter about its middle, "
                "or reconstruct larger images"
            )


def _try_shape(
    physics: LinearPhysics, shape: tuple[int, ...]
) -> tuple[tuple[int, ...] | None, str]:
    """The shape of what the operator measures of one image of ``shape``; or none, and why not."""
    x = torch.zeros(1, *shape)
    try:
        with torch.no_grad():
            y = physics.A(x)
            back = physics.A_adjoint(y)
            complaint = _complaint_of_any_image(physics, shape)
    except Exception as error:  # whatever a user's own operator raises
        return None, f"{type(error).__name__}: {error}"
    if not isinstance(y, Tensor) or y.is_complex() or back.shape != x.shape:
        what = getattr(y, "shape", type(y))
        return None, (f"A gives {what}, A_adjoint {tuple(back.shape)}; y must be one real tensor")
    if bool((y != 0).any()):
        largest = float(y.abs().max())
        return None, (
            f"A gives up to {largest:.3g} for an image of zeros, so it is not linear; take this "
            "offset out of A, and out of the measurements"
        )
    if complaint:
        return None, complaint
    return tuple(y.shape[1:]), ""


def _complaint_of_any_image(physics: LinearPhysics, shape: tuple[int, ...]) -> str:
    """What is wrong with an operator beside its shapes, seen at two random images: their type, what
    becomes of each, and whether it is linear; empty if nothing is."""
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    kept = x.clone()
    y = physics.A(x)
    if not torch.equal(x, kept):
        return "A changes the image that it is given; compute with a copy: x.clone()"
    if not isinstance(y, Tensor):
        return ""  # which is said elsewhere
    if y.dtype != x.dtype:
        return (
            f"A gives {y.dtype} for images of {x.dtype}; end it with y.to(x.dtype), and A_adjoint "
            "likewise"
        )
    if len(y) != len(x):
        return f"A gives {len(y)} measurement(s) of {len(x)} images; it must take a batch (B, …)"
    twice = physics.A(2 * kept)
    off = float((twice - 2 * y).norm()) / max(float(twice.norm()), 1e-30)
    if off > NOT_LINEAR:
        return f"A(2x) is {off:.0%} off 2 A(x), so it is not linear, which all methods need"
    return ""


def _gain(physics: LinearPhysics, shape: tuple[int, ...]) -> float:
    """1 / ‖A‖, or 1 where ‖A‖ is 1 already.

    Raises:
        UserError: ‖A‖ is zero or not finite.
    """
    largest = norm(physics.A, physics.A_adjoint, torch.zeros(1, *shape))
    if not (largest > 0 and math.isfinite(largest)):
        reason = "A x is zero for every image x" if largest == 0 else "A x is not finite"
        raise UserError(f"physics: ‖A‖ = {largest}; {reason}")
    return 1.0 if abs(largest - 1) < 1e-3 else 1 / largest


def in_double(physics: Any, measurement_shape: tuple[int, ...]) -> Any:
    """A copy of the operator that computes in float64.

    Args:
        physics: of any number of samples.
        measurement_shape: of one y.

    Raises:
        UserError: there is none: it computes in float32 whatever it is given, or holds something
            that cannot be copied, as non-Cartesian MRI does.
    """
    name = type(unscaled(physics)).__name__
    try:
        double = copy.deepcopy(physics).double()
        for part in double.modules():
            if vars(part).get("dtype") == torch.float32:
                part.dtype = torch.float64  # compressed sensing casts to what it says
        if isinstance(physics, Framed):  # each of its sizes has a shape of its own
            return double
        y = torch.zeros(1, *measurement_shape, dtype=torch.float64)
        with torch.no_grad():
            found = of_the_first(double).A_adjoint(y.to(_device_of(double))).dtype
    except Exception as error:  # whatever an operator raises
        raise UserError(f"{name} cannot compute in float64: {error}") from error
    if found != torch.float64:
        raise UserError(f"{name} cannot compute in float64: it gives {found}")
    return double


def _device_of(physics: Any) -> torch.device:
    return next((buffer.device for buffer in physics.buffers()), torch.device("cpu"))


def with_masks(physics: Any, masks: Tensor) -> LinearPhysics:
    """The operator of N samples, of which each has its own mask: (N, 1, …, H, W)."""
    if isinstance(physics, Scaled):
        return Scaled(with_masks(physics.physics, masks), physics.factor)
    own = masks.to(physics.mask).expand(-1, *physics.mask.shape[1:])
    operator: LinearPhysics = variant(physics, mask=own)
    return operator


def from_file(path: Path, size: Size) -> Any:
    """What the function ``physics(size)`` of a Python file returns.

    Raises:
        UserError: the file cannot be run or has no such function.
    """
    spec = importlib.util.spec_from_file_location(f"equipoise_custom_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"physics.file: {path} is no Python file (its name must end in .py)")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        made = module.physics(size) if callable(getattr(module, "physics", None)) else None
    except (Exception, SystemExit) as error:
        raise UserError(
            f"physics.file: {path} cannot be run: {type(error).__name__}: {error}"
        ) from error
    if not callable(getattr(module, "physics", None)):
        raise UserError(
            f"physics.file: {path} has no function physics(size) that returns a deepinv "
            "LinearPhysics"
        )
    return made
