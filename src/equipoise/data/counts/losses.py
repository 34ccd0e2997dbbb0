"""What in a sinogram measured nothing: counted, and said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Losses:
    """What in a sinogram measured nothing, and had to be filled in."""

    dead: tuple[int, ...] = ()  #: detectors without an open beam, or without a signal in any view
    hot: int = 0  #: single values far brighter than their neighbours
    lost: int = 0  #: single values that are not above the dark current
    missing: int = 0  #: single values that are NaN or infinite
    cut_off: float = 0.0  #: the share of the counts that are the largest of all, if it is not small

    @property
    def size(self) -> int:
        """To compare by: a whole detector counts for many values."""
        return 1000 * len(self.dead) + self.hot + self.lost + self.missing

    def in_words(self) -> str:
        """What was lost, and how many of each kind."""
        return "; ".join(_in_words([self]))

    def __bool__(self) -> bool:
        return self.size > 0


#: What is done with what measured nothing.
FILLED = "filled in from its neighbours"
MASKED = "left out of the operator"
#: What is said where a detector could not tell bright rays from each other.
SATURATED = "the detector is saturated"
LEFT = "left as it is (data.dead=interpolate fills it in, data.dead=mask leaves it out)"


@dataclass
class Tally:
    """What was lost in a data set's sinograms, as they are read."""

    done: str = FILLED  #: what is done with what measured nothing
    seen: dict[str, Losses] = field(default_factory=dict)
    measured: np.ndarray | None = None  #: (views, detectors) what was measured in all of them

    def add(self, name: str, losses: Losses, measured: np.ndarray) -> None:
        self.seen[name] = losses
        if losses:
            self.measured = measured if self.measured is None else self.measured & measured

    def notes(self, of: int) -> list[str]:
        """What is said of ``of`` sinograms, of which some were read."""
        cut_off = max((losses.cut_off for losses in self.seen.values()), default=0.0)
        said = []
        if cut_off:
            said = [
                f"{cut_off:.0%} of the counts are exactly the largest of all: {SATURATED}, and "
                "what is brighter (air, for instance) looks denser than it is"
            ]
        found = {name: losses for name, losses in self.seen.items() if losses}
        if not found:
            return said
        worst = max(found, key=lambda name: found[name].size)
        looked_at = f" (of {of})" if len(self.seen) < of else ""
        return [
            *said,
            f"{'; '.join(_in_words(found.values()))}: {self.done}; in {len(found)} of the "
            f"{len(self.seen)} sinograms that were read{looked_at}, most in {worst}",
        ]


_WORDS = {
    "hot": "hot value(s)",
    "lost": "value(s) not above the dark current",
    "missing": "value(s) NaN or infinite",
}


def _in_words(all_losses: Iterable[Losses]) -> list[str]:
    together = list(all_losses)
    words = []
    dead = sorted({detector for losses in together for detector in losses.dead})
    if dead:
        words.append(f"{len(dead)} dead detector(s), {_counted_from_0(dead)}")
    for kind, what in _WORDS.items():
        count = sum(getattr(losses, kind) for losses in together)
        if count:
            words.append(f"{count} {what}")
    return words


def _counted_from_0(places: Sequence[int], most: int = 8) -> str:
    shown = ", ".join(map(str, places[:most]))
    more = f" and {len(places) - most} more" if len(places) > most else ""
    return f"number {shown}{more} (counted from 0)"
