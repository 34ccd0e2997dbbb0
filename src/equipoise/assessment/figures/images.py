"""Images side by side, with their errors."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..metrics import magnitude, psnr, ssim
from ..scales import BRIGHTEST
from .canvas import Axes, Figure, panel_grid


def grid(
    y: Tensor,
    images: dict[str, Tensor],
    truth: Tensor | None,
    names: list[str],
    rows: int = 4,
    units: str = "",
) -> Figure:
    """Measurement, each method's image and the truth, one sample a row; under each row, the error
    maps on one scale.

    PSNR and SSIM stand in the panel. The images are windowed to [0, 1] of the model's units.

    Args:
        y: (N, …) measurements.
        images: title → (N, C, …, H, W) of each method.
        truth: (N, C, …, H, W), where it is known.
        names: of the N samples.
        rows: at most so many samples are shown.
        units: what grey values stand for, in words below the picture.
    """
    rows = min(rows, len(y))
    if y.ndim == 5 and next(iter(images.values())).ndim == 5:
        y, images, truth = _frame_in_the_middle(y, images, truth)
    lines_a_row = 1 if truth is None else 2
    titles = ["Measurement", *images, *([] if truth is None else ["Truth"])]
    size = (2.1 * len(titles), 2.2 * rows * lines_a_row)
    figure, axes = panel_grid(rows * lines_a_row, titles, size, 8.5)
    for i in range(rows):
        line = axes[i * lines_a_row]
        line[0].imshow(_measurement_picture(y[i]), cmap="gray", aspect="auto")
        line[0].set_ylabel(names[i], fontsize=7)
        for ax, x in zip(line[1:], images.values(), strict=False):
            _show(ax, x[i : i + 1])
            if truth is not None:
                _write_scores(ax, x[i : i + 1], truth[i : i + 1])
        if truth is not None:
            _show(line[-1], truth[i : i + 1])
    if units:
        figure.supxlabel(units, fontsize=7.5)
    if truth is not None:
        _show_errors(figure, axes, images, truth, rows)
    return figure


def _show(ax: Axes, x: Tensor) -> None:
    ax.imshow(magnitude(x)[0, 0].numpy(), cmap="gray", vmin=0, vmax=1)


def _write_scores(ax: Axes, x: Tensor, truth: Tensor) -> None:
    text = f"{float(psnr(x, truth)):.1f} dB  {float(ssim(x, truth)):.3f}"
    ax.text(0.02, 0.02, text, color="#ffd34d", fontsize=7.5, transform=ax.transAxes)


def _show_errors(
    figure: Figure, axes: np.ndarray, images: dict[str, Tensor], truth: Tensor, rows: int
) -> None:
    """Fills every second line of the axes."""
    true = magnitude(truth[:rows])
    errors = [(magnitude(x[:rows]) - true).abs() for x in images.values()]
    finite = [e[e.isfinite()] for e in errors]
    top = max([0.02, *(float(e.quantile(BRIGHTEST)) for e in finite if len(e))])
    shown = None
    for i in range(rows):
        line = axes[2 * i + 1]
        for ax, error in zip(line[1:], errors, strict=False):
            shown = ax.imshow(error[i, 0].numpy(), cmap="inferno", vmin=0, vmax=top)
        line[0].axis("off")
        line[0].text(0.95, 0.5, "|error|", ha="right", va="center", fontsize=8)
        line[-1].axis("off")
    if shown is not None:
        figure.colorbar(shown, ax=axes[:, -1], shrink=0.5, label="absolute error")


def _frame_in_the_middle(
    y: Tensor, images: dict[str, Tensor], truth: Tensor | None
) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
    """Of sequences, (N, C, T, H, W)."""
    middle = y.shape[2] // 2
    frames = {title: x[:, :, middle] for title, x in images.items()}
    return y[:, :, middle], frames, None if truth is None else truth[:, :, middle]


def _measurement_picture(y: Tensor) -> Tensor:
    """k-space (2, …) by the logarithm of its magnitude over all coils; what has no rows and columns
    as a square."""
    if len(y) == 2 and y.ndim > 1:
        coils = y.reshape(-1, *y.shape[-2:]) if y.ndim == 4 else y
        strength = torch.linalg.vector_norm(coils, dim=0)
        y = (strength / strength.max().clamp_min(1e-30) + 1e-4).log10()
    y = y.squeeze()
    if y.ndim == 2:
        return y
    y = y.flatten()
    side = math.ceil(len(y) ** 0.5)
    padded = torch.nn.functional.pad(y, (0, side * side - len(y)), value=float(y.min()))
    return padded.reshape(side, side)
