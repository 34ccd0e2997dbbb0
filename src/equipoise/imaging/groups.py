"""The groups that equivariant imaging acts with: one draw per sample, norm-preserving, seeded.

Interpolation decides what can be learnt: if T_g blurs, T_g x̂ is a blurred target, and the network
learns to blur. So every T_g here is orthogonal: T_g⁻¹ = T_gᵀ, whatever the image and its size.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from .group import Group, Product

__all__ = ["Group", "Product", "Reflections", "Rotations", "Shifts", "named_group"]


def _shift_lines(x: Tensor, amount: Tensor, dim: int) -> Tensor:
    """Shifts every line along ``dim`` (−1 or −2) by ``amount`` (B, lines) pixels, periodically.

    By the Fourier shift theorem. Lines of even length have a component at the Nyquist frequency,
    which a shift by a fraction of a pixel would multiply with the cosine of its phase, and so lose
    (a sine of that frequency is zero at every pixel). It stays as it is instead: then shifts are
    orthogonal, the opposite one undoes them, and they add up.

    Raises:
        TypeError: the images are of whole numbers.
    """
    if not x.is_floating_point():
        raise TypeError(
            f"images of {x.dtype} have no values between pixels to move by; convert them first "
            "(x.float()), or move them by whole pixels or quarter turns"
        )
    n = x.shape[dim]
    k = torch.fft.rfftfreq(n, device=x.device, dtype=x.dtype)
    if n % 2 == 0:
        k[-1] = 0
    phase = -2 * math.pi * amount[:, :, None] * k  # (B, lines, frequencies)
    phase = phase if dim == -1 else phase.transpose(1, 2)
    spectrum = torch.fft.rfft(x, dim=dim) * torch.polar(torch.ones_like(phase), phase)[:, None]
    return torch.fft.irfft(spectrum, n, dim=dim)


def _where(chosen: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Images of ``a`` where ``chosen`` (B,), of ``b`` elsewhere."""
    return torch.where(chosen[:, None, None, None], a, b)


def _quarter_turns(x: Tensor, turns: Tensor) -> Tensor:
    """Each image turned by 90° times ``turns`` (B,), counter-clockwise."""
    out = x
    for k in (1, 2, 3):
        chosen = turns.remainder(4) == k
        if bool(chosen.any()):
            out = _where(chosen, torch.rot90(x, k, (-2, -1)), out)
    return out


def _three_shears(x: Tensor, angle: Tensor) -> Tensor:
    """Each image turned by ``angle`` (B,) degrees, of at most 45° either way."""
    angle = torch.deg2rad(angle)
    row = torch.arange(x.shape[-2], device=x.device, dtype=angle.dtype) - (x.shape[-2] - 1) / 2
    column = torch.arange(x.shape[-1], device=x.device, dtype=angle.dtype) - (x.shape[-1] - 1) / 2
    along_rows = (torch.tan(angle / 2)[:, None] * row).to(x.dtype)
    along_columns = (-torch.sin(angle)[:, None] * column).to(x.dtype)
    out = _shift_lines(x, along_rows, -1)
    out = _shift_lines(out, along_columns, -2)
    return _shift_lines(out, along_rows, -1)


class Rotations(Group):
    """Rotations about the image's centre, counter-clockwise in degrees (parameter ``theta``).

    Multiples of 90° are exact; what is left, at most 45°, is three shears, each a shift of every
    line by the Fourier shift theorem (Unser, Thévenaz and Yaroslavsky, IEEE TIP 1995). All of it is
    orthogonal, and the negative angle undoes it. On images that are not square a quarter turn is
    not to be had: multiples of 180° are exact, and what is left, at most 90°, is turned in two
    halves.

    Angles add up exactly where one is a multiple of 180° (or both are of 90°), and up to
    interpolation otherwise. What leaves the image, or its inscribed circle, wraps around: pad
    images whose corners are not empty. The cost is six FFTs along lines.

    Args:
        limit: angles are drawn from [−limit, limit).
        multiples: draw only multiples of this many degrees (90: exact rotations).
        n_trans: how many draws for each sample.
        rng: the generator to draw from; None: torch's global one.
    """

    names = ("theta",)

    def __init__(
        self,
        limit: float = 180.0,
        multiples: float | None = None,
        n_trans: int = 1,
        rng: torch.Generator | None = None,
    ):
        super().__init__(n_trans, rng)
        if not 0 < limit <= 360:
            raise ValueError(f"limit must be in (0, 360] degrees, got {limit}")
        if multiples is not None and not 0 < multiples <= limit:
            raise ValueError(
                f"multiples must be in (0, {limit}] degrees, the limit, got {multiples}: there "
                "would be no rotation but that by 0"
            )
        self.limit = float(limit)
        self.multiples = multiples

    @property
    def permutes(self) -> bool:
        return self.multiples is not None and self.multiples % 90 == 0

    def _get_params(self, x: Tensor) -> dict[str, Tensor]:
        u = self._uniform(self.n_trans * len(x))
        if self.multiples is None:
            return {"theta": (2 * u - 1) * self.limit}
        low = math.ceil(-self.limit / self.multiples)
        high = math.ceil(self.limit / self.multiples)  # exclusive, so that ±180° is drawn once
        return {"theta": (low + u * (high - low)).floor() * self.multiples}

    def elements(self) -> list[dict[str, Tensor]]:
        if self.multiples is None or self.limit != 180 or 360 % self.multiples:
            return super().elements()
        count = round(360 / self.multiples)
        return [{"theta": torch.tensor([k * self.multiples])} for k in range(count)]

    def _move(self, x: Tensor, theta: Tensor | None = None) -> Tensor:  # type: ignore[override]
        if theta is None:
            return x
        angle = theta.double()
        square = x.shape[-1] == x.shape[-2]
        turns = (angle / 90).round() if square else 2 * (angle / 180).round()
        rest = angle - 90 * turns
        # Turns and shears do not commute: the inverse, which shears the other way, must take them
        # in the opposite order.
        x = _quarter_turns(x, torch.where(rest < 0, turns, 0))
        if bool((rest != 0).any()):
            if square:
                sheared = _three_shears(x, rest)
            else:
                sheared = _three_shears(_three_shears(x, rest / 2), rest / 2)
            x = _where(rest == 0, x, sheared)
        return _quarter_turns(x, torch.where(rest < 0, 0, turns))


