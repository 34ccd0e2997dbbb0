"""The groups that equivariant imaging acts with: one draw per *sample*, norm-preserving, seeded.

Interpolation decides what can be learnt: if T_g blurs, T_g x̂ is a blurred target, and the network
learns to blur. So every T_g here is orthogonal: T_g⁻¹ = T_gᵀ, whatever the image and its size.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from deepinv.transform.base import Transform
from torch import Tensor

from .draws import per_sample


class Group(Transform):
    """One draw per sample.

    Parameters have length n·B for a batch of B; element i·B + b is the i-th move of sample b, and
    image i·B + b of the result is what it makes. A parameter of length 1 moves all samples alike,
    one of length B (or any multiple) each its own. ``rng=None`` draws from torch's global
    generator, so that ``torch.manual_seed`` holds.

    Images are (B, C, H, W), or sequences (B, C, T, H, W) whose frames all move alike.
    """

    #: the parameters that it draws and understands
    names: tuple[str, ...] = ()

    def __init__(self, n_trans: int = 1, rng: torch.Generator | None = None):
        if n_trans < 1:
            raise ValueError(f"n_trans must be at least 1, got {n_trans}")
        super().__init__(n_trans=n_trans)
        self.rng = rng

    def _uniform(self, n: int) -> Tensor:
        if self.rng is not None:
            return torch.rand(n, generator=self.rng, device=self.rng.device)
        return per_sample(lambda index: torch.rand(len(index)), n)

    def elements(self) -> list[dict[str, Tensor]]:
        """The parameters of every element, the identity first.

        Raises:
            ValueError: the group is not finite.
        """
        raise ValueError(
            f"{type(self).__name__} with these settings is no finite group; use "
            "Rotations(multiples=90) or Reflections()"
        )

    def _move(self, x: Tensor, **params: Tensor) -> Tensor:
        """T_g x for images (N, C, H, W) and parameters (N,) each."""
        raise NotImplementedError

    def _undo(self, x: Tensor, **params: Tensor) -> Tensor:
        """T_g⁻¹ x, likewise."""
        return self._move(x, **self.invert_params(params))

    def transform(self, x: Tensor, **params: Any) -> Tensor:
        """T_g x for given parameters; those that are left out move nothing.

        Raises:
            TypeError: the group has no parameter of that name.
            ValueError: their lengths do not fit the batch.
        """
        unknown = params.keys() - set(self.names)
        if unknown:
            raise TypeError(
                f"{type(self).__name__} moves by {' and '.join(self.names)}, not by "
                f"{', '.join(sorted(unknown))}"
            )
        x, own = _matched(x, self._own(params))
        return _framewise(self._move, x, own)

    def inverse(self, x: Tensor, batchwise: bool = True, **params: Any) -> Tensor:
        """T_g⁻¹ x for the ``params`` of ``get_params``: image by image.

        Parameters of other transforms may stand among them, as deepinv's chains pass them on.

        Raises:
            TypeError: none of the parameters is this group's.
            ValueError: their lengths do not fit the batch.
        """
        own = self._own(params)
        if not own:
            raise TypeError(
                f"{type(self).__name__} can only undo a move that it is told: give the inverse "
                f"{' and '.join(self.names)}. (A chain of deepinv's loses the draws of a batch "
                "where this group comes second; put the group first: group * other)"
            )
        x, own = _matched(x, own)
        return _framewise(self._undo, x, own)

    def _transform(self, x: Tensor, **params: Any) -> Tensor:
        """What deepinv's chains and sums call, with the parameters of all their transforms.

        The images may be several of each sample, made by the transform before.
        """
        own = self._own(params)
        n = max((len(p) for p in own.values()), default=1)
        samples = n // self.n_trans if n % self.n_trans == 0 else n
        if n > 1 and len(x) > samples and len(x) % samples == 0:
            images = len(x) // samples
            for name, p in own.items():
                if len(p) == n:
                    draws = p.reshape(-1, 1, samples)
                    own[name] = draws.expand(-1, images, -1).reshape(-1)
        x, own = _matched(x, own)
        return _framewise(self._move, x, own)

    def _own(self, params: dict[str, Any]) -> dict[str, Tensor]:
        """The parameters that are this group's, as vectors."""
        own = {}
        for name in self.names:
            if params.get(name) is not None:
                own[name] = torch.as_tensor(params[name]).flatten()
        return own

    def iterate_params(self, params: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """The parameters of each draw, for the whole batch."""
        draws = []
        for i in range(self.n_trans):
            draws.append(
                {k: p if len(p) == 1 else p.chunk(self.n_trans)[i] for k, p in params.items()}
            )
        return draws

    def __mul__(self, other: Transform) -> Transform:
        """First this group, then ``other``, each with its own draw for each sample."""
        return Product(self, other) if isinstance(other, Group) else super().__mul__(other)


def _matched(x: Tensor, params: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Repeats the images or the parameters so that there is one of each per result."""
    lengths = {name: len(p) for name, p in params.items() if len(p) != 1}
    n = max(lengths.values(), default=len(x))
    fits = n == len(x) or (len(x) > 0 and n % len(x) == 0)
    if not fits or len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} of {length}" for name, length in lengths.items())
        raise ValueError(
            f"a batch of {len(x)} needs parameters of length 1, or all of the same multiple of "
            f"{len(x)}; got {told}"
        )
    if n > len(x):
        x = x.repeat(n // len(x), *[1] * (x.ndim - 1))
    return x, {name: p.to(x.device).expand(n) for name, p in params.items()}


def _framewise(move: Any, x: Tensor, params: dict[str, Tensor]) -> Tensor:
    """``move`` applied to (B, C, H, W), or to all frames of (B, C, T, H, W) alike."""
    if x.ndim not in (4, 5):
        raise ValueError(
            f"images must be (B, C, H, W), or sequences (B, C, T, H, W), got {tuple(x.shape)}"
        )
    moved: Tensor = move(x.flatten(1, -3), **params)
    return moved.reshape(x.shape)


class Product(Group):
    """Two groups after each other: T_g = T_second T_first.

    For each of the ``first.n_trans`` moves of a sample there are ``second.n_trans`` others.
    """

    def __init__(self, first: Group, second: Group):
        super().__init__(first.n_trans * second.n_trans)
        common = set(first.names) & set(second.names)
        if common:
            raise ValueError(
                f"both groups of this product move by {', '.join(sorted(common))}; multiply "
                "different kinds of groups"
            )
        self.first = first
        self.second = second
        self.names = first.names + second.names

    def _get_params(self, x: Tensor) -> dict[str, Tensor]:
        first = self.first._get_params(x)
        images = x.repeat(self.first.n_trans, *[1] * (x.ndim - 1))
        second = self.second._get_params(images)
        return {name: p.repeat(self.second.n_trans) for name, p in first.items()} | second

    def elements(self) -> list[dict[str, Tensor]]:
        pairs = itertools.product(self.first.elements(), self.second.elements())
        return [first | second for first, second in pairs]

    def invert_params(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        first = self.first.invert_params(self.first._own(params))
        return first | self.second.invert_params(self.second._own(params))

    def _move(self, x: Tensor, **params: Tensor) -> Tensor:
        x = self.first._move(x, **self.first._own(params))
        return self.second._move(x, **self.second._own(params))

    def _undo(self, x: Tensor, **params: Tensor) -> Tensor:
        x = self.second._undo(x, **self.second._own(params))
        return self.first._undo(x, **self.first._own(params))


def _shift_lines(x: Tensor, amount: Tensor, dim: int) -> Tensor:
    """Shifts every line along ``dim`` (−1 or −2) by ``amount`` (B, lines) pixels, periodically.

    By the Fourier shift theorem. Lines of even length have a component at the Nyquist frequency,
    which a shift by a fraction of a pixel would multiply with the cosine of its phase, and so lose
    (a sine of that frequency is zero at every pixel). It stays as it is instead: then shifts are
    orthogonal, the opposite one undoes them, and they add up.
    """
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
        if multiples is not None and not 0 < multiples <= 2 * limit:
            raise ValueError(f"multiples must be in (0, {2 * limit}] degrees, got {multiples}")
        self.limit = float(limit)
        self.multiples = multiples

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

    Exact for whole pixels; fractions by the Fourier shift theorem.

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
