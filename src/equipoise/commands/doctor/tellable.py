"""What no measurement tells of a tomographic set-up, and what to compare with."""

from __future__ import annotations

from ...imaging.tomography import FanGeometry, Tomography
from ...imaging.tomography.geometry import go_all_around
from .finding import Finding


def not_tellable(physics: Tomography) -> Finding:
    """What the doctor could not find, had it been wrong."""
    geometry = physics.geometry
    missed = ["the angle of the first view (it turns the image)"]
    if isinstance(geometry, FanGeometry):
        if not go_all_around(geometry.angles):
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
