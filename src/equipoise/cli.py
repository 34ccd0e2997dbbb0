"""The command line: thin; heavy imports happen inside the commands."""

from __future__ import annotations

import os
import signal
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from .errors import UserError

if TYPE_CHECKING:
    from .assessment.evaluate import Table
    from .learning.train import Report

app = typer.Typer(
    name="equipoise",
    help="Learn to reconstruct images from incomplete, noisy measurements alone.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_debug = False


def _version(value: bool) -> None:
    if value:
        from . import __version__

        typer.echo(f"equipoise {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    global _debug
    _debug = debug


class Architecture(str, Enum):
    """The denoisers that there are."""

    conv, unet, proximal = "conv", "unet", "proximal"


class Progress:
    """A bar on a terminal; elsewhere a plain line now and then."""

    def __init__(self, total: int):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self.total, console = total, Console()
        shown = console.is_terminal and os.environ.get("RANK", "0") == "0"  # of several processes one has the terminal
        columns = BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}")
        self.bar = Bar(*columns, console=console, disable=not shown, speed_estimate_period=600)
        self.task = self.bar.add_task("", total=total)
        self.bar.start()

    def __call__(self, r: Report) -> None:
        parts = "  ".join(f"{k} {v:.2e}" for k, v in r.parts.items())
        text = (
            f"{parts}  forward {r.forward:.0f} its, residual {r.residual:.0e}  adjoint {r.adjoint:.0f} its, residual "
            f"{r.adjoint_residual:.0e}  {r.images_per_second:.1f} images/s"
        )
        if r.validation:
            text += "  validation " + " ".join(f"{k} {v:.4g}" for k, v in r.validation.items())
        said = [f"{what}: {why}" for what, why in (("SKIPPED", r.skipped), ("SHORTENED", r.shortened), ("ENDED", r.ended)) if why]
        self.bar.update(self.task, completed=r.step, description=text)
        if not self.bar.disable:
            for line in said:
                self.bar.print(f"step {r.step} {line}")
        elif r.step % max(1, self.total // 20) == 0 or r.step == self.total or said or r.validation:
            left = self.bar.tasks[0].time_remaining
            print(
                "  ".join([f"step {r.step}/{self.total}", text, *([] if left is None else [f"{left:.0f} s left"]), *said]),
                flush=True,
            )

    def close(self) -> None:
        self.bar.stop()


def _print_table(table: Table) -> None:
    width = max(len(r["name"]) for r in table.lines())
    typer.echo(f"{'method':<{width}}  {'PSNR (dB)':>14}  {'SSIM':>17}  {'misfit':>9}  setting")
    for r in table.lines():
        typer.echo(f"{r['name']:<{width}}  {r['psnr']:>14}  {r['ssim']:>17}  {r['misfit']:>9}  {r['setting']}")


@app.command()
def demo(
    kind: Annotated[str, typer.Argument(help="ct or mri")] = "ct",
    out: Annotated[Optional[Path], typer.Option(help="Folder to write to; default runs/demo-KIND.")] = None,  # noqa: UP045
    steps: Annotated[Optional[int], typer.Option(min=1, help="Training steps, instead of the demo's own.")] = None,  # noqa: UP045
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
) -> None:
    """The whole story in minutes, no download: measurements in, pictures and a page out.

    Example: equipoise demo ct
    """
    from .demo import demo as run_demo
    from .demo import demo_config

    config = demo_config(kind, out, steps, seed)
    typer.echo(
        f"Making {config.data.count} phantoms, measuring them, and throwing the images away; then {config.learning.steps} training "
        "steps on the measurements alone."
    )
    progress = Progress(config.learning.steps)
    try:
        table = run_demo(config, typer.echo, progress)
    finally:
        progress.close()
    typer.echo(f"\n{len(table.names)} phantoms that training did not see (classical methods tuned on the first eight of them):")
    _print_table(table)
    typer.echo(f"\nPictures and page: {config.folder}/report.html, grid.png, curves.html; scores: {config.folder}/results.json")


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML file; examples are in configs/")],
    overrides: Annotated[Optional[list[str]], typer.Argument(help="such as learning.steps=500 data.path=my/folder")] = None,  # noqa: UP045
) -> None:
    """Train from measurements alone, or continue where it was interrupted.

    Example: equipoise train configs/ct64.yaml learning.steps=500

    With several processes: torchrun --nproc-per-node=2 -m equipoise train configs/ct64.yaml
    """
    from .config import load_config
    from .runs import train_run

    settings = load_config(config, overrides)
    stopped: list[int] = []
    echo = typer.echo if os.environ.get("RANK", "0") == "0" else lambda *args, **kwargs: None  # torchrun: the first alone speaks

    def stop(number: int, frame: object) -> None:
        if stopped:
            raise KeyboardInterrupt
        stopped.append(number)
        echo("stopping after this step; the checkpoint is kept (once more: at once)", err=True)

    old = signal.signal(signal.SIGINT, stop), signal.signal(signal.SIGTERM, stop)
    progress = Progress(settings.learning.steps)
    try:
        finished = train_run(settings, echo, progress, lambda: bool(stopped))
    finally:
        progress.close()
        signal.signal(signal.SIGINT, old[0])
        signal.signal(signal.SIGTERM, old[1])
    if not finished:
        echo(f"interrupted; the same command continues: equipoise train {config} {' '.join(overrides or [])}".rstrip())
        raise typer.Exit(130)
    echo(f"trained: {settings.folder}/model.safetensors; how it went: {settings.folder}/curves.html")


@app.command()
def reconstruct(
    run: Annotated[Path, typer.Argument(help="Folder of a trained run.")],
    data: Annotated[Path, typer.Argument(help="Measurements, or images to be measured first.")],
    out: Annotated[Path, typer.Argument(help="New folder for the images.")],
) -> None:
    """Reconstruct DATA into the folder OUT: images in the input's kind, a preview, residual and status of each.

    Example: equipoise reconstruct runs/ct64 ../shared/data/ct/val.h5 out/
    """
    from . import runs

    runs.reconstruct(runs.load_run(run), data, out, typer.echo)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a trained run.")],
    data: Annotated[
        Path | None, typer.Argument(help="Images or measurements to score on; none: data.validation, or new phantoms.")
    ] = None,
) -> None:
    """Score a run against FBP or zero-filled, least squares and TV, per image and on average.

    Example: equipoise evaluate runs/ct64 ../shared/data/ct/val.h5
    """
    from . import runs

    loaded = runs.load_run(run)
    table = runs.evaluate(loaded, data)
    scores = table.scores["equipoise"]
    width = max(len(n) for n in table.names)
    methods = [m for m in table.scores if "psnr" in table.scores[m]]
    if methods:
        typer.echo(f"{'PSNR (dB)':<{width}}  " + "  ".join(f"{m:>13}" for m in methods) + "  residual  status")
        assert table.solve is not None
        from .assessment.evaluate import solve_rows

        for i, row in enumerate(solve_rows(table.solve, table.names)):
            values = "  ".join(f"{table.scores[m]['psnr'][i]:13.2f}" for m in methods)
            residual = "not finite" if row["residual"] is None else f"{row['residual']:.1e}"
            typer.echo(f"{row['name']:<{width}}  {values}  {residual:>9}  {row['status']}")
        typer.echo("")
    else:
        for name, misfit in zip(table.names, scores["misfit"]):
            typer.echo(f"{name:<{width}}  misfit {misfit:.2e}")
    _print_table(table)
    typer.echo(f"\n{table.problem['contraction']['words']}")
    typer.echo(f"saved: {table.folder}/results.json, grid.png, report.html")


