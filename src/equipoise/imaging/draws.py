"""Randomness that belongs to a sample: the same whatever its batchmates are, and whichever process it is in.

Outside :func:`seeded`, everything is drawn from torch's global generator, batch by batch, as usual.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass
class _Seeds:
    step: tuple[int, ...]
    samples: tuple[int, ...]
    calls: int = 0


_seeds: ContextVar[_Seeds | None] = ContextVar("seeds", default=None)


def _seed(*key: int) -> None:
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]) >> 1)


@contextmanager
def seeded(step: tuple[int, ...], samples: Sequence[int]) -> Iterator[None]:
    """In here, what :func:`per_sample` gives to the b-th sample of a batch is a function of ``step`` and ``samples[b]``, and
    what :func:`shared` gives of ``step`` alone. All else that draws starts from a seed made of ``step`` and ``samples[0]``."""
    token = _seeds.set(_Seeds(step, tuple(samples)))
    _seed(*step, 1, *samples[:1])
    try:
        yield
    finally:
        _seeds.reset(token)


def per_sample(draw: Callable[[Sequence[int]], Tensor], n: int) -> Tensor:
    """``draw(range(n))``, (n, …): row i belongs to sample i (to sample i mod B where n is a multiple of the batch B)."""
    seeds = _seeds.get()
    if seeds is None or n % max(1, len(seeds.samples)):
        return draw(range(n))
    state, batch, rows = torch.get_rng_state(), len(seeds.samples), []
    for i in range(n):
        _seed(*seeds.step, 2, seeds.samples[i % batch], seeds.calls, i // batch)
        rows.append(draw(range(i, i + 1)))
    seeds.calls += 1
    torch.set_rng_state(state)
    return torch.cat(rows)


def shared(draw: Callable[[], Tensor]) -> Tensor:
    """``draw()``, the same for all samples of a step."""
    seeds = _seeds.get()
    if seeds is None:
        return draw()
    state = torch.get_rng_state()
    _seed(*seeds.step, 3, seeds.calls)
    out = draw()
    seeds.calls += 1
    torch.set_rng_state(state)
    return out
