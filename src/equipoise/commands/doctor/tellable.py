"""What no measurement tells of a tomographic set-up, and what to compare with."""

from __future__ import annotations

import numpy as np

from ...imaging.tomography import FanGeometry, Tomography
from ...imaging.tomography.geometry import view_gaps
from .finding import Finding


def not_tellable(physics: Tomography) -> Finding:
    """What the doctor could not find, had it been wrong."""
    geometry = physics.geometry
    missed = ["the angle of the first view (it turns the image)"]
    if isinstance(geometry, FanGeometry):
        if not covers_the_turn(physics):
            missed.append(
                "over less than a turn, small errors of the sense of rotation, of the angle that "
                "the views cover, of the distances and of the axis"
            )
    else:
        missed.append("the sense of rotation and the order first to last (they mirror it)")
    missed.append("the pixel's size (it scales the image and its values)")
    return Finding(
        "note",
        f"not tellable from any measurement: {'; '.join(missed)}",
        "compare a reconstruction with something in the scanner whose place, handedness, size and "
        "attenuation you know",
    )


def covers_the_turn(physics: Tomography) -> bool:
    """Whether the views go all around, without a gap of more than a twelfth of the turn."""
    gaps, _ = view_gaps(physics.geometry.angles, 360.0)
    return bool(np.max(gaps) <= 30.0)
