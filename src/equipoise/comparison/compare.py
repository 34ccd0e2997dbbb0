"""Every method on the same data, from the configuration to the page."""

from __future__ import annotations

from collections.abc import Callable

from ..assessment.table import Table
from ..machine import check_writable, write_whole
from .elsewhere import generalise
from .outcome import Outcome
from .sweep import (
    Comparison,
    Sweep,
    check_data,
    check_folder,
    collect,
    with_earlier_seeds,
)


def compare(
    comparison: Comparison,
    jobs: int = 1,
    say: Callable[[str], None] = print,
    elsewhere: bool = False,
) -> Table:
    """Trains, tunes and scores what is missing, and writes results, table and page.

    Args:
        comparison: from :func:`equipoise.comparison.sweep.plan`.
        jobs: trainings at once, each with its share of the threads.
        say: takes a line for the user.
        elsewhere: try the trained models on other problems too.

    Returns:
        The table; a method that could not be had or failed, for one seed or all, has a row that
        says why, and ``failed`` tells whether something should have worked and did not.

    Raises:
        UserError: the folder holds another comparison, or that of other data; the data have no
            truth.
        Interrupted: a training was stopped; the same call goes on from there.
    """
    check_folder(comparison)
    check_writable(comparison.out)
    dataset, what = comparison.unseen(comparison.config.seed)
    out = comparison.out
    write_whole(out / "config.yaml", comparison.text())
    check_data(comparison, dataset)
    say(
        f"{len(comparison.asked())} methods, {comparison.seeds} seeds; scored on {len(dataset)} "
        f"images ({what})"
    )
    Sweep(comparison, jobs, say).run()
    comparison = with_earlier_seeds(comparison, say)
    found = collect(comparison)
    others = generalise(comparison, say) if elsewhere else {}
    outcome = Outcome(comparison, found, dataset, what, others)
    outcome.write()
    return outcome.table
