"""Scores of many samples, a batch at a time."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest
import torch

from equipoise.learning.validation import shared_means


@dataclass
class OneOf:
    """A process among several, whose sums are added up when all have told theirs."""

    global_rank: int
    world_size: int
    told: list
    barrier: threading.Barrier
    device: str = "cpu"

    def all_reduce(self, values, reduce_op):
        assert reduce_op == "sum"
        self.told[self.global_rank] = values
        self.barrier.wait()
        return torch.stack(self.told).sum(0)


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_however_many_share_them_all_know_the_mean_over_all(world):
    values = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
    largest = []

    def score(index):
        largest.append(len(index))
        return {"a": values[index], "b": -values[index]}

    told, barrier = [None] * world, threading.Barrier(world)
    out = [None] * world

    def run(rank):
        out[rank] = shared_means(score, 5, OneOf(rank, world, told, barrier), batch=2)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert out == [{"a": pytest.approx(6.2), "b": pytest.approx(-6.2)}] * world
    assert max(largest) <= 2
