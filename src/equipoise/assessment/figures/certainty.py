"""Reconstructions with their uncertainty, in the units of their files; and whether it is true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..scales import ends
from .canvas import Figure, panel_grid, plt


def certainty(
    panels: dict[str, np.ndarray],
    deviations: dict[str, np.ndarray],
    signed: dict[str, np.ndarray],
    names: list[str],
    unit: str = "",
    rows: int = 4,
) -> Figure:
    """One image a row: panels that are images on one scale, deviations on another, and what has a
    sign on a third, each with its colour bar in the units of the files.

    Args:
        panels: title → (N, H, W), or sequences (N, T, H, W), of which the middle is drawn.
        deviations: title → likewise; zero is black.
        signed: title → likewise; zero is white.
        names: of the N images.
        unit: of the values, such as HU.
        rows: at most so many images are shown.
    """
    rows = min(rows, len(names))
    kinds = [
        [(title, _flat(x)[:rows]) for title, x in kind.items()]
        for kind in (panels, deviations, signed)
    ]
    titles = [title for kind in kinds for title, _ in kind]
    figure, axes = panel_grid(rows, titles, (2.5 * len(titles), 2.5 * rows + 0.5), 9)
    for ax, name in zip(axes[:, 0], names, strict=False):
        ax.set_ylabel(name, fontsize=7)
    first = 0
    labels = (unit or "value", f"± {unit}".rstrip(), f"{unit} of the prior".strip())
    for kind, style, label in zip(kinds, ("gray", "inferno", "RdBu_r"), labels, strict=True):
        if kind:
            _draw(figure, axes[:, first : first + len(kind)], [x for _, x in kind], style, label)
        first += len(kind)
    return figure


def _draw(
    figure: Figure, axes: np.ndarray, images: list[np.ndarray], style: str, label: str
) -> None:
    """Panels on one scale, and its colour bar."""
    low, high = ends(np.stack(images))
    if style != "gray":
        high = max(high, -low, 1e-12)
        low = 0.0 if style == "inferno" else -high
    for column, x in zip(axes.T, images, strict=True):
        for ax, image in zip(column, x, strict=True):
            shown = ax.imshow(image, cmap=style, vmin=low, vmax=high)
    figure.colorbar(shown, ax=axes[:, -1], shrink=0.7, label=label)


def _flat(x: np.ndarray) -> np.ndarray:
    """(N, H, W), of sequences the frame in the middle."""
    return x[:, x.shape[1] // 2] if x.ndim == 4 else x


def reliability(
    predicted: Sequence[float],
    true: Sequence[float],
    nominal: Sequence[float],
    covered: Mapping[str, Sequence[float]],
) -> Figure:
    """Left, each image's true against its predicted error; right, how much of the pixels the bounds
    cover against how much they promise. What lies on the dashed line is right.

    Args:
        predicted: root mean square error of each image, as the bootstrap estimates it.
        true: likewise, as it is.
        nominal: levels of bounds.
        covered: title → the share of pixels whose truth is within the bounds of each level.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    top = 1.1 * max([*predicted, *true, 1e-12])
    left.plot([0, top], [0, top], "--", color="gray", linewidth=1)
    left.plot(predicted, true, "o", alpha=0.7)
    left.set(xlabel="predicted error of an image (rms)", ylabel="true error", xlim=(0, top))
    left.set_ylim(0, top)
    right.plot([0, 1], [0, 1], "--", color="gray", linewidth=1)
    for title, shares in covered.items():
        right.plot(nominal, shares, "o-", label=title, markersize=4)
    right.set(xlabel="nominal coverage", ylabel="pixels covered", xlim=(0, 1), ylim=(0, 1))
    right.legend(fontsize=8)
    return figure