class Reflections(Group):
    """Flips of columns (``flip_x``), of rows (``flip_y``), or both, each with probability ½.

    Exact.

    Args:
        axes: "x", "y", or both.
        n_trans: how many draws for each sample.
        rng: the generator to draw from; None: torch's global one.
    """

    def __init__(
        self,
        axes: tuple[str, ...] = ("x", "y"),
        n_trans: int = 1,
        rng: torch.Generator | None = None,
    ):
        super().__init__(n_trans, rng)
        if not axes or any(axis not in ("x", "y") for axis in axes):
            raise ValueError(f'axes must be some of "x", "y", got {axes}')
        self.axes = tuple(axes)
        self.names = tuple(f"flip_{axis}" for axis in axes)

    @property
    def permutes(self) -> bool:
        return True

    def _get_params(self, x: Tensor) -> dict[str, Tensor]:
        n = self.n_trans * len(x)
        return {name: (self._uniform(n) < 0.5).long() for name in self.names}

    def invert_params(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        return params

    def elements(self) -> list[dict[str, Tensor]]:
        choices = itertools.product((0, 1), repeat=len(self.names))
        elements = []
        for choice in choices:
            elements.append({name: torch.tensor([k]) for name, k in zip(self.names, choice)})
        return elements

    def _move(  # type: ignore[override]
        self, x: Tensor, flip_x: Tensor | None = None, flip_y: Tensor | None = None
    ) -> Tensor:
        if flip_x is not None:
            x = _where(flip_x.bool(), x.flip(-1), x)
        if flip_y is not None:
            x = _where(flip_y.bool(), x.flip(-2), x)
        return x


class Shifts(Group):
    """Periodic shifts by (``shift_x``, ``shift_y``) pixels: to the right, and down.

    Exact for whole pixels; fractions by the Fourier shift theorem. Whole shifts add up, and so do
    fractions, but not one with the other on sides of even length: there a pixel more turns the
    component at the Nyquist frequency round, and a fraction has to leave it (``_shift_lines``).

    Args:
        limit: shifts are drawn up to this fraction of the size, either way.
        subpixel: draw fractions of pixels too.
        n_trans: how many draws for each sample.
        rng: the generator to draw from; None: torch's global one.
    """

    names = ("shift_x", "shift_y")

    def __init__(
        self,
        limit: float = 0.25,
        subpixel: bool = False,
        n_trans: int = 1,
        rng: torch.Generator | None = None,
    ):
        super().__init__(n_trans, rng)
        if not 0 < limit <= 1:
            raise ValueError(f"limit must be a fraction of the size in (0, 1], got {limit}")
        self.limit = float(limit)
        self.subpixel = subpixel

    @property
    def permutes(self) -> bool:
        return not self.subpixel

    def _get_params(self, x: Tensor) -> dict[str, Tensor]:
        n = self.n_trans * len(x)
        shifts = {}
        for name, size in zip(self.names, (x.shape[-1], x.shape[-2])):
            shift = (2 * self._uniform(n) - 1) * self.limit * size
            shifts[name] = shift if self.subpixel else shift.round()
        return shifts

    def _move(  # type: ignore[override]
        self, x: Tensor, shift_x: Tensor | None = None, shift_y: Tensor | None = None
    ) -> Tensor:
        if shift_x is not None:
            x = _shifted(x, shift_x, -1)
        if shift_y is not None:
            x = _shifted(x, shift_y, -2)
        return x


def _shifted(x: Tensor, shift: Tensor, dim: int) -> Tensor:
    """Each image shifted along ``dim`` (−1 or −2) by ``shift`` (B,) pixels, periodically."""
    whole = shift == shift.round()
    n = x.shape[dim]
    source = torch.arange(n, device=x.device) - shift.round().long()[:, None]  # (B, n)
    source = source.remainder(n)[:, None, None, :]
    if dim == -2:
        source = source.transpose(-1, -2)
    rolled = x.gather(dim, source.expand(x.shape))
    if bool(whole.all()):
        return rolled
    lines = x.shape[-2] if dim == -1 else x.shape[-1]
    amount = shift.to(x.dtype)[:, None].expand(-1, lines)
    return _where(whole, rolled, _shift_lines(x, amount, dim))


def named_group(name: str, draws: int = 1) -> Group:
    """A group as a configuration names it: rotations, quarter_turns, reflections or shifts."""
    match name:
        case "rotations":
            return Rotations(n_trans=draws)
        case "quarter_turns":
            return Rotations(multiples=90, n_trans=draws)
        case "reflections":
            return Reflections(n_trans=draws)
        case "shifts":
            return Shifts(n_trans=draws)
    raise KeyError(name)
