"""What a trained network is: its invariance, its Jacobian, its prior, its error; beside the same
figures of other networks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..assessment import figures
from ..assessment.network import MEASURES, Measured, NetworkMeasurements, measure_network
from ..assessment.page import page
from ..assessment.table import Cell, Column, Missing, Row, Table, Value, reason_of
from ..assessment.words import command_line
from ..config import dump
from ..data.dataset import Dataset
from ..equilibrium import Implicit, Stop
from ..errors import UserError
from ..imaging.groups import Rotations
from ..machine import check_writable, is_empty, json_text, write_whole
from ..reconstruction.denoisers import Invariant
from ..reconstruction.model import EquilibriumReconstructor
from ..run import Run, unseen
from .plugged import untrained

IMAGES = 4
#: Tight enough that what is measured is of the equilibrium.
FORWARD, ADJOINT = Stop(1e-4, 100), Stop(1e-3, 60)


@dataclass
class Diagnosis:
    """What was measured of some networks.

    Args:
        about: the command, the data and the measures.
        networks: name → what was measured; a network that could not be measured is left out.
        table: a row for each measure, a column for each network (or for the seeds of one).
        folder: where it is kept.
    """

    about: dict[str, Any]
    networks: dict[str, NetworkMeasurements]
    table: Table
    folder: Path


@dataclass
class _Network:
    name: str
    model: EquilibriumReconstructor
    kind: str  #: the same for networks that differ in their seed alone


def diagnose(
    run: Run,
    others: list[Run],
    data: Path | None = None,
    folder: Path | None = None,
    say: Callable[[str], None] = print,
    images: int = IMAGES,
    forward: Stop = FORWARD,
    adjoint: Stop = ADJOINT,
) -> Diagnosis:
    """Measures ``run``, its start, its group average and ``others`` on a few images that training
    did not see.

    Runs that differ in their seed alone share a column: mean ± standard deviation. A network that
    cannot be measured keeps its column, which says why. Writes diagnosis.json, table.md and
    report.html.

    Args:
        run: that is diagnosed.
        others: beside it.
        data: images; None: the configuration's ``data.validation``, held-out patients or phantoms.
        folder: where to; None: ``diagnosis`` in the run's.
        say: takes a line for the user.
        images: how many.
        forward: how tightly equilibria are solved for.
        adjoint: likewise the adjoint equation.

    Raises:
        UserError: there are no unseen images; a network is unrolled; others were made for other
            data or another operator.
    """
    _check_comparable(run, others)
    folder = run.folder / "diagnosis" if folder is None else folder
    if folder.exists() and not (is_empty(folder) or (folder / "diagnosis.json").exists()):
        raise UserError(
            f"{folder}: is not empty and no diagnosis; nothing was written. Name another folder "
            "with --out"
        )
    check_writable(folder)
    dataset, what = unseen(run.config, run.scan, data)
    dataset = dataset.spread(images)
    networks = _networks(run, others, dataset)
    measured: dict[str, NetworkMeasurements] = {}
    reasons: dict[str, Missing] = {}
    y, physics, truth = dataset.batch(torch.arange(len(dataset)))
    for network in networks:
        model = network.model.eval()
        model.stop, model.gradient = forward, Implicit(stop=adjoint)
        model.on_failure = "ignore"
        try:
            measured[network.name] = measure_network(model, physics, y, truth)
            say(f"measured: {network.name}")
        except Exception as error:  # of any kind: its column says which
            reasons[network.name] = Missing(reason_of(error), failed=True)
            say(f"not measured: {network.name}: {reasons[network.name].reason}")
    table = _table(networks, measured, reasons)
    about = {
        "command": command_line(),
        "data": what,
        "images": len(dataset),
        "measures": {key: measure.title for key, measure in MEASURES.items()},
    }
    diagnosis = Diagnosis(about, measured, table, folder)
    _write(diagnosis, run, _columns(networks))
    return diagnosis


def _check_comparable(run: Run, others: list[Run]) -> None:
    folders = [one.folder.resolve() for one in (run, *others)]
    for one in (run, *others):
        if folders.count(one.folder.resolve()) > 1:
            raise UserError(
                f"{one.folder}: is named twice, and would count as two seeds; name each run once"
            )
        if one.config.model.gradient.kind == "unrolled":
            raise UserError(
                f"{one.folder}: is unrolled, so there is no equilibrium to look at; leave it out"
            )
        if (one.config.data, one.config.physics) != (run.config.data, run.config.physics):
            raise UserError(
                f"{one.folder} and {run.folder} differ in data or physics, so their figures cannot "
                "stand side by side"
            )


def _networks(run: Run, others: list[Run], dataset: Dataset) -> list[_Network]:
    """The run's start, the run, its average over quarter turns, and the others."""
    name = run.config.name
    start = untrained(run.config, dataset.scan)
    trained = _Network(name, copy.deepcopy(run.model), _but_seed(run))
    networks = [_Network("before training", start, "before training"), trained]
    height, width = dataset.scan.image_shape[-2:]
    if run.config.model.invariant == "none" and height == width:
        averaged = copy.deepcopy(run.model)
        averaged.step.denoiser = Invariant(averaged.step.denoiser, Rotations(multiples=90))
        title = f"{name}, averaged over quarter turns"
        networks.append(_Network(title, averaged, title))
    for other in others:
        names = [network.name for network in networks]
        title = other.folder.name if other.folder.name not in names else str(other.folder)
        networks.append(_Network(title, copy.deepcopy(other.model), _but_seed(other)))
    return networks


