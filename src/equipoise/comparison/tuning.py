"""How the settings of methods are tuned: the same search for all, on images that are known, or on
scans of which views are left that nobody used."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..assessment.metrics import is_measured, psnr
from ..assessment.reference import unseen_misfit, unseen_views
from ..data.dataset import Dataset
from ..errors import UserError
from ..learning.search import Ladder, Setting, search
from ..machine import write_whole

#: A setting that is better by less, in dB, is not worth more work.
MARGIN = 0.01


class Tuner:
    """Finds the setting with which a method does best on images that are known, or predicts the
    unseen views of scans best.

    Args:
        load: the measurements to tune on, with their true images or with unseen views; None: there
            are none.
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
        self._judge: Callable[[Tensor], float] | None = None
        self.folder = folder
        self.say = say

    def best(
        self,
        name: str,
        ladders: dict[str, Ladder],
        reconstruct: Callable[[Dataset, Setting], Tensor],
        meaning: Callable[[Dataset, Setting], Setting] | None = None,
    ) -> Setting:
        """The setting with the highest mean PSNR (or the smallest misfit on unseen views), or the
        default one, where there is nothing to tune on.

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
        if self._dataset is None or self._judge is None:
            self._dataset = self._load()
            self._judge = judge_of(self._dataset)
        dataset, judge = self._dataset, self._judge

        def setting_of(values: Setting) -> Setting:
            return values if meaning is None else meaning(dataset, values)

        scores: list[float] = []

        def score(values: Setting) -> float:
            scores.append(judge(reconstruct(dataset, setting_of(values))))
            return scores[-1]

        best = search(score, ladders, MARGIN)
        if not any(math.isfinite(each) for each in scores):
            raise UserError(
                f"{name} cannot be tuned: no setting makes images whose score is a number"
            )
        setting = setting_of(best)
        ends = [option for option, ladder in ladders.items() if ladder.ends_at(best[option])]
        self.say(f"tuned {name}: {in_words(setting)}" + (_at_the_end(ends) if ends else ""))
        if self.folder is not None:
            found = {"setting": setting, "images": dataset.names}
            write_whole(_file(self.folder, name), json.dumps(found))
        return setting


def judge_of(dataset: Dataset) -> Callable[[Tensor], float]:
    """What tells how good images of these measurements are, in dB: the mean PSNR to the truth, or,
    where views were left out, how well they are predicted.

    Raises:
        UserError: there is neither.
    """
    unseen = unseen_views(dataset)
    if unseen is None:
        truth = dataset.require_truth()
        return lambda x: float(psnr(x, truth).mean())
    left_out = unseen
    y, _, _ = left_out.batch(torch.arange(len(left_out)))
    counts = is_measured(y)  # of an empty scan nothing is to be predicted
    return lambda x: float(-20 * unseen_misfit(x, left_out)[counts].double().log10().mean())


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
