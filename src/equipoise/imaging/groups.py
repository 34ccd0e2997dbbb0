"""The groups that equivariant imaging acts with: one draw per *sample*, norm-preserving, seeded.

Interpolation decides what can be learnt: if T_g blurs, T_g x̂ is a blurred target, and the network
learns to blur.
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

    Parameters have length n·B for a batch of B; element i·B + b is the i-th move of sample b. A
    parameter of length 1 moves all samples alike, one of length B (or any multiple) each its own.
    ``rng=None`` draws from torch's global generator, so that ``torch.manual_seed`` holds.
    """

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

    def inverse(self, x: Tensor, batchwise: bool = True, **params: Any) -> Tensor:
        """T_g⁻¹ for the ``params`` of ``get_params``: sample by sample."""
        return self.transform(x, **self.invert_params(params or self.get_params(x)))

    def __mul__(self, other: Transform) -> Transform:
        """First this group, then ``other``, each with its own draw for each sample."""
        return Product(self, other) if isinstance(other, Group) else super().__mul__(other)

    @staticmethod
    def _match(x: Tensor, *params: Tensor) -> tuple[Tensor, ...]:
        """Repeats x or the parameters so that there is one of each per output."""
        n = max(len(p) for p in params)
        if n == 1 or n == len(x):
            return x, *(p.to(x.device).expand(len(x)) for p in params)
        if len(x) == 0 or n % len(x):
            raise ValueError(
                f"a batch of {len(x)} needs 1 or a multiple of {len(x)} group parameters, got {n}"
            )
        return x.repeat(n // len(x), *[1] * (x.ndim - 1)), *(
            p.to(x.device).expand(n) for p in params
        )


class Product(Group):
    """Two groups after each other: T_g = T_second T_first."""

    def __init__(self, first: Group, second: Group):
        super().__init__(first.n_trans * second.n_trans)
        if self.n_trans > 1:
            raise ValueError(
                "a product of groups draws one move for each sample; set n_trans=1 on both and "
                "repeat the batch"
            )
        self.first, self.second = first, second

    def _get_params(self, x: Tensor) -> dict[str, Tensor]:
        a, b = self.first._get_params(x), self.second._get_params(x)
        if shared := a.keys() & b.keys():
            raise ValueError(
                f"both groups of this product move by {', '.join(sorted(shared))}; multiply "
                "different kinds of groups"
            )
        return a | b

    def elements(self) -> list[dict[str, Tensor]]:
        return [a | b for a in self.first.elements() for b in self.second.elements()]

    def _transform(self, x: Tensor, **params: Any) -> Tensor:
        return self.second._transform(self.first._transform(x, **params), **params)

    def inverse(self, x: Tensor, batchwise: bool = True, **params: Any) -> Tensor:
        params = params or self.get_params(x)
        return self.first.inverse(self.second.inverse(x, **params), **params)


def _shear(x: Tensor, amount: Tensor, dim: int) -> Tensor:
    """Shifts every line along ``dim`` (−1 or −2) by ``amount`` (B, lines) pixels.

    By the Fourier shift theorem.
    """
    n = x.shape[dim]
    k = torch.fft.rfftfreq(n, device=x.device, dtype=x.dtype)
    phase = -2 * math.pi * amount[:, :, None] * k  # (B, lines, frequencies)
    phase = phase if dim == -1 else phase.transpose(1, 2)
    spectrum = torch.fft.rfft(x, dim=dim) * torch.polar(torch.ones_like(phase), phase)[:, None]
    return torch.fft.irfft(spectrum, n, dim=dim)


def _quarter_turns(x: Tensor, turns: Tensor) -> Tensor:
    out = x
    for k in (1, 2, 3):
        chosen = turns.remainder(4) == k
        if bool(chosen.any()):
            out = torch.where(chosen[:, None, None, None], torch.rot90(x, k, (-2, -1)), out)
    return out


