"""How the settings of methods are tuned: the same search for all, on images that are known."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ..assessment.metrics import psnr
from ..data.dataset import Dataset

#: A setting that is better by less, in dB, is not worth more work.
MARGIN = 0.01

Option = float | int | str
#: Name of an option → its value.
Setting = dict[str, Option]


def decades(steps: tuple[int, ...], lowest: int, highest: int) -> tuple[float, ...]:
    """Such as 0.01, 0.03, 0.1, 0.3 for ``steps`` (1, 3) and the powers of ten from −2 to −1."""
    return tuple(float(f"{s}e{power}") for power in range(lowest, highest + 1) for s in steps)


@dataclass(frozen=True)
class Ladder:
    """The values that an option may take, in their order.

    Args:
        values: all of them.
        first: the lowest and the highest of those that are tried first; the search goes on from
            there while it gets better. None: all are tried.
        default: the value, where there is nothing to tune on.
    """

    values: tuple[Option, ...]
    first: tuple[Option, Option] | None
    default: Option

    def start(self) -> range:
        """Where the values stand that are tried first."""
        if self.first is None:
            return range(len(self.values))
        low, high = self.first
        return range(self.values.index(low), self.values.index(high) + 1)

    def ends_at(self, value: Option) -> bool:
        """Whether the search could not go past this value, though there might be better ones."""
        return self.first is not None and value in (self.values[0], self.values[-1])


def search(
    score: Callable[[Setting], float], ladders: dict[str, Ladder], margin: float = 0.0
) -> Setting:
    """The setting with the highest score.

    All that are tried first are scored, and then the neighbours of the best one, until none of its
    neighbours is better: what is found lies inside the range that was looked at, or at the end of
    a ladder. A score that is not a number loses.

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

    for place in itertools.product(*(ladders[name].start() for name in names)):
        look(place)
    best = max(scores, key=lambda place: scores[place])
    while True:
        for neighbour in _neighbours(best, [len(ladders[name].values) for name in names]):
            look(neighbour)
        better = max(scores, key=lambda place: scores[place])
        if scores[better] <= scores[best] + margin:
            return setting_at(best)
        best = better


def _neighbours(place: tuple[int, ...], lengths: list[int]) -> list[tuple[int, ...]]:
    """One step up or down on one ladder."""
    found = []
    for axis, length in enumerate(lengths):
        for k in (place[axis] - 1, place[axis] + 1):
            if 0 <= k < length:
                found.append((*place[:axis], k, *place[axis + 1 :]))
    return found


class Tuner:
    """Finds the setting with which a method does best on images that are known.

    Args:
        load: the measurements to tune on, with their true images; None: there are none.
        folder: where what was found is kept, so that it is not looked for again.
        say: takes a line for the user.
    """

    def __init__(
        self,
        load: Callable[[], Dataset] | None,
        folder: Path | None = None,
        say: Callable[[str], None] = print,
    ):
        self._load = load
        self._dataset: Dataset | None = None
        self.folder = folder
        self.say = say

    def best(
        self,
        name: str,
        ladders: dict[str, Ladder],
        reconstruct: Callable[[Dataset, Setting], Tensor],
        meaning: Callable[[Dataset, Setting], Setting] | None = None,
    ) -> Setting:
        """The setting with the highest mean PSNR, or the default one, where there is nothing to
        tune on.

        Args:
            name: of the method, under which the setting is kept.
            ladders: of each option.
            reconstruct: the images (N, C, …, H, W) of the measurements, with a setting.
            meaning: what values on the ladders stand for with these data; default: themselves.
        """
        if not ladders:
            return {}
        if self._load is None:
            return {option: ladder.default for option, ladder in ladders.items()}
        known = None if self.folder is None else read_tuning(self.folder, name)
        if known is not None:
            return known.setting
        if self._dataset is None:
            self._dataset = self._load()
        dataset = self._dataset
        truth = dataset.require_truth()

        def setting_of(values: Setting) -> Setting:
            return values if meaning is None else meaning(dataset, values)

        def score(values: Setting) -> float:
            return float(psnr(reconstruct(dataset, setting_of(values)), truth).mean())

        best = search(score, ladders, MARGIN)
        setting = setting_of(best)
        ends = [option for option, ladder in ladders.items() if ladder.ends_at(best[option])]
        self.say(f"tuned {name}: {in_words(setting)}" + (_at_the_end(ends) if ends else ""))
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            found = {"setting": setting, "images": dataset.names}
            _file(self.folder, name).write_text(json.dumps(found))
        return setting


class Tuned(NamedTuple):
    """What was found for a method, and the names of the images that it is best for."""

    setting: Setting
    images: list[str]


def read_tuning(folder: Path, name: str) -> Tuned | None:
    """What a method was tuned to, if it was."""
    file = _file(folder, name)
    return Tuned(**json.loads(file.read_text())) if file.exists() else None


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}-tuning.json"


def _at_the_end(options: list[str]) -> str:
    return f" ({', '.join(options)} at the end of what was tried)"


def in_words(setting: Setting) -> str:
    """Such as ``sigma 0.02, strength 0.0031``."""
    return ", ".join(
        f"{option} {value:.3g}" if isinstance(value, float) else f"{option} {value}"
        for option, value in setting.items()
    )
