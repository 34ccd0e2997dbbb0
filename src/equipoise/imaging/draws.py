"""Randomness that belongs to a sample: whatever its batchmates are, and in whichever process.

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
    calls: int = 0  #: how often something was drawn in this scope


_seeds: ContextVar[_Seeds | None] = ContextVar("seeds", default=None)


def _seed(*key: int) -> None:
    """Seeds torch's global generator with a hash of ``key``."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]) >> 1)


@contextmanager
def seeded(step: tuple[int, ...], samples: Sequence[int]) -> Iterator[None]:
    """In here, randomness is a function of ``step`` and of the sample that it belongs to.

    What :func:`per_sample` gives to the b-th sample of a batch is a function of ``step`` and
    ``samples[b]``, and what :func:`shared` gives of ``step`` alone. All else that draws starts from
    a seed made of ``step`` and ``samples[0]``. Afterwards torch's global generators are as before.
    """
    token = _seeds.set(_Seeds(step, tuple(samples)))
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            _seed(*step, 1, *samples[:1])
            yield
    finally:
        _seeds.reset(token)


def per_sample(draw: Callable[[Sequence[int]], Tensor], n: int) -> Tensor:
    """``draw(range(n))``, (n, …): row i belongs to sample i.

    Where n is a multiple of the batch B, row i belongs to sample i mod B.
    """
    seeds = _seeds.get()
    if seeds is None or n % max(1, len(seeds.samples)):
        return draw(range(n))
    state = torch.get_rng_state()
    batch = len(seeds.samples)
    rows = []
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
