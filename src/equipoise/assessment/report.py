"""Pictures and pages: what a run did, seen at a glance. Everything is in one file, with no network."""

from __future__ import annotations

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

import jinja2
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from .metrics import magnitude, psnr, ssim

LABELS = {
    "fbp": "FBP",
    "zero_filled": "Zero-filled",
    "least_squares": "Least squares",
    "tv": "Total variation",
    "untrained": "Equipoise, before training",
    "equipoise": "Equipoise",
    "pnp": "Plug-and-play (HQS)",
    "equivariant_pnp": "Equivariant plug-and-play",
    "red": "RED",
    "implicit": "Equilibrium, implicit",
    "jacobian_free": "Equilibrium, Jacobian-free",
    "phantom": "Equilibrium, phantom gradient",
    "unrolled_5": "Unrolled, 5 steps",
    "unrolled_10": "Unrolled, 10 steps",
    "untied_5": "Unrolled, 5 steps, untied",
    "consistency": "Equilibrium, consistency alone",
    "ei": "Equilibrium, consistency + EI",
    "sure_ei": "Equilibrium, SURE + EI",
    "splitting": "Equilibrium, splitting alone (SSDU)",
    "supervised": "Equilibrium, supervised",
}


def label(method: str) -> str:
    return LABELS.get(method, method)


def _measurement_picture(y: Tensor) -> Tensor:
    """k-space (2, …) by the logarithm of its magnitude over all coils; what has no rows and columns as a square."""
    if len(y) == 2 and y.ndim > 1:
        y = torch.linalg.vector_norm(y.reshape(-1, *y.shape[-2:]) if y.ndim == 4 else y, dim=0)
        y = (y / y.max().clamp_min(1e-30) + 1e-4).log10()
    y = y.squeeze()
    if y.ndim == 2:
        return y
    y = y.flatten()
    side = math.ceil(len(y) ** 0.5)
    return torch.nn.functional.pad(y, (0, side * side - len(y)), value=float(y.min())).reshape(side, side)


def grid(y: Tensor, methods: dict[str, Tensor], truth: Tensor | None, names: list[str], rows: int = 4) -> Figure:
    """Measurement, each method and the truth, one image a row; under each row, the error maps on one scale.

    PSNR and SSIM stand in the panel. The images are windowed to [0, 1] of the model's units.
    """
    rows = min(rows, len(y))
    if y.ndim == 5 and next(iter(methods.values())).ndim == 5:  # sequences: the frame in the middle
        middle = y.shape[2] // 2
        y, truth = y[:, :, middle], None if truth is None else truth[:, :, middle]
        methods = {name: x[:, :, middle] for name, x in methods.items()}
    columns = 1 + len(methods) + (truth is not None)
    lines = rows * (2 if truth is not None else 1)
    fig, axes = plt.subplots(lines, columns, figsize=(2.1 * columns, 2.2 * lines), squeeze=False, layout="constrained")
    errors = {} if truth is None else {k: (magnitude(v[:rows]) - magnitude(truth[:rows])).abs() for k, v in methods.items()}
    top = max(0.02, *(float(e.flatten().quantile(0.995)) for e in errors.values())) if errors else 1.0
    scale = None
    for a in axes.flat:
        a.set_xticks([])
        a.set_yticks([])
    for i in range(rows):
        line = axes[i * (2 if truth is not None else 1)]
        line[0].imshow(_measurement_picture(y[i]), cmap="gray", aspect="auto")
        line[0].set_ylabel(names[i], fontsize=7)
        for j, x in enumerate(methods.values(), 1):
            line[j].imshow(magnitude(x[i : i + 1])[0, 0].numpy(), cmap="gray", vmin=0, vmax=1)
            if truth is not None:
                p, s = float(psnr(x[i : i + 1], truth[i : i + 1])), float(ssim(x[i : i + 1], truth[i : i + 1]))
                line[j].text(0.02, 0.02, f"{p:.1f} dB  {s:.3f}", color="#ffd34d", fontsize=7.5, transform=line[j].transAxes)
        if truth is not None:
            line[-1].imshow(magnitude(truth[i : i + 1])[0, 0].numpy(), cmap="gray", vmin=0, vmax=1)
            below = axes[2 * i + 1]
            for j, e in enumerate(errors.values(), 1):
                scale = below[j].imshow(e[i, 0].numpy(), cmap="inferno", vmin=0, vmax=top)
            below[0].axis("off")
            below[0].text(0.95, 0.5, "|error|", ha="right", va="center", fontsize=8)
            below[-1].axis("off")
    for j, name in enumerate(["Measurement", *(label(m) for m in methods), *(["Truth"] if truth is not None else [])]):
        axes[0][j].set_title(name, fontsize=8.5)
    if scale is not None:
        fig.colorbar(scale, ax=axes[:, -1], shrink=0.5, label="absolute error")
    return fig