class Rotations(Group):
    """Rotations about the image's centre, counter-clockwise in degrees (parameter ``theta``).

    Multiples of 90° are exact; what is left, at most 45°, is three shears, each a shift of every
    line by the Fourier shift theorem (Unser, Thévenaz and Yaroslavsky, IEEE TIP 1995): it keeps the
    norm, and the negative angle undoes it, up to the part of the image at the Nyquist frequency
    (which even sizes have, and band-limited images do not). What lies outside the inscribed circle
    wraps around. The cost is six FFTs along lines.

    Args:
        limit: angles are drawn from [−limit, limit).
        multiples: draw only multiples of this many degrees (90: exact rotations).
        n_trans: how many draws for each sample.
        rng: the generator to draw from; None: torch's global one.
    """

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
        self.limit, self.multiples = float(limit), multiples

    def _get_params(self, x: Tensor) -> dict[str, Tensor]:
        u = self._uniform(self.n_trans * len(x))
        if self.multiples is None:
            return {"theta": (2 * u - 1) * self.limit}
        low = math.ceil(-self.limit / self.multiples)
        high = math.ceil(self.limit / self.multiples)  # exclusive, so that ±180° is drawn once
        return {"theta": ((low + u * (high - low)).floor()) * self.multiples}

    def elements(self) -> list[dict[str, Tensor]]:
        if self.multiples is None or self.limit != 180 or 360 % self.multiples:
            return super().elements()
        return [
            {"theta": torch.tensor([k * self.multiples])}
            for k in range(round(360 / self.multiples))
        ]

    def _transform(self, x: Tensor, theta: Tensor | None = None, **kwargs: Any) -> Tensor:
        theta = torch.zeros(1) if theta is None else torch.as_tensor(theta).flatten()
        x, theta = self._match(x, theta)
        h, w = x.shape[-2:]
        if h != w:  # turn in the square around it
            n = max(h, w)
            top, left = (n - h) // 2, (n - w) // 2
            square = torch.nn.functional.pad(x, (left, n - w - left, top, n - h - top))
            return self._turn(square, theta)[..., top : top + h, left : left + w]
        return self._turn(x, theta)

    @staticmethod
    def _turn(x: Tensor, theta: Tensor) -> Tensor:
        turns = (theta / 90).round()
        rest = torch.deg2rad(theta - 90 * turns).to(x.dtype)
        x = _quarter_turns(x, turns.long())
        if not bool(rest.any()):
            return x
        line = torch.arange(x.shape[-1], device=x.device, dtype=x.dtype) - (x.shape[-1] - 1) / 2
        along_rows = torch.tan(rest / 2)[:, None] * line
        along_columns = -torch.sin(rest)[:, None] * line
        out = _shear(x, along_rows, -1)
        out = _shear(out, along_columns, -2)
        out = _shear(out, along_rows, -1)
        return torch.where((rest == 0)[:, None, None, None], x, out)


class Reflections(Group):
    """Flips of columns (``flip_x``), of rows (``flip_y``), or both, each with probability ½.

    Exact.
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

    def _get_params(self, x: Tensor) -> dict[str, Tensor]:
        return {
            f"flip_{axis}": (self._uniform(self.n_trans * len(x)) < 0.5).long()
            for axis in self.axes
        }

    def invert_params(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        return params

    def elements(self) -> list[dict[str, Tensor]]:
        choices = itertools.product(*[(0, 1) for _ in self.axes])
        return [
            {f"flip_{a}": torch.tensor([k]) for a, k in zip(self.axes, choice)}
            for choice in choices
        ]

    def _transform(
        self, x: Tensor, flip_x: Tensor | None = None, flip_y: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        zero = torch.zeros(1, dtype=torch.long)
        x, fx, fy = self._match(
            x, zero if flip_x is None else flip_x, zero if flip_y is None else flip_y
        )
        x = torch.where(fx.bool()[:, None, None, None], x.flip(-1), x)
        return torch.where(fy.bool()[:, None, None, None], x.flip(-2), x)


class Shifts(Group):
    """Periodic shifts by (``shift_x``, ``shift_y``) pixels, up to ``limit`` times the size.

    Exact for integers; with ``subpixel``, by the Fourier shift theorem.
    """

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
        self.limit, self.subpixel = float(limit), subpixel

    def _get_params(self, x: Tensor) -> dict[str, Tensor]:
        n = self.n_trans * len(x)
        shifts = {
            k: (2 * self._uniform(n) - 1) * self.limit * s
            for k, s in zip(("shift_x", "shift_y"), x.shape[:-3:-1])
        }
        return shifts if self.subpixel else {k: v.round() for k, v in shifts.items()}

    def _transform(
        self, x: Tensor, shift_x: Tensor | None = None, shift_y: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        x, sx, sy = self._match(
            x,
            *(
                torch.zeros(1) if s is None else torch.as_tensor(s).flatten()
                for s in (shift_x, shift_y)
            ),
        )
        if bool((sx == sx.round()).all() and (sy == sy.round()).all()):
            rows = (torch.arange(x.shape[-2], device=x.device) - sy.long()[:, None]).remainder(
                x.shape[-2]
            )
            cols = (torch.arange(x.shape[-1], device=x.device) - sx.long()[:, None]).remainder(
                x.shape[-1]
            )
            sample = torch.arange(len(x), device=x.device)
            return x[sample[:, None, None], :, rows[:, :, None], cols[:, None, :]].movedim(-1, 1)
        x = _shear(x, sx.to(x.dtype)[:, None].expand(-1, x.shape[-2]), -1)
        return _shear(x, sy.to(x.dtype)[:, None].expand(-1, x.shape[-1]), -2)


def named_group(name: str, draws: int = 1) -> Group:
    """A group as a configuration names it: rotations, quarter_turns, reflections or shifts."""
    return {
        "rotations": lambda: Rotations(n_trans=draws),
        "quarter_turns": lambda: Rotations(multiples=90, n_trans=draws),
        "reflections": lambda: Reflections(n_trans=draws),
        "shifts": lambda: Shifts(n_trans=draws),
    }[name]()
