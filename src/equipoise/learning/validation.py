"""Scores of many measurements, a batch at a time, shared by the processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .processes import together

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def shared_means(
    score: Callable[[Tensor], dict[str, Tensor]], count: int, fabric: Fabric, batch: int = 16
) -> dict[str, float]:
    """The mean of each score over ``count`` samples, the same in every process.

    Args:
        score: scores of the samples ``index`` (B,), each (B,), by name; always the same names.
        count: how many samples there are; at least one.
        fabric: the processes, each of which scores its share.
        batch: the most samples that are scored at once.

    Raises:
        UserError: another process is gone.
    """
    share = torch.arange(count).tensor_split(fabric.world_size)[fabric.global_rank]
    factor = 1.0
    if len(share) == 0:  # more processes than samples: this one scores one only to know the names
        share, factor = torch.arange(1), 0.0
    sums: dict[str, Tensor] = {}
    with torch.no_grad():
        for index in share.split(batch):
            for name, values in score(index).items():
                total = values.sum(dtype=torch.float64).cpu() * factor
                sums[name] = sums[name] + total if name in sums else total
    names = sorted(sums)
    totals = torch.stack([sums[name] for name in names])
    if fabric.world_size > 1:
        totals = together(fabric, totals).cpu()
    return dict(zip(names, (totals / count).tolist(), strict=True))
