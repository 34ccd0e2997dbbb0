"""How training went."""

from __future__ import annotations

from typing import Any

import numpy as np

from .canvas import Axes, Figure, plt

#: One line of ``log.jsonl``.
LogRow = dict[str, Any]

VALIDATION = {
    "psnr": "PSNR (dB)",
    "held_out": "relative misfit of what was kept out",
    "misfit": "relative misfit ‖A x̂ − y‖ / ‖y‖",
}


def curves(log: list[LogRow]) -> Figure:
    """Loss parts, solver steps, residuals and gradient, validation, against the training step."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 6.4), layout="constrained")
    _loss_parts(axes[0, 0], log)
    _solver_steps(axes[0, 1], log)
    _residuals(axes[1, 0], log)
    _validation(axes[1, 1], log)
    for ax in axes.flat:
        ax.grid(alpha=0.3)
    return figure


def _loss_parts(ax: Axes, log: list[LogRow]) -> None:
    for part in log[0]["parts"]:
        values = [row["parts"][part] for row in log]
        if max(values) <= 0:
            ax.plot([], [], label=f"{part}: 0 throughout")
            continue
        positive = [value if value > 0 else float("nan") for value in values]
        (line,) = ax.semilogy(_steps(log), smoothed(positive), label=part)
        ax.semilogy(_steps(log), positive, alpha=0.2, lw=0.6, color=line.get_color())
    ax.set(title="Loss parts", xlabel="step")
    ax.legend()


def _solver_steps(ax: Axes, log: list[LogRow]) -> None:
    ax.plot(_steps(log), smoothed([r["forward"] for r in log]), label="forward: evaluations of f")
    adjoint = smoothed([row["adjoint"] for row in log])
    ax.plot(_steps(log), adjoint, label="adjoint: vector–Jacobian products")
    ax.set(title="Solver steps to tolerance, mean of the batch", xlabel="step", ylim=(0, None))
    unfinished = [100 * row.get("unsolved", 0.0) for row in log]
    right = ax.twinx()
    right.plot(_steps(log), smoothed(unfinished), "C3:", lw=1)
    ax.plot([], [], "C3:", label="solves that did not finish (%, right)")
    right.set(ylim=(0, 100))
    right.tick_params(labelsize=8, colors="C3")
    ax.legend(fontsize=9)


def _residuals(ax: Axes, log: list[LogRow]) -> None:
    lines = {
        "residual": "forward residual",
        "adjoint_residual": "adjoint residual",
        "gradient": "gradient norm",
        "gain": "gain of the adjoint Jacobian",
    }
    for key, label in lines.items():
        values = [row.get(key) or float("nan") for row in log]
        ax.semilogy(_steps(log), values, label=label, lw=0.9)
    ax.set(title="Largest relative residual of the batch, gradient norm, gain", xlabel="step")
    ax.legend()


def _validation(ax: Axes, log: list[LogRow]) -> None:
    ax.set(title="Validation", xlabel="step")
    rows = [row for row in log if row.get("validation")]
    if not rows:
        ax.axis("off")
        text = "nothing was kept for validation"
        ax.text(0.5, 0.5, text, ha="center", va="center", transform=ax.transAxes)
        return
    key = next(key for key in VALIDATION if key in rows[0]["validation"])
    values = [row["validation"][key] for row in rows]
    ax.plot(_steps(rows), values, "o-", ms=3, label=VALIDATION[key])
    ax.legend()


def _steps(log: list[LogRow]) -> list[int]:
    return [row["step"] for row in log]


def smoothed(values: list[float]) -> np.ndarray:
    """The running mean over a sixtieth of all steps, without what is not finite."""
    numbers = np.array(values, dtype=float)
    width = max(1, len(numbers) // 60)
    padded = np.pad(numbers, (width // 2, width - 1 - width // 2), "edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, width)
    finite = np.isfinite(windows)
    total = np.where(finite, windows, 0).sum(axis=1)
    count = finite.sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
