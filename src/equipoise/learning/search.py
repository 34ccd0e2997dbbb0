"""The search for the best setting: values that lie on ladders, and a score."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

Option = float | int | str
#: Name of an option → its value.
Setting = dict[str, Option]

#: So many settings that came to nothing may lie between the best so far and what is tried next:
#: from a third of its pixels an image has no equilibrium with σ = 0.08, and its best with 0.16.
LOST_BETWEEN = 2


def decades(steps: tuple[int, ...], lowest: int, highest: int) -> tuple[float, ...]:
    """Such as 0.01, 0.03, 0.1, 0.3 for ``steps`` (1, 3) and the powers of ten from −2 to −1."""
    return tuple(float(f"{s}e{power}") for power in range(lowest, highest + 1) for s in steps)


@dataclass(frozen=True)
class Ladder:
    """The values that an option may take, in their order.

    Args:
        values: all of them.
        first: those that are tried first; the search goes on from the best while it gets better.
            None: all are tried.
        default: the value, where there is nothing to tune on.
    """

    values: tuple[Option, ...]
    first: tuple[Option, ...] | None
    default: Option

    def start(self) -> list[int]:
        """Where the values stand that are tried first."""
        first = self.values if self.first is None else self.first
        return [self.values.index(value) for value in first]

    def ends_at(self, value: Option) -> bool:
        """Whether the search could not go past this value, though there might be better ones."""
        return self.first is not None and value in (self.values[0], self.values[-1])


def search(
    score: Callable[[Setting], float], ladders: dict[str, Ladder], margin: float = 0.0
) -> Setting:
    """The setting with the highest score.

    All that are tried first are scored, and then the neighbours of the best one, until none of its
    neighbours is better: what is found lies inside the range that was looked at, or at the end of
    a ladder. A score that is not a number loses, and the next one on its ladder is the neighbour,
    over ``LOST_BETWEEN`` of them at most.

    Args:
        score: of a setting.
        ladders: of each option.
        margin: by how much a neighbour must be better, so that the search ends where nothing is
            gained any more.
    """
    names = list(ladders)
    scores: dict[tuple[int, ...], float] = {}

    def setting_at(place: tuple[int, ...]) -> Setting:
        return {name: ladders[name].values[k] for name, k in zip(names, place, strict=True)}

    def look(place: tuple[int, ...]) -> None:
        if place not in scores:
            found = score(setting_at(place))
            scores[place] = -math.inf if math.isnan(found) else found

    lengths = [len(ladders[name].values) for name in names]
    for place in itertools.product(*(ladders[name].start() for name in names)):
        look(place)
    best = max(scores, key=lambda place: scores[place])
    while True:
        for way in _ways(best, lengths):
            for neighbour in way[: LOST_BETWEEN + 1]:
                look(neighbour)
                if scores[neighbour] > -math.inf:
                    break
        better = max(scores, key=lambda place: scores[place])
        if scores[better] <= scores[best] + margin:
            return setting_at(best)
        best = better


def _ways(place: tuple[int, ...], lengths: list[int]) -> list[list[tuple[int, ...]]]:
    """Up and down on each ladder, step by step to its end, the nearest first."""
    ways = []
    for axis, length in enumerate(lengths):
        for ks in (range(place[axis] - 1, -1, -1), range(place[axis] + 1, length)):
            ways.append([(*place[:axis], k, *place[axis + 1 :]) for k in ks])
    return ways
