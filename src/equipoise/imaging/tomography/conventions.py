"""Where others put the axis of rotation, and how they count detectors and angles.

``ours``
    The axis is in the middle of the image and of the detector; sinograms are views × detectors.
``skimage`` (``skimage.transform.radon``)
    The axis is at pixel (H // 2, W // 2) and at detector n // 2; sinograms are detectors × views.
``astra`` (``astra.create_proj_geom("parallel" or "fanflat", …)``, angles in degrees)
    The axis is in the middle of both. Parallel beams are as ours; in a fan the source begins on the
    other side, and the detectors are counted the other way.

For odd sizes ``skimage`` and ``ours`` are the same.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from .geometry import Axis

Convention = Literal["ours", "skimage", "astra"]
CONVENTIONS: tuple[Convention, ...] = ("ours", "skimage", "astra")


class Layout(NamedTuple):
    """What a convention changes of a geometry."""

    axis: Axis  #: of rotation, (column, row) from the image's middle, in pixels
    offset: float  #: of the detector's middle from the axis' shadow, in detectors
    turn: float  #: degrees that are added to every angle
    mirrored: bool  #: whether the detectors are counted the other way


def layout(convention: str, beam: Literal["parallel", "fan"], h: int, w: int, n: int) -> Layout:
    """What ``convention`` means for images of (h, w) pixels and n detectors.

    Raises:
        ValueError: there is no such convention, or not for this beam.
    """
    if convention not in CONVENTIONS:
        known = ", ".join(CONVENTIONS)
        raise ValueError(f"convention must be one of {known}, got {convention!r}")
    if convention == "skimage":
        if beam == "fan":
            raise ValueError(
                "convention must be ours or astra for a fan beam, got 'skimage', which has "
                "parallel beams alone"
            )
        axis = (w // 2 - (w - 1) / 2, h // 2 - (h - 1) / 2)
        return Layout(axis, (n - 1) / 2 - n // 2, 0.0, False)
    if convention == "astra" and beam == "fan":
        return Layout((0.0, 0.0), 0.0, 180.0, True)
    return Layout((0.0, 0.0), 0.0, 0.0, False)