@app.command()
def compare(
    config: Annotated[list[str], typer.Argument(help="YAML file(s), and overrides such as learning.steps=300")],
    out: Annotated[Optional[Path], typer.Option(help="Folder; default compare/NAME. What is there is not repeated.")] = None,  # noqa: UP045
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 3,
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at once, each with its share of the threads.")] = 1,
    elsewhere: Annotated[
        bool, typer.Option("--elsewhere", help="Try the trained models on other views, noise, anatomy and iterations too.")
    ] = False,
    only: Annotated[Optional[str], typer.Option(help="Methods, separated by commas; default: all.")] = None,  # noqa: UP045
) -> None:
    """Train, tune and score every method on the same data, over seeds; or several configurations against each other.

    Example: equipoise compare configs/ct64.yaml learning.steps=150 --jobs 2
    """
    from .compare import compare as run_compare
    from .compare import plan
    from .config import load_config

    files, overrides = [c for c in config if "=" not in c], [c for c in config if "=" in c]
    if not files:
        raise UserError("compare: name a configuration file")
    configs = [load_config(Path(f), overrides) for f in files]
    task = plan(configs, out, seeds, only.split(",") if only else None)
    run_compare(task, jobs, typer.echo, elsewhere)
    typer.echo((task.out / "table.md").read_text())
    typer.echo(f"saved: {task.out}/report.html, table.md, results.json")


