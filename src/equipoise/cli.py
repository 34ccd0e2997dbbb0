"""The command line: thin; heavy imports happen inside the commands."""

from __future__ import annotations

import errno
import re
import shlex
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from typer.core import TyperCommand

from .errors import TrainingGaveUp, UserError, shortened
from .machine import keep_freed_memory, wait_without_spinning

if TYPE_CHECKING:
    from .assessment.table import Table
    from .comparison.evaluated import Evaluation

wait_without_spinning()  # before torch is loaded

app = typer.Typer(
    name="equipoise",
    help="Learn to reconstruct images from incomplete, noisy measurements alone.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_debug = False

#: Exit codes: something is the user's to mend; training gave up; it was interrupted.
USER_ERROR, GAVE_UP, INTERRUPTED = 2, 3, 130


def _version(value: bool) -> None:
    if value:
        from .version import __version__

        typer.echo(f"equipoise {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    global _debug
    _debug = debug


class Architecture(str, Enum):
    """The denoisers that there are."""

    conv, unet, proximal = "conv", "unet", "proximal"


#: As many samples as ``--samples`` takes without a number.
SAMPLES = 30


class _WithSamples(TyperCommand):
    """A command whose ``--samples`` may stand alone."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        filled = []
        for k, word in enumerate(args):
            filled.append(word)
            follower = args[k + 1] if k + 1 < len(args) else ""
            if word == "--samples" and not follower.lstrip("-+").isdigit():
                filled.append(str(SAMPLES))
        return super().parse_args(ctx, filled)


Samples = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        min=1,
        metavar="[NUMBER]",
        help="Also estimate how sure each image is, from so many samples of the equivariant "
        f"bootstrap (without a number: {SAMPLES}).",
    ),
]
Level = Annotated[float, typer.Option(help="Of the samples' bounds.")]
GroupName = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--group",
        help="What moves the samples: rotations, quarter_turns, reflections or shifts; default: "
        "the run's.",
    ),
]
Overrides = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Argument(help="such as learning.steps=500 data.path=my/folder"),
]
RunFolder = Annotated[Path, typer.Argument(help="Folder of a trained run.")]


@app.command()
def demo(
    kind: Annotated[str, typer.Argument(help="ct or mri")] = "ct",
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder to write to; default runs/demo-KIND."),
    ] = None,
    steps: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Training steps, instead of the demo's own."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
) -> None:
    """The whole story in minutes, no download: measurements in, pictures and a page out.

    Example: equipoise demo ct
    """
    from .commands.demo import DEMOS, demo_config
    from .commands.demo import demo as run_demo
    from .commands.terminal import TrainingProgress

    config = demo_config(kind, out, steps, seed)
    count = DEMOS[kind]["data"]["count"]
    typer.echo(
        f"Making {count} phantoms, measuring them, and throwing the images away; then "
        f"{config.learning.steps} training steps on the measurements alone."
    )
    progress = TrainingProgress(config.learning.steps)
    try:
        evaluation = run_demo(config, typer.echo, progress)
    finally:
        progress.close()
    typer.echo(
        f"\n{len(evaluation.names)} phantoms that training did not see (classical methods tuned on "
        "the first eight of them):"
    )
    typer.echo(evaluation.table.terminal())
    typer.echo(
        f"\nPictures and page: {config.folder}/report.html, grid.png, curves.html; scores: "
        f"{config.folder}/results.json"
    )
    _exit_if_failed(evaluation.table)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML file; examples are in configs/")],
    overrides: Overrides = None,
) -> None:
    """Train from measurements alone, or continue where it was interrupted.

    Example: equipoise train configs/ct64.yaml learning.steps=500

    With several processes: torchrun --nproc-per-node=2 -m equipoise train configs/ct64.yaml
    """
    from .commands.terminal import TrainingProgress, is_first_process, stopping_after_this_step
    from .commands.train import train_run
    from .config import load_config

    settings = load_config(config, overrides)
    echo = typer.echo if is_first_process() else _say_nothing
    progress = TrainingProgress(settings.learning.steps)
    try:
        with stopping_after_this_step(echo) as is_interrupted:
            finished = train_run(settings, echo, progress, is_interrupted)
    finally:
        progress.close()
    if not finished:
        command = shlex.join(["equipoise", "train", str(config), *(overrides or [])])
        echo(f"interrupted; the same command continues: {command}")
        raise typer.Exit(INTERRUPTED)
    folder = settings.folder
    echo(f"trained: {folder}/model.safetensors; how it went: {folder}/curves.html")


def _say_nothing(text: str) -> None:
    pass


@app.command(cls=_WithSamples)
def reconstruct(
    run: RunFolder,
    data: Annotated[Path, typer.Argument(help="Measurements, or images to be measured first.")],
    out: Annotated[Path, typer.Argument(help="New folder for the images.")],
    form: Annotated[
        str,
        typer.Option(
            "--as", help="Images of measurements: npy (a file each), tiff or hdf5 (one file)."
        ),
    ] = "npy",
    rows: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Of a whole scan, these slices: 100, 100:200, ::10; default: all."),
    ] = None,
    samples: Samples = None,
    level: Level = 0.9,
    group: GroupName = None,
    factor: Annotated[
        float, typer.Option(help="Of deviations and bounds: a calibration that evaluate found.")
    ] = 1.0,
) -> None:
    """Reconstruct DATA into the folder OUT: image files stay in their format, measurements give
    .npy (fastMRI's k-space: .h5, as its challenge wants it); with a preview, and residual and
    status of each. The same command goes on where one was interrupted. With --samples, standard
    deviation and bounds beside each image, and a page.

    Example: equipoise reconstruct runs/ct64 ../shared/data/ct/val.h5 out/
    """
    from .commands.reconstruct import reconstruct as run_reconstruct
    from .commands.terminal import SliceProgress, stopping_after_this_step
    from .data.ranges import places_of
    from .run import load_run

    trained = load_run(run)
    asked, counted = _bootstrap_of(samples, level, group, factor)
    progress = SliceProgress()
    try:
        with stopping_after_this_step(typer.echo, "slice; what is done is kept") as is_interrupted:
            run_reconstruct(
                trained,
                data,
                out,
                typer.echo,
                form,
                places_of(rows, "--rows"),
                progress,
                is_interrupted,
                asked=asked,
                progress=counted,
            )
            interrupted = is_interrupted()
    finally:
        if counted is not None:
            counted.close()
    if interrupted and not (out / "report.json").is_file():
        typer.echo("interrupted; the same command goes on after the last slice")
        raise typer.Exit(INTERRUPTED)


def _bootstrap_of(
    samples: int | None, level: float, group: str | None, factor: float = 1.0
) -> tuple[Any, Any]:
    """What is asked of the bootstrap, and what shows its progress; nothing without samples.

    Raises:
        UserError: an option of it was given without ``--samples``.
    """
    if samples is None:
        if group is not None or level != 0.9 or factor != 1:
            raise UserError("--level, --group and --factor are those of the samples; add --samples")
        return None, None
    from .commands.terminal import SolvesProgress
    from .comparison.bootstrap import Bootstrap

    return Bootstrap(samples, level, group=group, factor=factor), SolvesProgress()


@app.command(cls=_WithSamples)
def evaluate(
    run: RunFolder,
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(
            help="Images or measurements to score on; none: data.validation, or new phantoms."
        ),
    ] = None,
    score: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="fastmri: by fastMRI's measures too, of whole volumes."),
    ] = None,
    samples: Samples = None,
    level: Level = 0.9,
    group: GroupName = None,
) -> None:
    """Score a run against FBP or zero-filled, least squares and TV, per image and on average. With
    --samples, also whether its own estimate of its errors is true.

    Example: equipoise evaluate runs/ct64 ../shared/data/ct/val.h5
    """
    from .commands.terminal import is_first_process
    from .comparison.evaluation import evaluate as run_evaluate
    from .run import load_run

    asked, progress = _bootstrap_of(samples, level, group)
    try:
        evaluation = run_evaluate(
            load_run(run), data, score=score, asked=asked, progress=progress, say=typer.echo
        )
    finally:
        if progress is not None:
            progress.close()
    if is_first_process():
        _say_evaluation(evaluation)
    _exit_if_failed(evaluation.table)


def _say_evaluation(evaluation: Evaluation) -> None:
    """What was noticed about the data, its tables, and where they were saved."""
    for note in evaluation.problem["data_notes"]:
        typer.echo(f"note: {note}")
    typer.echo(evaluation.per_image().terminal())
    typer.echo("")
    typer.echo(evaluation.table.terminal())
    if evaluation.fastmri is not None:
        typer.echo(f"\n{evaluation.fastmri.terminal()}")
    if evaluation.sure is not None:
        typer.echo(f"\n{evaluation.sure.table.terminal()}")
        for note in evaluation.sure.notes:
            typer.echo(f"caution: {note}")
    typer.echo(f"\n{evaluation.problem['contraction']['words']}")
    if "trained_on" in evaluation.problem:
        typer.echo(f"caution: {evaluation.problem['trained_on']}")
    typer.echo(f"saved: {evaluation.folder}/results.json, grid.png, report.html")


@app.command()
def compare(
    config: Annotated[
        list[str],
        typer.Argument(help="YAML file(s), and overrides such as learning.steps=300"),
    ],
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder; default compare/NAME. What is there is not repeated."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 3,
    jobs: Annotated[
        int, typer.Option(min=1, help="Trainings at once, each with its share of the threads.")
    ] = 1,
    elsewhere: Annotated[
        bool,
        typer.Option(
            "--elsewhere",
            help="Try the trained models on other views, noise, anatomy and iterations too.",
        ),
    ] = False,
    only: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Methods, separated by commas; default: all."),
    ] = None,
    methods: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Python file that registers methods of your own."),
    ] = None,
) -> None:
    """Train, tune and score every method on the same data, over seeds; or several configurations
    against each other.

    Example: equipoise compare configs/ct64.yaml learning.steps=150 --jobs 2
    """
    from .comparison.compare import compare as run_compare
    from .comparison.methods import load_methods
    from .comparison.sweep import plan
    from .config import load_config

    files = [text for text in config if "=" not in text]
    overrides = [text for text in config if "=" in text]
    if not files:
        raise UserError("compare: name a configuration file")
    if methods is not None:
        load_methods(methods)
    configs = [load_config(Path(file), overrides) for file in files]
    comparison = plan(configs, out, seeds, only.split(",") if only is not None else None)
    try:
        table = run_compare(comparison, jobs, typer.echo, elsewhere)
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command continues, with what is done in place")
        raise typer.Exit(INTERRUPTED) from None
    typer.echo((comparison.out / "table.md").read_text())
    typer.echo(f"saved: {comparison.out}/report.html, table.md, results.json")
    _exit_if_failed(table)


@app.command()
def diagnose(
    run: RunFolder,
    others: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Argument(help="Other runs on the same data; seeds are averaged."),
    ] = None,
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Images; default: data.validation, held-out patients or phantoms."),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder to write to; default RUN/diagnosis."),
    ] = None,
) -> None:
    """Find out what the trained network is: equivariant? the proximal map of a prior? what does it
    recover that A cannot see?

    Example: equipoise diagnose compare/ct64/implicit-0 compare/ct64/jacobian_free-0
    """
    from .comparison.diagnosis import diagnose as run_diagnose
    from .run import load_run

    beside = [load_run(folder) for folder in others or ()]
    found = run_diagnose(load_run(run), beside, data, out, typer.echo)
    typer.echo((found.folder / "table.md").read_text())
    typer.echo(f"saved: {found.folder}/report.html, diagnosis.json, table.md")
    _exit_if_failed(found.table)


def _exit_if_failed(table: Table) -> None:
    if table.failed:
        raise typer.Exit(1)


@app.command()
def export(
    run: RunFolder,
    out: Annotated[Path, typer.Argument(help="New folder.")],
    licence: Annotated[str, typer.Option(help="Of the model, for its card.")] = "unknown",
    program: Annotated[
        bool, typer.Option("--program", help="Also the denoiser as a torch.export program.")
    ] = False,
) -> None:
    """Write a model that travels: weights, configuration and model card, for
    EquilibriumReconstructor.from_pretrained.

    Example: equipoise export runs/demo-ct my-model --licence bsd-3-clause
    """
    from .commands.export import export as run_export
    from .run import load_run

    run_export(load_run(run), out, licence, program)
    typer.echo(f"wrote {', '.join(sorted(p.name for p in out.iterdir()))} to {out}")


@app.command("config")
def show_config(
    section: Annotated[
        str, typer.Argument(help="Such as learning, or physics.mri; none: all.")
    ] = "",
) -> None:
    """Print every option of a configuration with its default and meaning.

    Example: equipoise config learning
    """
    from .config import options

    rows = [row for row in options() if row[0].startswith(section)]
    if not rows:
        raise UserError(
            f"config: nothing begins with {section!r}; there are data, physics.KIND, model, "
            "objective, learning"
        )
    width = max(len(name) for name, _, _ in rows)
    for name, default, meaning in rows:
        typer.echo(f"{name:<{width}}  {default:<14}  {meaning}")


@app.command("runs")
def show_runs(
    folder: Annotated[Path, typer.Argument(help="Where to look, with what is below.")] = Path(
        "runs"
    ),
) -> None:
    """List the runs in a folder: how far each is, and its scores.

    Example: equipoise runs
    """
    from .commands.runs import list_runs

    rows = list(list_runs(folder))
    if not rows:
        typer.echo(
            f"no runs in {folder}; start one with: equipoise train CONFIG, or: equipoise demo ct"
        )
        return
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)]
        typer.echo("  ".join([*cells, row.scores]))


@app.command()
def simulate(
    config: Annotated[Path, typer.Argument(help="YAML file; its data are images, or phantoms.")],
    overrides: Overrides = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="New folder for the measurements; default simulated/NAME."),
    ] = None,
) -> None:
    """Make measurement files from images: what an operator would have measured, and a configuration
    that trains on it.

    Example: equipoise simulate configs/dicom.yaml --out measured
    """
    from .commands.simulate import simulate as run_simulate
    from .config import load_config

    settings = load_config(config, overrides)
    out = Path("simulated") / settings.name if out is None else out
    paths = run_simulate(settings, out)
    typer.echo(
        f"wrote {len(paths)} measurements to {out}/measurements; train on them with: equipoise "
        f"train {out}/config.yaml"
    )


@app.command()
def doctor(
    config: Annotated[Path, typer.Argument(help="YAML file of the run that is planned.")],
    overrides: Overrides = None,
    fix: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="New YAML file: the configuration with what the doctor would change."),
    ] = None,
) -> None:
    """Say in seconds whether a set-up can work: operator, data, group, cost; what is wrong, and
    what would mend it. Exit code 1 if something is wrong.

    Example: equipoise doctor configs/ct64.yaml
    """
    from .commands.doctor import examine
    from .commands.terminal import Status
    from .config import load_config

    if fix is not None:
        _fix(config, overrides, fix)
        return
    wrong = 0
    with Status() as status:
        for finding in examine(load_config(config, overrides), status.say):
            wrong += finding.verdict == "wrong"
            remedy = f"\n      → {finding.remedy}" if finding.remedy else ""
            status.print(f"{finding.verdict:<6}{finding.what}{remedy}")
    typer.echo("nothing wrong was found" if not wrong else f"{wrong} thing(s) to mend")
    if wrong:
        raise typer.Exit(1)


def _fix(config: Path, overrides: list[str] | None, out: Path) -> None:
    """`equipoise doctor CONFIG --fix OUT`."""
    from .commands.doctor.fix import write_fixed
    from .commands.terminal import Status

    with Status() as status:
        left = write_fixed(config, overrides, out, status.print, status.say)
    typer.echo(f"wrote {out}; train with: equipoise train {shlex.quote(str(out))}")
    if left:
        typer.echo(f"{left} thing(s) that no configuration mends")
        raise typer.Exit(1)


@app.command()
def init(
    data: Annotated[Path, typer.Argument(help="File or folder of any family that can be read.")],
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", "-o", help="New YAML file; default NAME.yaml."),
    ] = None,
) -> None:
    """Look at a file or folder, and write a commented configuration for it.

    Example: equipoise init ../shared/data/ct/dicom -o mine.yaml
    """
    from .commands.init import init as run_init

    run_init(data, out, typer.echo)


@app.command()
def pretrain(
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("denoiser.safetensors"),
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 14_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    architecture: Annotated[Architecture, typer.Option(help="Of the network.")] = Architecture.unet,
) -> None:
    """Train the denoiser that models start from, on synthetic images alone (shapes and phantoms).
    What was interrupted goes on when the command is given again.

    Example: equipoise pretrain --out denoiser.safetensors
    """
    if out.exists():
        raise UserError(f"{out}: exists; nothing was written. Name another file with --out")
    from .learning.pretrain import pretrain as run_pretrain

    scores = run_pretrain(
        out, steps=steps, seed=seed, architecture=architecture.value, say=typer.echo
    )
    typer.echo(f"wrote {out}: {scores}")


#: What NumPy says in place of an error number.
CUT_SHORT = re.compile(r"\d+ requested and \d+ written")
#: What torch says where no more memory is to be had.
NO_MEMORY = re.compile("can't allocate memory|out of memory")


def _is_out_of_memory(error: Exception) -> bool:
    is_torchs = isinstance(error, RuntimeError) and NO_MEMORY.search(str(error))
    return isinstance(error, MemoryError) or bool(is_torchs)


def _in_words(error: Exception) -> str:
    if _is_out_of_memory(error):
        return (
            f"there is not enough memory ({shortened(str(error), 200)}); lower data.size, "
            "learning.batch, or the number of views, detectors, shots or coils"
        )
    is_full = isinstance(error, OSError) and error.errno == errno.ENOSPC
    if not (is_full or CUT_SHORT.fullmatch(str(error))):
        return str(error)
    named = getattr(error, "filename", None)
    where = f" where {named} was to be written" if named else ""
    why = getattr(error, "strerror", None) or error
    return (
        f"the disk is full{where} ({why}); make room, and give the same command again: "
        "what was whole is kept"
    )


def main() -> None:
    """Entry point: errors that are the user's to mend are one paragraph, exit code 2."""
    keep_freed_memory()
    try:
        app()
    except (UserError, OSError, MemoryError, RuntimeError) as error:
        # OSError: a path that is a file, a full disk, no rights
        if _debug or (isinstance(error, RuntimeError) and not _is_out_of_memory(error)):
            raise
        typer.echo(f"error: {_in_words(error)}", err=True)
        sys.exit(GAVE_UP if isinstance(error, TrainingGaveUp) else USER_ERROR)
