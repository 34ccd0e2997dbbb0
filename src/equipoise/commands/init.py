"""equipoise init: a commented configuration for the files that somebody has."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..config import Config, parse
from ..data.formats import may_hold_either, open_path
from ..data.formats.base import IS_ANGLE
from ..data.formats.matlab import variables
from ..data.formats.projections import degrees_of
from ..data.item import HOUNSFIELD, Item
from ..data.scan import Scan
from ..errors import UserError
from ..imaging.linear import least_squares
from ..imaging.tomography import Tomography
from ..imaging.tomography.geometry import ParallelGeometry, view_angles
from ..machine import write_whole
from ..run import described, load_data
from .doctor.noise import measured_noise
from .doctor.trials import Judge, is_brighter_outside

#: What the user has to look at is marked so.
FILL_IN = "FILL IN"
#: At most so many pixels each way, detectors and views are proposed for a first run.
PIXELS, DETECTORS, VIEWS = 128, 160, 90
#: As many items are looked at.
SAMPLES = 4

Say = Callable[[str], None]


class Line(NamedTuple):
    """A key, its value, and what is to be said about it."""

    key: str
    value: Any
    comment: str = ""


class Draft(NamedTuple):
    """Sections of a configuration, line by line, and what was found in the files."""

    found: list[str]
    data: list[Line]
    physics: list[Line]
    others: dict[str, list[Line]]


def init(path: str | Path, out: str | Path | None = None, say: Say = print) -> Path:
    """Looks at a file or folder and writes a configuration for it.

    Args:
        path: measurements, k-space or images, of any family that can be read.
        out: the new YAML file; none: NAME.yaml here.
        say: is told what was found, and what comes next.

    Returns:
        The file that was written.

    Raises:
        UserError: the files cannot be read, or ``out`` exists.
    """
    path = Path(path)
    out = Path(f"{_plain(path)}.yaml") if out is None else Path(out)
    if out.exists():
        raise UserError(f"{out}: exists; nothing was written. Name another file with --out")
    draft = draft_of(path)
    text = written(draft, path, out)
    write_whole(out, text)
    for line in draft.found:
        say(line)
    count = text.count(f"# {FILL_IN}")
    if count:
        say(f"{count} line(s) of {out} are marked {FILL_IN}: what no file says")
    say(f"wrote {out}; next: equipoise doctor {shlex.quote(str(out))}")
    return out


def _plain(path: Path) -> str:
    """A name that a run may have."""
    name = path.resolve().name.split(".")[0] or "run"
    return re.sub(r"[^\w\-]+", "-", name)


def draft_of(path: Path) -> Draft:
    """What a configuration for these files says."""
    items = open_path(path)
    found = [_found(path, items)]
    if items[0].geometry is not None:
        draft = _tomograph(path, items, found)
    elif items[0].complex and items[0].holds != "image":
        draft = _kspace(path, items, found)
    elif items[0].holds == "image" and not may_hold_either(items):
        draft = _images(path, items, found)
    else:
        draft = _arrays(path, items, found)
    return _with_units(draft, path)


def _found(path: Path, items: Sequence[Item]) -> str:
    """One line on what is there."""
    first = items[0]
    shapes = {item.shape for item in items}
    files = {item.file for item in items}
    patients = {item.patient for item in items if item.patient}
    shape = " × ".join(map(str, first.shape))
    what = {"image": "images", "kspace": "k-space", "measurement": "measurements"}[first.holds]
    many = f" (and {len(shapes) - 1} other sizes)" if len(shapes) > 1 else ""
    numbers = "complex" if first.complex else "real"
    return (
        f"{path}: {first.format}, {len(items)} {what} of {shape}{many}, {numbers} numbers, in "
        f"{len(files)} file(s) of {max(1, len(patients))} patient(s) or scan(s)"
    )


# ------------------------------------------------------------------------------- tomography


def _tomograph(path: Path, items: list[Item], found: list[str]) -> Draft:
    """A file that says what its scanner did."""
    read = items[0].geometry
    assert read is not None
    for note in items[0].notes:
        found.append(f"note: {note}")
    kind = f"{read.beam or 'parallel'}_beam"
    views = items[0].shape[0] if read.angles is None else len(read.angles)
    detectors = read.detectors or items[0].shape[-1]
    said = [name for name in type(read).model_fields if getattr(read, name) is not None]
    said = [name for name in said if name not in ("source", "beam")]
    found.append(f"the file says: {', '.join(said)}")
    beam = [] if read.beam else [f"{FILL_IN}: the file does not say; parallel_beam or fan_beam"]
    physics = [Line("kind", kind, "; ".join(beam)), *_fewer(views, detectors)]
    if read.angles is None:
        physics.append(Line("angles", views, f"{FILL_IN}: how many over the turn, or degrees"))
    physics.append(Line("offset", "auto", "the axis of rotation is found in the measurements"))
    binned = detectors // _binning(detectors)
    data = [
        Line("path", str(path)),
        Line("kind", "measurements"),
        Line("size", _round_size(binned), "pixels each way"),
    ]
    return Draft(found, data, physics, _learning(items))


def _fewer(views: int, detectors: int) -> list[Line]:
    """Views and detectors that a first run takes."""
    lines = []
    every = -(-views // VIEWS)
    if every > 1:
        lines.append(
            Line(
                "views",
                every,
                f"one of {every} of the {views} views; 1: all of them",
            )
        )
    bin = _binning(detectors)
    if bin > 1:
        lines.append(Line("bin", bin, f"{detectors} detectors become {detectors // bin}"))
    return lines


def _binning(detectors: int) -> int:
    return -(-detectors // DETECTORS)


def _round_size(most: int) -> int:
    """Pixels each way: at most as many as detectors, a multiple of 8."""
    return max(8, min(PIXELS, most // 8 * 8))


def _arrays(path: Path, items: list[Item], found: list[str]) -> Draft:
    """Bare arrays: sinograms, of which nothing is known but their numbers."""
    first = items[0]
    shape = tuple(n for n in first.shape if n > 1)
    if len(shape) not in (2, 3):
        raise UserError(
            f"{first.file}: an array of shape {first.shape} is no sinogram (views × detectors) and "
            "no stack of them; save those"
        )
    sinogram = _some(items)
    guess = _guessed(sinogram)
    views, detectors = sinogram.shape[-2:]
    layout = []
    if guess.is_transposed:
        views, detectors = detectors, views
        layout = [Line("layout", "transposed", "detectors × views: so they contradict least")]
    data = [
        Line("path", str(path)),
        Line("kind", "measurements", "images, if these arrays are images"),
        *layout,
        Line("size", _round_size(detectors // _binning(detectors)), "pixels each way"),
    ]
    if guess.open_beam is not None:
        data.append(Line("values", "counts", "brightest beside the object: counts, no −log yet"))
        data.append(
            Line("white", guess.open_beam, f"{FILL_IN}: counts with nothing in the way, or a file")
        )
    angles = _angles_beside(first.file, views)
    if angles is None:
        span = f"{views} views spread evenly over {guess.span}°"
        value: Any = views
        if guess.span == 360:
            value = [round(float(angle), 4) for angle in view_angles(views, 360.0)]
        angles = Line("angles", value, f"{FILL_IN}: {span} are assumed; a list: each in degrees")
        missing = "Angles, distances and the pixel are in no such file"
    else:
        missing = f"Angles are {angles.comment}; distances and the pixel are in no such file"
    found.append(f"taken for sinograms; {guess.words}. {missing}")
    physics = [
        Line("kind", "parallel_beam", f"{FILL_IN}: or fan_beam, with the distances"),
        angles,
        *[line for line in _fewer(1, detectors)],
        Line("detectors", detectors),
        Line("offset", "auto", "the axis of rotation is found in the measurements"),
        Line("pixel", 1.0, f"{FILL_IN}: a pixel's side in your unit of length"),
    ]
    return Draft(found, data, physics, _learning(items))


def _angles_beside(file: Path, views: int) -> Line | None:
    """The angles that stand beside the sinograms in a file of several arrays, if they do."""
    stored: dict[str, Any] = {}
    if file.suffix == ".npz":
        with np.load(file) as arrays:
            stored = {name: arrays[name] for name in arrays.files if IS_ANGLE.search(name)}
    elif file.suffix == ".mat":
        stored = {name: v for name, v in variables(file).items() if IS_ANGLE.search(name)}
    for name, values in stored.items():
        numbers = np.asarray(values)
        if numbers.size == views and numbers.dtype.kind in "iuf" and np.isfinite(numbers).all():
            degrees, note = degrees_of(numbers, "")
            assert degrees is not None
            note = f", which {note}" if note else ""
            return Line("angles", degrees.round(6).tolist(), f"those of {name!r} in the file{note}")
    return None


def _some(items: Sequence[Item]) -> np.ndarray:
    """(B, rows, columns) of the first few sinograms."""
    values = np.asarray(items[0].array(), dtype=np.float64)
    values = values.reshape(-1, *values.shape[-2:])
    places = np.unique(np.linspace(0, len(values) - 1, min(len(values), SAMPLES)).round())
    chosen: np.ndarray = values[places.astype(int)]
    return chosen


class _Guess(NamedTuple):
    is_transposed: bool
    span: int
    open_beam: float | None
    words: str


def _guessed(y: np.ndarray) -> _Guess:
    """Which axis is the views', over half a turn or a whole one, and whether these are counts:
    what contradicts itself least."""
    open_beam = None
    for values in (y, y.swapaxes(-1, -2)):
        if is_brighter_outside(values):
            open_beam = float(f"{np.quantile(values, 0.99):.4g}")
    if open_beam is not None:
        y = -np.log(np.maximum(y, 1e-6 * y.max()) / open_beam)
    costs = {}
    for is_transposed in (False, True):
        values = y.swapaxes(-1, -2) if is_transposed else y
        views, detectors = values.shape[-2:]
        for span in (180, 360):
            angles = view_angles(views, float(span))
            geometry = ParallelGeometry(detectors, detectors, angles, detectors, 0.0)
            try:
                costs[is_transposed, span] = Judge(geometry, values).by_fit(geometry)
            except (ValueError, ZeroDivisionError):
                continue
    best = min(costs, key=lambda key: costs[key], default=(False, 180))
    if costs.get((False, 180), np.inf) < 1.2 * costs.get(best, np.inf):
        best = (False, 180)
    axes = "columns are views" if best[0] else "rows are views"
    return _Guess(*best, open_beam, f"{axes}, over {best[1]}°: so they contradict each other least")


# ------------------------------------------------------------------------------- k-space, images


def _kspace(path: Path, items: list[Item], found: list[str]) -> Draft:
    for note in dict.fromkeys(note for item in items[:SAMPLES] for note in item.notes):
        found.append(f"note: {note}")
    plane = np.asarray(items[0].array())
    measured = np.abs(plane).reshape(-1, *plane.shape[-2:]).max(0) > 0
    rows, columns = measured.any(1), measured.any(0)
    lines = (
        f"{int(rows.sum())} of {rows.size} rows and {int(columns.sum())} of {columns.size} columns "
        f"hold samples, {measured.mean():.1%} of the points"
    )
    found.append(lines)
    data = [Line("path", str(path)), Line("kind", "measurements")]
    physics = [
        Line("kind", "mri", "mask, coil maps, noise and scale come from the data"),
        Line("acceleration", 4, "of what is fully sampled, which is undersampled first"),
    ]
    others = {
        "model": [Line("sigma", 0.08)],
        "objective": [Line("equivariance", 0), Line("splitting", 1)],
        "learning": [Line("steps", 100), Line("batch", 1), Line("warmup", 10)],
    }
    return Draft(found, data, physics, others)


def _images(path: Path, items: list[Item], found: list[str]) -> Draft:
    for note in dict.fromkeys(note for item in items[:SAMPLES] for note in item.notes):
        found.append(f"note: {note}")
    size = _image_line({item.shape[-2:] for item in items})
    patients = len({item.patient for item in items})
    is_ct = items[0].units == HOUNSFIELD
    data = [
        Line("path", str(path)),
        Line("kind", "images", "they are measured as physics says, and put aside"),
        size,
    ]
    if items[0].units_from == "nothing":
        data.append(Line("units", "auto", "hounsfield, magnitude, or the value that counts as 1"))
    if patients >= 5:
        data.append(Line("holdout", 0.2, f"of {patients} patients, to score on"))
    if len(items) > 500:
        data.append(Line("sample", 500, f"of {len(items)}"))
    asked = f"{FILL_IN}: what would have measured them"
    if is_ct:
        physics = [Line("kind", "parallel_beam", asked), Line("angles", 30, "views over 180°")]
    else:
        physics = [Line("kind", "mri", asked), Line("acceleration", 4)]
    physics.append(Line("noise", 0.001, "as a fraction of the largest measurement"))
    return Draft(found, data, physics, _learning(items))


def _image_line(shapes: set[tuple[int, ...]]) -> Line:
    """data.size: of images that are not square, in their proportion."""
    rows, columns = min(shapes)
    if rows == columns:
        smallest = min(min(shape) for shape in shapes)
        return Line("size", _round_size(smallest), "pixels each way; larger are averaged down")
    times = -(-max(rows, columns) // PIXELS)
    remark = "[rows, columns] in the proportion of the images"
    if len(shapes) > 1:
        remark += f"; {FILL_IN}: they have {len(shapes)} sizes"
    return Line("size", [rows // times, columns // times], remark)


def _learning(items: Sequence[Item]) -> dict[str, list[Line]]:
    count = sum(item.shape[0] if len(item.shape) == 3 else 1 for item in items)
    return {"learning": [Line("steps", 300), Line("batch", max(1, min(4, count)))]}


# ------------------------------------------------------------------------------- units and text


def _with_units(draft: Draft, path: Path) -> Draft:
    """The draft with data.peak and physics.noise, where measurements tell them; what cannot be
    read as drafted is said."""
    try:
        config = _config(draft)
        config = described(config)
        scan = Scan.planned(config.physics, config.data.size)
        dataset = load_data(config, scan).spread(SAMPLES)
    except UserError as error:
        draft.found.append(f"as drafted, the data cannot be read yet: {error}")
        return draft
    physics: Any = dataset.scan.physics
    if dataset.truth is not None or not isinstance(physics, Tomography):
        return draft
    y = dataset.measurements()
    x = least_squares(physics.A, physics.A_adjoint, y, 1e-3, 30).value
    if float(y.mean()) < 0:
        draft.found.append(
            "the values are negative on average: line integrals are −log(I / I₀); multiply them by "
            "−1"
        )
    top = float(f"{float(x.flatten().abs().quantile(0.999)):.2g}")
    if top > 0:
        draft.data.append(Line("peak", top, "the value of x that counts as 1: the brightest here"))
    found = measured_noise(y)
    if found:
        noise = float(f"{found / float(y.abs().max()):.1g}")
        draft.physics.append(Line("noise", noise, "found in the data's finest detail"))
    return draft


def _config(draft: Draft) -> Config:
    tree: dict[str, Any] = {
        "data": {line.key: line.value for line in draft.data},
        "physics": {line.key: line.value for line in draft.physics},
    }
    for section, lines in draft.others.items():
        tree[section] = {line.key: line.value for line in lines}
    return parse(tree, "the draft")


def written(draft: Draft, path: Path, out: Path) -> str:
    """The draft as YAML with comments."""
    is_here = out.parent.resolve() == Path.cwd().resolve()
    lines = [f"# {line}" for line in draft.found]
    lines += [
        "#",
        f"#   equipoise doctor {shlex.quote(str(out))}    asks what is wrong, in seconds",
        f"#   equipoise train {shlex.quote(str(out))}",
        f"# Lines marked {FILL_IN} say what no file does; the values there are assumptions.",
    ]
    name = re.sub(r"[^\w.\-]+", "-", out.stem)
    if name != out.stem:  # of which a run is called where nothing is said
        lines.append(f"name: {name}")
    sections = {"data": draft.data, "physics": draft.physics, **draft.others}
    for section, rows in sections.items():
        lines.append(f"{section}:")
        for key, value, comment in rows:
            if key == "path" and not is_here:
                value = str(path.resolve())
            shown = _shown(value)
            lines.append(f"  {key}: {shown}{'  # ' + comment if comment else ''}")
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    if isinstance(value, str):
        plain = re.fullmatch(r"[\w./\-]+", value) and not value.isdigit()
        return value if plain else json.dumps(value, ensure_ascii=False)  # JSON is YAML
    return str(value)


__all__ = ["Draft", "Line", "draft_of", "init", "written"]
