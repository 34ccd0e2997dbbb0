"""What a group of moves is: the contract of deepinv's transforms, with one draw per *sample*."""

from __future__ import annotations

import itertools
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

    Images are (B, C, H, W), or sequences (B, C, T, H, W) whose frames all move alike; of floating
    point, real or complex, or, where pixels only change places, of any kind.
    """

    #: the parameters that it draws and understands
    names: tuple[str, ...] = ()

    def __init__(self, n_trans: int = 1, rng: torch.Generator | None = None):
        if n_trans < 1:
            raise ValueError(f"n_trans must be at least 1, got {n_trans}")
        super().__init__(n_trans=n_trans)
        self.rng = rng

    @property
    def permutes(self) -> bool:
        """Whether every move only puts pixels in other places, so that whatever is done to each
        pixel moves along."""
        return False

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
        """The parameters of each draw of ``get_params``, for the whole batch."""
        draws = []
        for i in range(self.n_trans):
            draws.append({name: p.chunk(self.n_trans)[i] for name, p in params.items()})
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
    if x.is_complex():
        both = torch.stack([x.real, x.imag], 1)  # real and imaginary part move alike
        moved = _framewise(move, both.flatten(1, -3), params).reshape(both.shape)
        return torch.complex(moved[:, 0], moved[:, 1])
    short = x.dtype in (torch.float16, torch.bfloat16)  # too short for Fourier transforms
    frames = x.flatten(1, -3)
    result: Tensor = move(frames.float() if short else frames, **params)
    return result.to(x.dtype).reshape(x.shape)


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

    @property
    def permutes(self) -> bool:
        return self.first.permutes and self.second.permutes

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
