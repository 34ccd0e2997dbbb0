"""How a long command shows where it is."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from ..learning.log import Report
    from .slices import Step as Slices

#: On no terminal, about so many lines are printed in all.
LINES = 20


def is_first_process() -> bool:
    """Of several processes that torchrun has started, the first alone speaks."""
    return os.environ.get("RANK", "0") == "0"


class TrainingProgress:
    """A bar on a terminal; elsewhere a plain line now and then."""

    def __init__(self, total: int):
        console = Console(stderr=False)
        self.total = total
        self.shown = console.is_terminal and is_first_process()
        self.bar = Progress(
            BarColumn(24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=console,
            disable=not self.shown,
            speed_estimate_period=600,
        )
        self.task = self.bar.add_task("", total=total)
        self.bar.start()

    def __call__(self, report: Report) -> None:
        text = _in_words(report)
        events = _events(report)
        self.bar.update(self.task, completed=report.step, description=text)
        if self.shown:
            for event in events:
                self.bar.print(f"step {report.step} {event}")
            return
        is_turn = report.step % max(1, self.total // LINES) == 0 or report.step == self.total
        if is_turn or events or report.validation:
            self._print_line(report.step, text, events)

    def _print_line(self, step: int, text: str, events: list[str]) -> None:
        seconds = self.bar.tasks[0].time_remaining
        left = [] if seconds is None else [f"{seconds:.0f} s left"]
        print("  ".join([f"step {step}/{self.total}", text, *left, *events]), flush=True)

    def close(self) -> None:
        self.bar.stop()


class SolvesProgress:
    """A bar of solves on a terminal; elsewhere a plain line now and then, with the time left."""

    def __init__(self) -> None:
        console = Console(stderr=False)
        self.shown = console.is_terminal and is_first_process()
        self.bar = Progress(
            BarColumn(24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("samples"),
            console=console,
            disable=not self.shown,
            speed_estimate_period=600,
        )
        self.task = self.bar.add_task("", total=None)
        self.started = 0.0
        self.lines = 0

    def __call__(self, done: int, total: int) -> None:
        if not done:
            self.bar.start()
            self.started, self.lines = time.perf_counter(), 0
            return
        self.bar.update(self.task, completed=done, total=total)
        if self.shown or not is_first_process() or done * LINES < self.lines * total:
            return
        self.lines = done * LINES // total + 1
        left = (time.perf_counter() - self.started) / done * (total - done)
        print(f"samples: {done}/{total} solves  {left:.0f} s left", flush=True)

    def close(self) -> None:
        self.bar.stop()


def _in_words(report: Report) -> str:
    parts = "  ".join(f"{name} {value:.2e}" for name, value in report.parts.items())
    text = (
        f"{parts}  forward {report.forward:.0f} its, residual {report.residual:.0e}  "
        f"adjoint {report.adjoint:.0f} its, residual {report.adjoint_residual:.0e}  "
        f"{report.images_per_second:.1f} images/s"
    )
    if report.validation:
        scores = " ".join(f"{name} {value:.4g}" for name, value in report.validation.items())
        text += f"  validation {scores}"
    return text


def _events(report: Report) -> list[str]:
    events = {
        "SKIPPED": report.skipped,
        "SHORTENED": report.shortened,
        "CHECKED": _exactness_in_words(report.inexact),
        "ENDED": report.ended,
    }
    return [f"{what}: {why}" for what, why in events.items() if why]


def _exactness_in_words(inexact: dict[str, float]) -> str:
    if not inexact:
        return ""
    off = ", ".join(f"{name} by {share:.2g}" for name, share in inexact.items())
    return f"losses miss their exact values, as a share of them: {off}"


class SliceProgress:
    """Slices a second and the time left: a line that is overwritten on a terminal, and elsewhere a
    plain one now and then."""

    def __init__(self) -> None:
        self.console = Console(stderr=False)
        self.printed = 0

    def __call__(self, step: Slices) -> None:
        is_last = step.done == step.total
        if not is_first_process() or (is_last and step.here == step.total <= LINES):
            return
        if self.console.is_terminal:
            print(f"\r{step}\033[K", end="\n" if is_last else "", flush=True)
            return
        every = max(1, step.total // LINES)
        if is_last or step.done - self.printed >= every:
            self.printed = step.done
            print(str(step), flush=True)


@contextmanager
def stopping_after_this_step(
    echo: Callable[[str], None], what: str = "step; the checkpoint is kept"
) -> Iterator[Callable[[], bool]]:
    """Ctrl-C ends the work after the step that runs; a second one ends it at once."""
    signals: list[int] = []

    def stop(number: int, frame: object) -> None:
        if signals:
            raise KeyboardInterrupt
        signals.append(number)
        echo(f"stopping after this {what} (once more: at once)")

    former = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(signals)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


class Status:
    """What a command of some seconds is doing just now, where there is a terminal to say it; what
    it has found out stays."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.shown = self.console.status("")

    def say(self, text: str) -> None:
        self.shown.update(text)

    def print(self, text: str) -> None:
        """A line of the command's output."""
        if self.console.is_terminal:
            self.shown.stop()
        print(text, flush=True)
        if self.console.is_terminal:
            self.shown.start()

    def __enter__(self) -> Status:
        if self.console.is_terminal:
            self.shown.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shown.stop()
