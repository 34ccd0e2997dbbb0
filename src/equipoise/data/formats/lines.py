"""The lines of an ISMRMRD file: which of them are of the image, and where in k-space they lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..choice import Choice
from .encoding import Encoding

#: The bits of a line's flags, counted from 1.
NOISE = 19
CALIBRATION = 20
CALIBRATION_AND_IMAGE = 21
REVERSE = 22
#: Lines that are not of the image: noise, navigators, feedback and their like.
NOT_OF_THE_IMAGE = {
    NOISE: "noise",
    23: "navigators",
    24: "phase corrections",
    26: "feedback",
    27: "dummy scans",
    28: "feedback",
    29: "surface coil corrections",
    30: "phase stabilisation",
    31: "phase stabilisation",
}
#: Calibration lines of these modes are of the same contrast as the image.
SAME_CONTRAST = ("embedded", "interleaved")
SEPARATE = "separate calibration"
#: What one image has one of.
APART = ("contrast", "phase", "set", "kspace_encode_step_2")
#: What is left of the strength of points when they are averaged: of the same signal nearly all; of
#: noise, which is most of k-space by number and not by strength, one over the root of their number.
LEAST_LEFT = 0.5
#: A noise scan must have so many samples a coil, so that their covariance is known.
LEAST_NOISE = 10


def has(head: Any, flag: int) -> bool:
    return bool(int(head["flags"]) >> (flag - 1) & 1)


@dataclass
class Sorted:
    """The lines of a file, by what they are for."""

    image: list[Any] = field(default_factory=list)
    noise: list[Any] = field(default_factory=list)
    calibration: list[Any] = field(default_factory=list)  #: separate from the image
    left_out: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, lines: Sequence[Any], encoding: Encoding) -> Sorted:
        found = cls()
        for line in lines:
            reason = _reason_to_leave_out(line["head"], encoding)
            if not reason:
                found.image.append(line)
                continue
            found.left_out[reason] += 1
            if has(line["head"], NOISE):
                found.noise.append(line)
            elif reason == SEPARATE:
                found.calibration.append(line)
        return found


def _reason_to_leave_out(head: Any, encoding: Encoding) -> str:
    """Why a line is not of the image; nothing, if it is."""
    for flag, what in NOT_OF_THE_IMAGE.items():
        if has(head, flag):
            return what
    if int(head["encoding_space_ref"]) > 0:
        return "another encoding"
    is_calibration = has(head, CALIBRATION) and not has(head, CALIBRATION_AND_IMAGE)
    if is_calibration and encoding.calibration not in SAME_CONTRAST:
        return SEPARATE
    return ""


def counter(line: Any, name: str) -> int:
    return int(line["head"]["idx"][name])


def numbers_of(lines: Sequence[Any], name: str) -> list[int]:
    """The different values of a counter."""
    return sorted({counter(line, name) for line in lines})


def chosen(lines: list[Any], choice: Choice) -> tuple[list[Any], list[str]]:
    """The lines of what is asked for, and notes on what is averaged.

    Raises:
        ValueError: what is asked for is not there.
    """
    notes = []
    for name in ("contrast", "phase", "set", "repetition"):
        asked = getattr(choice, name)
        there = numbers_of(lines, name)
        if isinstance(asked, int):
            if asked not in there:
                raise ValueError(f"data.{name}={asked}: there are {name}s {there[:20]}")
            lines = [line for line in lines if counter(line, name) == asked]
        elif name == "repetition" and len(there) > 1:
            notes.append(
                f"{len(there)} repetitions are averaged; set data.repetition to one of "
                f"{there[0]} … {there[-1]} for one of them"
            )
    averages = len(numbers_of(lines, "average"))
    if averages > 1:
        notes.append(f"{averages} averages are averaged")
    return lines, notes


def noise_covariance(
    noise: Sequence[np.ndarray], dwell: tuple[float, float], bandwidth: float
) -> np.ndarray | None:
    """(coils, coils) of the noise in a sample of the image, from the lines (coils, n) of a noise
    scan; none, where they are too few.

    The variance of noise goes as the bandwidth, the inverse of the time between two samples
    (Kellman and McVeigh, MRM 2005).

    Args:
        noise: lines of the noise scan.
        dwell: the time between two samples of noise and of the image; 0: not known.
        bandwidth: the receiver's, relative to that of white noise.
    """
    samples = np.concatenate([np.asarray(line) for line in noise], axis=1).astype(np.complex128)
    coils, count = samples.shape
    if count < LEAST_NOISE * coils:
        return None
    covariance = samples @ samples.conj().T / count
    if min(dwell) > 0:
        covariance *= dwell[0] / (dwell[1] * bandwidth)
    return covariance


@dataclass(frozen=True)
class Plane:
    """The k-space of one slice."""

    samples: np.ndarray  #: (coils, phase, readout) complex
    times: np.ndarray  #: (phase, readout): how often each point was measured
    strength: np.ndarray  #: (phase, readout): sum of the norms over the coils, time by time

    @classmethod
    def empty(cls, coils: int, encoding: Encoding) -> Plane:
        size = (encoding.rows, encoding.columns)
        samples = np.zeros((coils, *size), np.complex64)
        return cls(samples, np.zeros(size, np.float32), np.zeros(size, np.float32))

    def add(self, row: int, start: int, samples: np.ndarray) -> None:
        """A line (coils, n), whose first sample is at ``start``."""
        end = start + samples.shape[1]
        self.samples[:, row, start:end] += samples
        self.times[row, start:end] += 1
        self.strength[row, start:end] += np.linalg.norm(samples, axis=0)

    def average(self) -> None:
        """
        Raises:
            ValueError: what was measured several times cancels itself.
        """
        again = self.times > 1
        whole = float(self.strength[again].sum())
        left = float(np.linalg.norm(self.samples[:, again], axis=0).sum())
        if left < LEAST_LEFT * whole:
            raise ValueError(
                f"points were measured {int(self.times.max())} times, and their mean has "
                f"{left / whole:.0%} of their strength (at least {LEAST_LEFT:.0%}, where they are "
                "repeats): their phases differ; undo that before, or write one of them alone"
            )
        self.samples[...] /= np.maximum(self.times, 1)


def row_and_start(line: Any, encoding: Encoding) -> tuple[int, int]:
    """Where in k-space a line lies: its row, and the column of its first sample.

    From its counters; or, where positions in k-space are stored for each sample, from these.

    Raises:
        ValueError: the positions are those of no line along the readout.
    """
    head = line["head"]
    row = counter(line, "kspace_encode_step_1") + encoding.row_shift
    start = encoding.columns // 2 - int(head["center_sample"])
    dimensions = int(head["trajectory_dimensions"])
    if dimensions < 2 or not len(line["traj"]):
        return row, start
    positions = np.asarray(line["traj"], np.float64).reshape(-1, dimensions)[:, :2]
    along, across = positions.T
    reach = float(np.abs(along).max())
    if reach == 0 or reach > 0.75:
        return row, start  # in units that nothing says
    steps = np.diff(along) * encoding.columns
    if np.ptp(across) * encoding.rows > 0.1 or (len(steps) and np.abs(steps - 1).max() > 0.1):
        raise ValueError(
            "the positions that are stored for its samples are not those of lines along the "
            "readout: it is not Cartesian"
        )
    first = along[0] * encoding.columns + encoding.columns // 2
    level = across[0] * encoding.rows + encoding.rows // 2
    return round(float(level)), round(float(first))
