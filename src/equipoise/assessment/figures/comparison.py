"""What a comparison found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..table import Value
from .canvas import Axes, Figure, plt

MARKS = "osD^v<>pP*Xhd8"
#: Title of a method → mean and deviation over seeds.
Values = dict[str, Value]


def boxes(values: dict[str, list[float]]) -> Figure:
    """PSNR of every image and seed, method by method, best median first."""
    order = sorted((title for title in values if values[title]), key=lambda t: np.median(values[t]))
    figure, ax = plt.subplots(figsize=(8, 0.36 * len(order) + 1.2), layout="constrained")
    ax.boxplot(
        [values[title] for title in order],
        orientation="horizontal",
        widths=0.6,
        flierprops={"markersize": 3},
    )
    ax.set_yticks(range(1, len(order) + 1), order, fontsize=9)
    ax.set(xlabel="PSNR (dB)", title="PSNR of each image")
    ax.grid(axis="x", alpha=0.3)
    return figure


class Cost(NamedTuple):
    """What a method's quality costs for an image; classical methods evaluate no f."""

    title: str
    psnr: float
    evaluations: float | None
    seconds: float | None


def cost(methods: Sequence[Cost]) -> Figure:
    """Mean PSNR against evaluations of f, and against seconds, for an image."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained", sharey=True)
    for i, method in enumerate(methods):
        mark = {"marker": MARKS[i % len(MARKS)], "ms": 7, "color": f"C{i % 10}", "ls": ""}
        left.plot([method.evaluations or 0], [method.psnr], **mark)
        if method.seconds is not None:
            right.plot([method.seconds], [method.psnr], label=method.title, **mark)
    left.set(xlabel="evaluations of f for an image", ylabel="PSNR (dB)", xlim=(-1, None))
    left.set_xscale("symlog", linthresh=5)
    ticks = [0, 5, 10, 20, 50, 100, 1000]
    left.set_xticks(ticks, [str(tick) for tick in ticks])
    right.set(xlabel="seconds for an image")
    right.set_xscale("log")
    for ax in (left, right):
        ax.grid(alpha=0.3)
    _legend_beside(right)
    return figure


def elsewhere(found: dict[str, dict[str, Values]]) -> Figure:
    """Mean PSNR of each method along each axis on which the problem was changed, and its deviation
    over seeds: ``found[axis][value][title]``."""
    figure, axes = plt.subplots(
        1, len(found), figsize=(4.2 * len(found), 4), layout="constrained", squeeze=False
    )
    nothing = Value(float("nan"))
    for ax, (axis, values) in zip(axes[0], found.items(), strict=True):
        titles = list(dict.fromkeys(title for of_titles in values.values() for title in of_titles))
        places = list(values)
        for i, title in enumerate(titles):
            cells = [values[place].get(title, nothing) for place in places]
            mean = np.array([cell.mean for cell in cells])
            spread = np.array([cell.spread or 0.0 for cell in cells])
            colour = f"C{i % 10}"
            ax.plot(places, mean, MARKS[i % len(MARKS)] + "-", ms=4, label=title, color=colour)
            ax.fill_between(places, mean - spread, mean + spread, alpha=0.15, color=colour)
        ax.set(xlabel=axis, ylabel="PSNR (dB)")
        ax.tick_params(axis="x", labelsize=8)
        ax.grid(alpha=0.3)
    _legend_beside(axes[0, -1])
    return figure


def _legend_beside(ax: Axes) -> None:
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1, 0.5))
