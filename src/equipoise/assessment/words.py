"""What is claimed about a run, in one place: it follows what the run did."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

#: The denoisers that come with the package were trained on images that a program drew.
SHIPPED = ("shipped", "unet")


def how_it_was_trained(config: Any, scan: Any) -> str:
    """What a run learnt from, and what it started from, in two sentences.

    Args:
        config: of the run; a loss with a weight of 0 was not used.
        scan: what measured, which some weights follow.
    """
    objective = config.objective.settled(scan)
    supervised = objective.supervised.weight > 0
    others = [
        name
        for name, loss in objective
        if name not in ("supervised", "contraction") and getattr(loss, "weight", 0) > 0
    ]
    others += [
        name
        for name, given in getattr(objective, "deepinv", {}).items()
        if (given.get("weight", 1.0) if isinstance(given, dict) else given) > 0
    ]
    if supervised and others:
        words = (
            "Trained on the true images as well as on measurements: the objective has a supervised "
            f"term beside {_listed(others)}."
        )
    elif supervised:
        words = "Supervised: trained on measurements together with their true images."
    else:
        words = "Trained from measurements alone: no clean image of this problem was used."
    return f"{words} {_what_it_started_from(config.model.denoiser)}"


def _what_it_started_from(denoiser: Any) -> str:
    if denoiser.kind in SHIPPED:
        return "The denoiser it starts from was trained on synthetic images."
    if denoiser.kind == "random":
        return "The denoiser it starts from had random weights."
    path = getattr(denoiser, "path", None)
    return f"The denoiser it starts from was read from {Path(path).name if path else 'a file'}."


def how_far_it_was_trained(log: list[dict[str, Any]], steps: int) -> str:
    """How many of its steps a run took, and how many of its solves did not finish.

    Args:
        log: the lines of ``log.jsonl``, one a step.
        steps: as many as were asked for.
    """
    if not log:
        return ""
    last = log[-1]["step"]
    skipped = sum(1 for row in log if row.get("skipped"))
    shortened = sum(1 for row in log if row.get("shortened"))
    words = f"Training took {last} of {steps} steps"
    if log[-1].get("ended"):
        words += f" and ended there: {log[-1]['ended']}"
    words += f"; {skipped} steps were skipped, {shortened} shortened."
    unfinished = sum(row.get("unsolved", 0.0) for row in log) / len(log)
    if unfinished >= 0.005:
        words += (
            f" {unfinished:.0%} of its solves, forward and adjoint, stopped before they reached "
            "their tolerance."
        )
    return words


def unfinished_in_words(shares: dict[str, float]) -> str:
    """Which methods' solves did not all finish; nothing where all did.

    Args:
        shares: title of a method → share of its solves that did not reach their tolerance.
    """
    late = [f"{share:.0%} of {title}" for title, share in shares.items() if share > 0]
    if not late:
        return ""
    return (
        f"Solves that stopped before they reached their tolerance: {', '.join(late)}; those images "
        "are not the equilibria they are called after."
    )


def command_line() -> str:
    """The command that this process was started with."""
    program, *arguments = sys.argv
    name = Path(program).name
    start = ["equipoise"] if name in ("equipoise", "__main__.py") else ["python", name]
    return " ".join([*start, *arguments])


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
