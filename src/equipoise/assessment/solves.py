"""What the equilibria behind some images are worth: residual, steps and status, and in words."""

from __future__ import annotations

from typing import Any

from ..equilibrium import Equilibrium, Status


def solve_rows(solved: Equilibrium, names: list[str]) -> list[dict[str, Any]]:
    """Name, residual (None, where it is not finite), steps and status of each image's
    equilibrium."""
    rows = []
    for i, name in enumerate(names):
        residual = solved.residual[i]
        rows.append(
            {
                "name": name,
                "residual": float(residual) if bool(residual.isfinite()) else None,
                "steps": int(solved.steps[i]),
                "status": Status(int(solved.status[i])).name,
            }
        )
    return rows


def residual_in_words(row: dict[str, Any]) -> str:
    """The residual of a row of :func:`solve_rows`."""
    return "not finite" if row["residual"] is None else f"{row['residual']:.1e}"


def unfinished(solved: Equilibrium) -> float:
    """The share of the solves that did not reach their tolerance."""
    return float((~solved.converged).double().mean())


def solve_in_words(solved: Equilibrium) -> str:
    """How many evaluations the solves took, and how many are unfinished."""
    words = f"{float(solved.steps.double().mean()):.0f} evaluations"
    late = int((~solved.converged).sum())
    return f"{words}; {late} of {len(solved.converged)} not converged" if late else words