def boxes(scores: dict[str, list[dict[str, Any]]]) -> Figure:
    """PSNR of every image and seed, method by method, best median first."""
    values = {m: [v for s in seeds for v in s.get("psnr", ())] for m, seeds in scores.items()}
    order = sorted((m for m in values if values[m]), key=lambda m: float(np.median(values[m])))
    fig, ax = plt.subplots(figsize=(8, 0.36 * len(order) + 1.2), layout="constrained")
    ax.boxplot([values[m] for m in order], orientation="horizontal", widths=0.6, flierprops={"markersize": 3})
    ax.set_yticks(range(1, len(order) + 1), [label(m) for m in order], fontsize=9)
    ax.set(xlabel="PSNR (dB)", title="PSNR of each image")
    ax.grid(axis="x", alpha=0.3)
    return fig


def cost(table: dict[str, Any]) -> Figure:
    """Mean PSNR against evaluations of the denoiser, and against seconds, for an image."""
    fig, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained", sharey=True)
    marks = "osD^v<>pP*Xhd8"
    names = {"evaluations": "evaluations of f for an image", "seconds": "seconds for an image"}
    for i, (method, row) in enumerate((m, r) for m, r in table.items() if "psnr" in r):
        for ax, key in zip(axes, names):
            x = row[key] if row[key] is not None else (0 if key == "evaluations" else None)
            if x is not None:
                ax.plot([x], [row["psnr"]], marks[i % len(marks)], ms=7, label=label(method), color=f"C{i % 10}")
    for ax, (key, name) in zip(axes, names.items()):
        ax.set(xlabel=name, ylabel="PSNR (dB)" if key == "evaluations" else "")
        ax.grid(alpha=0.3)
    axes[0].set_xscale("symlog", linthresh=5)  # classical methods have none
    axes[0].set_xticks([0, 5, 10, 20, 50, 100, 1000], ["0", "5", "10", "20", "50", "100", "1000"])
    axes[0].set_xlim(-1)
    axes[1].set_xscale("log")
    axes[1].legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def elsewhere(found: dict[str, dict[str, dict[str, list[float]]]]) -> Figure:
    """Mean PSNR of each method along each axis on which the problem was changed, and its range over seeds."""
    fig, axes = plt.subplots(1, len(found), figsize=(4.2 * len(found), 4), layout="constrained", squeeze=False)
    for ax, (axis, values) in zip(axes[0], found.items()):
        methods = list(dict.fromkeys(m for scores in values.values() for m in scores))
        for i, method in enumerate(methods):
            scores = [values[v].get(method, [float("nan")]) for v in values]
            ax.plot(list(values), [float(np.mean(s)) for s in scores], "o-", ms=4, color=f"C{i % 10}", label=label(method))
            ax.fill_between(list(values), [min(s) for s in scores], [max(s) for s in scores], color=f"C{i % 10}", alpha=0.15)
        ax.set(xlabel=axis, ylabel="PSNR (dB)")
        ax.tick_params(axis="x", labelsize=8)
        ax.grid(alpha=0.3)
    axes[0, -1].legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def gaps(networks: dict[str, Any]) -> Figure:
    """Equivariance gap and the denoiser's, against angle, shift and flip; the mean over images, and their range."""
    kinds = {"turn": "angle (degrees)", "shift": "shift (pixels)", "flip": "flip"}
    fig, axes = plt.subplots(2, 3, figsize=(13, 7), layout="constrained")
    titles = {"gap": "network: ‖T x̂ − f*(A T x̂)‖ / ‖x̂‖", "commutes": "denoiser: ‖D T x − T D x‖ / ‖D x‖"}
    for line, (curve, title) in zip(axes, titles.items()):
        for ax, (kind, name) in zip(line, kinds.items()):
            for i, (network, values) in enumerate(networks.items()):
                rows = values["curves"][curve].get(kind, [])
                if not rows:
                    continue
                far, all_of = np.array([r[0] for r in rows], dtype=float), np.array([r[1] for r in rows])
                mean, low, high = all_of.mean(1), all_of.min(1), all_of.max(1)
                if kind == "flip":  # nothing lies between two flips
                    far += 0.08 * (i - (len(networks) - 1) / 2)
                    ax.errorbar(far, mean, (mean - low, high - mean), fmt="o", ms=4, capsize=2, color=f"C{i}")
                    ax.set_xticks([0, 1], ["left to right", "upside down"])
                else:
                    ax.plot(far, mean, "o-", ms=4, label=network, color=f"C{i}")
                    ax.fill_between(far, low, high, alpha=0.12, color=f"C{i}")
            ax.set(xlabel=name, title=title if kind == "turn" else "", ylim=(0, None))
            ax.grid(alpha=0.3)
    fig.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    return fig