def _but_seed(run: Run) -> str:
    return dump(run.config.model_copy(update={"seed": 0, "name": "run", "out": None}))


def _columns(networks: list[_Network]) -> dict[str, list[str]]:
    """Title → names of the networks that share the column."""
    alike: dict[str, list[str]] = {}
    for network in networks:
        alike.setdefault(network.kind, []).append(network.name)
    titled: dict[str, list[str]] = {}
    for names in alike.values():
        title = names[0] if len(names) == 1 else f"{names[0]}, {len(names)} seeds"
        titled[title] = names
    return titled


def _table(
    networks: list[_Network],
    measured: dict[str, NetworkMeasurements],
    reasons: dict[str, Missing],
) -> Table:
    columns = _columns(networks)
    table = Table("", [Column(title, title) for title in columns], remarks="")
    for key, measure in MEASURES.items():
        cells: dict[str, Cell] = {}
        for title, names in columns.items():
            missing = [reasons[name] for name in names if name in reasons]
            values = [
                measured[n].table[key] for n in names if n in measured and key in measured[n].table
            ]
            if missing:
                cells[title] = missing[0]
            elif values:
                cells[title] = _cell(values)
            else:
                cells[title] = Missing(measure.without)
        table.rows.append(Row(key, measure.title, cells, form=measure.form))
    return table


def _cell(values: list[Measured]) -> Value:
    """The value and its error, or, of several seeds, their mean and standard deviation."""
    plain = [value["value"] if isinstance(value, dict) else value for value in values]
    numbers = torch.tensor(plain, dtype=torch.float64)
    if len(values) > 1:
        return Value(float(numbers.mean()), float(numbers.std()))
    (only,) = values
    return Value(only["value"], only["error"]) if isinstance(only, dict) else Value(only)


def _write(diagnosis: Diagnosis, run: Run, columns: dict[str, list[str]]) -> None:
    folder, about = diagnosis.folder, diagnosis.about
    folder.mkdir(parents=True, exist_ok=True)
    tree = {
        "about": about,
        "networks": {name: asdict(found) for name, found in diagnosis.networks.items()},
        "table": diagnosis.table.as_json(),
    }
    write_whole(folder / "diagnosis.json", json_text(tree, indent=1))
    head = f"`{about['command']}`, {about['images']} images\n\n"
    write_whole(folder / "table.md", head + diagnosis.table.markdown())
    drawn = {
        names[0]: diagnosis.networks[names[0]]
        for names in columns.values()
        if names[0] in diagnosis.networks
    }
    page(
        folder / "report.html",
        f"Diagnosis of {run.config.name}",
        _words(about),
        _figures(drawn, folder),
        table=diagnosis.table,
        table_title="Measures",
        config=dump(run.config),
    )


def _figures(networks: dict[str, NetworkMeasurements], folder: Path) -> list[tuple[bytes, str]]:
    gaps = figures.gaps({name: found.curves for name, found in networks.items()})
    forward = {name: found.residuals for name, found in networks.items()}
    adjoint = {name: found.adjoint for name, found in networks.items()}
    residuals = figures.residuals(forward, adjoint)
    return [
        (
            figures.save_png(gaps, folder / "gaps.png"),
            "Equivariance gap of the network and of its denoiser",
        ),
        (
            figures.save_png(residuals, folder / "residuals.png"),
            "Residuals of the forward and the adjoint solve",
        ),
    ]


def _words(about: dict[str, Any]) -> list[str]:
    return [
        f"Measured on {about['images']} images of {about['data']}: value ± error (of an asymmetry "
        "the standard error over probes, of an eigenvalue or singular value the residual bound, "
        "else the standard error over images), or mean ± standard deviation over seeds. "
        "Asymmetry, eigenvalues (of the symmetric part) and singular values are those of the "
        "Jacobian, of the image where they are lowest or highest; Lanczos iteration found them: "
        "the smallest may be smaller yet. "
        "A proximal map has asymmetry 0, no negative eigenvalue and no path dependence; its prior "
        "is invariant if the gaps are 0.",
        f"Command: {about['command']}",
    ]
