"""What a diagnosis found: invariance, and how the solves went."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .canvas import Axes, Figure, plt

#: How far something was moved, and a value for each image.
Curve = list[tuple[float, list[float]]]

MOVES = {"turn": "angle (degrees)", "shift": "shift (pixels)", "flip": "flip"}
TITLES = {
    "gap": "network: ‖T x̂ − f*(A T x̂)‖ / ‖x̂‖",
    "commutes": "denoiser: ‖D T x − T D x‖ / ‖D x‖",
}


def gaps(networks: dict[str, dict[str, dict[str, Curve]]]) -> Figure:
    """Equivariance gap and the denoiser's, against angle, shift and flip: the mean over images, and
    their range. ``networks[title]["gap" or "commutes"]["turn", "shift" or "flip"]``."""
    figure, axes = plt.subplots(2, 3, figsize=(13, 7), layout="constrained")
    for line, (measure, title) in zip(axes, TITLES.items(), strict=True):
        for ax, (move, label) in zip(line, MOVES.items(), strict=True):
            for i, (network, curves) in enumerate(networks.items()):
                curve = curves[measure].get(move, [])
                if curve and move == "flip":
                    # Nothing lies between two flips; the networks stand beside each other.
                    _points(ax, curve, i, beside=0.08 * (i - (len(networks) - 1) / 2))
                elif curve:
                    _line(ax, curve, i, network)
            ax.set(xlabel=label, title=title if move == "turn" else "", ylim=(0, None))
            ax.grid(alpha=0.3)
    handles, labels = axes[0, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9)
    return figure


def _statistics(curve: Curve) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """How far, mean, lowest and highest."""
    far = np.array([distance for distance, _ in curve], dtype=float)
    values = np.array([of_images for _, of_images in curve])
    return far, values.mean(1), values.min(1), values.max(1)


def _points(ax: Axes, curve: Curve, i: int, beside: float) -> None:
    far, mean, low, high = _statistics(curve)
    error = (mean - low, high - mean)
    ax.errorbar(far + beside, mean, error, fmt="o", ms=4, capsize=2, color=f"C{i}")
    ax.set_xticks([0, 1], ["left to right", "upside down"])


def _line(ax: Axes, curve: Curve, i: int, label: str) -> None:
    far, mean, low, high = _statistics(curve)
    ax.plot(far, mean, "o-", ms=4, label=label, color=f"C{i}")
    ax.fill_between(far, low, high, alpha=0.12, color=f"C{i}")


def residuals(
    forward: dict[str, list[list[float]]], adjoint: dict[str, list[list[float]]]
) -> Figure:
    """Relative residual against evaluations, of each network's images, forward and adjoint."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained", sharey=True)
    labels = ("forward: evaluations of f", "adjoint: products")
    for ax, traces, label in zip(axes, (forward, adjoint), labels, strict=True):
        for i, (network, of_images) in enumerate(traces.items()):
            for k, trace in enumerate(of_images):
                shown = _until_it_ended(trace)
                steps = range(1, len(shown) + 1)
                name = network if k == 0 else None
                ax.semilogy(steps, shown, color=f"C{i}", lw=1, label=name)
        ax.set(xlabel=label, title="Relative residual")
        ax.grid(alpha=0.3)
    if axes[0].get_legend_handles_labels()[0]:
        axes[0].legend(fontsize=8)
    return figure


def _until_it_ended(trace: Sequence[float]) -> Sequence[float]:
    """Without the repetitions of its last value, which mean that the sample was done."""
    end = len(trace)
    while end > 1 and trace[end - 2] == trace[-1]:
        end -= 1
    return trace[:end]