def residuals(networks: dict[str, Any]) -> Figure:
    """Relative residual against evaluations, forward and adjoint, of each image."""
    fig, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained", sharey=True)
    for ax, (key, name) in zip(axes, {"residuals": "forward: evaluations of f", "adjoint": "adjoint: products"}.items()):
        for i, (network, values) in enumerate(networks.items()):
            for k, trace in enumerate(values[key]):
                end = next((j for j in range(1, len(trace)) if trace[j:] == [trace[-1]] * (len(trace) - j)), len(trace))
                ax.semilogy(range(1, end + 1), trace[:end], color=f"C{i}", lw=1, label=network if k == 0 else None)
        ax.set(xlabel=name, title="Relative residual")
        ax.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    return fig


def curves(log: list[dict[str, Any]]) -> Figure:
    """How training went: loss parts, solver steps, residuals and gradient, validation."""
    fig, axes = plt.subplots(2, 2, figsize=(10, 6.4), layout="constrained")
    step = [r["step"] for r in log]

    def smooth(v: list[float]) -> np.ndarray:
        a, n = np.array(v, dtype=float), max(1, len(v) // 60)
        window = np.pad(a, (n // 2, n - 1 - n // 2), "edge")
        near = np.lib.stride_tricks.sliding_window_view(window, n)
        count = np.isfinite(near).sum(axis=1)
        return np.where(count, np.nansum(near, axis=1) / np.maximum(count, 1), np.nan)

    for part in log[0]["parts"] if log else ():
        values = [r["parts"][part] for r in log]
        if max(values) <= 0:
            axes[0, 0].plot([], [], label=f"{part}: 0 throughout")
            continue
        values = [v if v > 0 else float("nan") for v in values]
        (line,) = axes[0, 0].semilogy(step, smooth(values), label=part)
        axes[0, 0].semilogy(step, values, alpha=0.2, lw=0.6, color=line.get_color())
    axes[0, 0].set(title="Loss parts", xlabel="step")
    axes[0, 0].legend()
    for key, name in (("forward", "forward: evaluations of f"), ("adjoint", "adjoint: vector–Jacobian products")):
        axes[0, 1].plot(step, smooth([r[key] for r in log]), label=name)
    axes[0, 1].set(title="Solver steps to tolerance, mean of the batch", xlabel="step", ylim=(0, None))
    axes[0, 1].legend()
    lines = {"residual": "forward residual", "adjoint_residual": "adjoint residual", "gradient": "gradient norm"}
    lines["gain"] = "gain of the adjoint Jacobian"
    for key, name in lines.items():
        axes[1, 0].semilogy(step, [r.get(key) or float("nan") for r in log], label=name, lw=0.9)
    axes[1, 0].set(title="Largest relative residual of the batch, gradient norm, gain", xlabel="step")
    axes[1, 0].legend()
    valid = [(r["step"], r["validation"]) for r in log if r.get("validation")]
    if valid:
        names = {
            "psnr": "PSNR (dB)",
            "held_out": "relative misfit of what was kept out",
            "misfit": "relative misfit ‖A x̂ − y‖ / ‖y‖",
        }
        key, name = next((k, v) for k, v in names.items() if k in valid[0][1])
        axes[1, 1].plot([s for s, _ in valid], [v[key] for _, v in valid], "o-", ms=3, label=name)
    for a in axes.flat:
        a.grid(alpha=0.3)
    axes[1, 1].set(title="Validation", xlabel="step")
    if valid:
        axes[1, 1].legend()
    else:
        axes[1, 1].axis("off")
        axes[1, 1].text(0.5, 0.5, "nothing was kept for validation", ha="center", va="center", transform=axes[1, 1].transAxes)
    return fig


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of ``log.jsonl``; of a step that was run twice (after an interruption), the later line."""
    path = folder / "log.jsonl"
    rows: dict[int, dict[str, Any]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # the last line of a run that was killed
        rows[row["step"]] = row
    return [rows[k] for k in sorted(rows)]


def save_png(fig: Figure, path: Path) -> bytes:
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=120)
    plt.close(fig)
    path.write_bytes(buffer.getvalue())
    return buffer.getvalue()


PAGE = jinja2.Environment(autoescape=True, loader=jinja2.PackageLoader("equipoise", "assessment")).get_template("page.html")


def pictures(methods: dict[str, Tensor], truth: Tensor | None, names: list[str], rows: int = 8) -> list[dict[str, Any]]:
    """What the page's viewer shows: every method's image of the first few, in [0, 1], with its scores."""

    def png(x: Tensor) -> str:
        values = magnitude(x[None])[0].flatten(0, -3)[0 if x.ndim < 4 else x.shape[1] // 2]
        buffer = io.BytesIO()
        Image.fromarray((values.clamp(0, 1) * 255).round().to(torch.uint8).numpy()).save(buffer, format="png")
        return base64.b64encode(buffer.getvalue()).decode()

    out = []
    for i in range(min(rows, *(len(x) for x in methods.values()))):
        panels = []
        for method, x in methods.items():
            score = ""
            if truth is not None:
                score = (
                    f"{float(psnr(x[i : i + 1], truth[i : i + 1])):.2f} dB, SSIM {float(ssim(x[i : i + 1], truth[i : i + 1])):.3f}"
                )
            panels.append({"name": label(method), "png": png(x[i]), "score": score})
        if truth is not None:
            panels.append({"name": "Truth", "png": png(truth[i]), "score": ""})
        out.append({"name": names[i], "panels": panels, "truth": None if truth is None else panels[-1]["png"]})
    return out


def page(
    path: Path,
    title: str,
    summary: list[str],
    figures: list[tuple[bytes, str]],
    table: tuple[list[str], list[list[str]]] = ([], []),
    conventions: str = "",
    config: str = "",
    viewer: list[dict[str, Any]] | None = None,
    reload: int = 0,
) -> None:
    """One self-contained HTML page; ``figures`` are (PNG bytes, description), ``viewer`` is from :func:`pictures`; with
    ``reload``, it is read anew every so many seconds."""
    viewer = viewer or []
    text = PAGE.render(
        title=title,
        summary=summary,
        figures=[{"data": base64.b64encode(data).decode(), "alt": alt} for data, alt in figures],
        columns=table[0],
        rows=table[1],
        conventions=conventions,
        config=config,
        pictures=viewer,
        chosen=len(viewer[0]["panels"]) - 1 - (viewer[0]["truth"] is not None) if viewer else 0,
        reload=reload,
    )
    path.write_text(text, encoding="utf-8")
