"""From what the doctor found to what the configuration should say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ...config import Config
from ...data.counts.looks import look_like_counts
from ...data.dataset import Dataset
from ...data.formats import open_path
from ...data.scan import Scan
from ...data.settings import FileSettings, SinogramSettings
from ...errors import UserError
from ...imaging.tomography.geometry import FanGeometry
from ...imaging.tomography.settings import RaysSettings
from ...run import described, load_training_data
from .causes import Cause
from .finding import Finding


def changes_of(config: Config, sample: Dataset, cause: Cause) -> tuple[dict[str, Any], str]:
    """What the configuration should say, by dotted key, and what has to be done by hand."""
    settings = sample.scan.settings
    assert isinstance(settings, RaysSettings)
    if cause.name == "axis":
        moved = cause.trial.geometry.offset - sample.scan.physics.geometry.offset
        value = round(settings.assumed_offset(sample.scan.size) + moved * settings.bin, 2)
        return {"physics.offset": value, "physics.axis_offset": None}, ""
    if cause.name == "magnification":
        return _other_distances(settings, cause, sample), ""
    if cause.trial.values == "transposed":
        return {"data.layout": "transposed"}, " (or set data.layout=transposed)"
    if cause.trial.values == "line integrals":
        open_beam = _open_beam(sample)
        by_hand = f" (or set data.values=counts and data.white={open_beam:g})"
        return {"data.values": "counts", "data.white": open_beam}, by_hand
    return _other_angles(settings, sample, cause)


def _other_angles(
    settings: RaysSettings, sample: Dataset, cause: Cause
) -> tuple[dict[str, Any], str]:
    """The angles of all views of a file. A scanner that turns the other way needs no list."""
    if cause.name == "sense":
        return {"physics.sense": -settings.sense}, f" (or set physics.sense={-settings.sense})"
    assert cause.trial.turn is not None
    setup = settings.setup(sample.scan.size)
    is_all = len(setup.chosen) == len(setup.angles)
    if cause.name == "order" and not is_all:
        return {}, ""  # what was tried are the rows that are used, not those of the file
    angles = cause.trial.turn(np.asarray(setup.angles))
    value = _shortest(angles, settings.usual_period)
    return {"physics.angles": value, "physics.sense": None, "physics.start": None}, ""


def _shortest(angles: np.ndarray, period: float) -> int | list[float]:
    """The number of views, where they are evenly spread; else all of them."""
    even = period * np.arange(len(angles)) / len(angles)
    if np.abs(angles - even).max() < 0.01 * period / len(angles):
        return len(angles)
    return [round(float(angle), 4) for angle in angles]


def _other_distances(settings: RaysSettings, cause: Cause, sample: Dataset) -> dict[str, Any]:
    old, new = sample.scan.physics.geometry, cause.trial.geometry
    assert isinstance(old, FanGeometry)
    assert isinstance(new, FanGeometry)
    scale = new.source_distance / old.source_distance
    changes: dict[str, Any] = {}
    for key in ("source_distance", "detector_distance", "source_to_axis", "source_to_detector"):
        value = getattr(settings, key, None)
        if value is None and settings.read is not None:
            value = getattr(settings.read, key, None)
        if value is not None:
            changes[f"physics.{key}"] = float(f"{value * scale:.4g}")
    return changes


def _open_beam(sample: Dataset) -> float:
    """The brightest counts, in the units of the file."""
    y = sample.measurements()
    scale = sample.items[0].units.counts_as_one / sample.scan.gain
    values = y.flatten()
    few = values if values.numel() < 1 << 23 else values[:: values.numel() >> 22]
    return float(f"{float(few.quantile(0.99)) * scale:.4g}")


def unreadable(config: Config, error: UserError) -> Finding:
    """That the data cannot be read; and what they would have to be taken for, if that mends it."""
    what = f"the data cannot be read: {error}"
    settings, data = config.physics, config.data
    if not isinstance(settings, RaysSettings) or not isinstance(data, SinogramSettings):
        return Finding("wrong", what)
    for words, changes in _other_readings(config):
        options = {key.removeprefix("data."): value for key, value in changes.items()}
        if _can_be_read(config.model_copy(update={"data": data.model_copy(update=options)})):
            said = ", ".join(f"{key}={value}" for key, value in changes.items())
            return Finding("wrong", f"{what}; {words}", f"set {said}", changes)
    return Finding("wrong", what)


def _other_readings(config: Config) -> Iterator[tuple[str, dict[str, Any]]]:
    transposed = "views and detectors are swapped: transposed, they fit"
    yield transposed, {"data.layout": "transposed"}
    assert isinstance(config.data, FileSettings)
    try:
        item = open_path(config.data.path, config.data.variable)[0]
        values = np.asarray(item.array(), dtype=np.float64)
    except (UserError, OSError):
        return
    if look_like_counts(values):
        white = float(f"{np.quantile(values, 0.99):.4g}")
        words = (
            "these are counts behind the object, not line integrals; the brightest are taken for "
            "the open beam"
        )
        yield words, {"data.values": "counts", "data.white": white}


def _can_be_read(config: Config) -> bool:
    try:
        config = described(config)
        scan = Scan.planned(config.physics, config.data.size, config.seed)
        load_training_data(config, scan)
    except UserError:
        return False
    return True