@app.command()
def diagnose(
    run: Annotated[Path, typer.Argument(help="Folder of a trained run.")],
    others: Annotated[Optional[list[Path]], typer.Argument(help="Other runs on the same data; seeds are averaged.")] = None,  # noqa: UP045
    data: Annotated[Optional[Path], typer.Option(help="Images; default: data.validation, held-out patients or phantoms.")] = None,  # noqa: UP045
    out: Annotated[Optional[Path], typer.Option(help="Folder to write to; default RUN/diagnosis.")] = None,  # noqa: UP045
) -> None:
    """Find out what the trained network is: equivariant? the proximal map of a prior? what does it recover that A cannot see?

    Example: equipoise diagnose compare/ct64/implicit-0 compare/ct64/jacobian_free-0 compare/ct64/supervised-0
    """
    from .diagnosis import diagnose as run_diagnose
    from .runs import load_run

    found = run_diagnose(load_run(run), [load_run(folder) for folder in others or ()], data, out, typer.echo)
    typer.echo((Path(found["folder"]) / "table.md").read_text())
    typer.echo(f"saved: {found['folder']}/report.html, diagnosis.json, table.md")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a trained run.")],
    out: Annotated[Path, typer.Argument(help="New folder.")],
    licence: Annotated[str, typer.Option(help="Of the model, for its card.")] = "unknown",
    program: Annotated[bool, typer.Option("--program", help="Also the denoiser as a torch.export program.")] = False,
) -> None:
    """Write a model that travels: weights, configuration and model card, for EquilibriumReconstructor.from_pretrained.

    Example: equipoise export runs/demo-ct my-model --licence bsd-3-clause
    """
    from .export import export as run_export
    from .runs import load_run

    run_export(load_run(run), out, licence, program)
    typer.echo(f"wrote {', '.join(sorted(p.name for p in out.iterdir()))} to {out}")


@app.command("config")
def show_config(
    section: Annotated[str, typer.Argument(help="Such as learning, or physics.mri; none: all.")] = "",
) -> None:
    """Print every option of a configuration with its default and meaning.

    Example: equipoise config learning
    """
    from .config import options

    rows = [row for row in options() if row[0].startswith(section)]
    if not rows:
        raise UserError(f"config: nothing begins with {section!r}; there are data, physics.KIND, model, objective, learning")
    width = max(len(name) for name, _, _ in rows)
    for name, default, meaning in rows:
        typer.echo(f"{name:<{width}}  {default:<14}  {meaning}")


@app.command("runs")
def list_runs(
    folder: Annotated[Path, typer.Argument(help="Where to look, with what is below.")] = Path("runs"),
) -> None:
    """List the runs in a folder: how far each is, and its scores.

    Example: equipoise runs
    """
    from .runs import overview

    rows = list(overview(folder))
    if not rows:
        typer.echo(f"no runs in {folder}; start one with: equipoise train CONFIG, or: equipoise demo ct")
        return
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for name, state, problem, scores in rows:
        typer.echo(f"{name:<{widths[0]}}  {state:<{widths[1]}}  {problem:<{widths[2]}}  {scores}")


@app.command()
def simulate(
    config: Annotated[Path, typer.Argument(help="YAML file; its data are images, or phantoms.")],
    overrides: Annotated[Optional[list[str]], typer.Argument(help="such as physics.angles=30")] = None,  # noqa: UP045
    out: Annotated[Optional[Path], typer.Option(help="New folder for the measurements; default simulated/NAME.")] = None,  # noqa: UP045
) -> None:
    """Make measurement files from images: what an operator would have measured, and a configuration that trains on it.

    Example: equipoise simulate configs/dicom.yaml --out measured
    """
    from .config import load_config
    from .runs import simulate as run_simulate

    settings = load_config(config, overrides)
    out = Path("simulated") / settings.name if out is None else out
    paths = run_simulate(settings, out)
    typer.echo(f"wrote {len(paths)} measurements to {out}/measurements; train on them with: equipoise train {out}/config.yaml")


@app.command()
def doctor(
    config: Annotated[Path, typer.Argument(help="YAML file of the run that is planned.")],
    overrides: Annotated[Optional[list[str]], typer.Argument(help="such as objective.group=shifts")] = None,  # noqa: UP045
) -> None:
    """Say in seconds whether a set-up can work: operator, data, group, cost. Exit code 1 if something is wrong.

    Example: equipoise doctor configs/ct64.yaml
    """
    from .config import load_config
    from .doctor import examine

    wrong = 0
    for finding in examine(load_config(config, overrides)):
        wrong += finding.verdict == "wrong"
        typer.echo(f"{finding.verdict:<6}{finding.what}" + (f"\n      → {finding.remedy}" if finding.remedy else ""))
    typer.echo("nothing wrong was found" if not wrong else f"{wrong} thing(s) to mend")
    if wrong:
        raise typer.Exit(1)


@app.command()
def pretrain(
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("denoiser.safetensors"),
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 4000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    architecture: Annotated[Architecture, typer.Option(help="Of the network.")] = Architecture.conv,
) -> None:
    """Train the denoiser that models start from, on synthetic images alone (dead leaves and phantoms).

    Example: equipoise pretrain --out denoiser.safetensors
    """
    if out.exists():
        raise UserError(f"{out}: exists; nothing was written. Name another file with --out")
    from .learning.pretrain import pretrain as run_pretrain

    scores = run_pretrain(out, steps=steps, seed=seed, architecture=architecture.value, say=typer.echo)
    typer.echo(f"wrote {out}: {scores}")


def main() -> None:
    """Entry point: errors that are the user's to mend are one paragraph, exit code 2."""
    try:
        app()
    except (UserError, OSError) as error:  # OSError: a path that is a file, a full disk, missing rights
        if _debug:
            raise
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
