"""What real scans are judged by: there is no truth, but there are the views that nobody used.

Which reference is taken decides who wins, so there are three. The misfit on the unseen views is
the only one that no other reconstruction has made. The least squares solution from all views has
the same grid, the same forward model, and the noise that it fits; filtered backprojection of all
views and all detectors on a finer grid has none of them, and artefacts of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..data.dataset import Dataset
from ..data.sinograms import unseen_item
from ..errors import UserError
from ..imaging.tomography.fbp import fan_fbp, parallel_fbp
from ..imaging.tomography.geometry import FanGeometry, Geometry, refined
from ..imaging.tomography.settings import RaysSettings
from ..imaging.tomography.setup import Setup
from .baselines import truncated_least_squares
from .metrics import SMALLEST_ERROR, misfit

#: Of conjugate gradients: the noise is not fitted yet.
ITERATIONS = 25
#: The finer grid has this many pixels each way, at least.
FINE = 512
#: Pixels that are left out inside the edge of what every view sees.
MARGIN = 2

CONVENTIONS = (
    "unseen misfit: ‖A x − y‖/‖y‖ over the views that were not used; PSNR to LS: to the least "
    f"squares solution from all views ({ITERATIONS} iterations of conjugate gradients on the "
    "working grid); PSNR to FBP: to filtered backprojection (ramp) of all views and detectors on "
    "a grid of 512² at least, averaged down; both with data range 1 in model units, inside the "
    "circle that every view sees"
)


@dataclass(frozen=True)
class Reference:
    """N scans at all of their views."""

    unseen: Dataset  #: the views that were not used
    least_squares: Tensor  #: (N, 1, H, W) from all views, on the working grid
    backprojection: Tensor | None  #: (N, 1, H, W) on a finer grid, averaged down; None: a short arc
    circle: Tensor  #: (H, W) bool, what every view sees

    def scores(self, x: Tensor) -> dict[str, list[float]]:
        """Of images (N, 1, H, W), by the names of :data:`MEASURES`, a value for each image."""
        found = {"unseen": self.misfit(x).tolist()}
        found["to_least_squares"] = self.psnr(x, self.least_squares).tolist()
        if self.backprojection is not None:
            found["to_fbp"] = self.psnr(x, self.backprojection).tolist()
        return found

    def misfit(self, x: Tensor) -> Tensor:
        """(N,) ‖A x − y‖/‖y‖ over the unseen views."""
        return unseen_misfit(x, self.unseen)

    def psnr(self, x: Tensor, reference: Tensor) -> Tensor:
        """(N,) in dB, inside the circle."""
        difference = x.double().clamp(0, 1) - reference.double().clamp(0, 1)
        error = difference[:, 0, self.circle].square().mean(1)
        return -10 * error.clamp_min(SMALLEST_ERROR).log10()

    def apart(self) -> float | None:
        """How far the two references are from each other, a PSNR in dB."""
        if self.backprojection is None:
            return None
        return float(self.psnr(self.least_squares, self.backprojection).mean())


#: What :meth:`Reference.scores` tells → its heading.
MEASURES = {
    "unseen": "unseen misfit",
    "to_least_squares": "PSNR to LS (dB)",
    "to_fbp": "PSNR to FBP (dB)",
}


def unseen_misfit(x: Tensor, unseen: Dataset) -> Tensor:
    """(N,) ‖A x − y‖/‖y‖ of images (N, 1, H, W) over the views that were not used."""
    y, physics, _ = unseen.batch(torch.arange(len(unseen)))
    return misfit(x.to(y), y, physics)


def has_unseen_views(dataset: Dataset) -> bool:
    """Whether the files hold views of the same scans that are not used.

    Images that are measured here have their truth, which is a better judge.
    """
    scan = dataset.scan
    if dataset.truth is not None or dataset.streamed or not isinstance(scan.settings, RaysSettings):
        return False
    if any(item.holds != "measurement" or item.whole is None for item in dataset.items):
        return False
    return bool(scan.settings.left_out(scan.settings.setup(scan.size)))


def unseen_views(dataset: Dataset) -> Dataset | None:
    """The views of the same scans that were not used; None where there are none."""
    return dataset.unseen() if has_unseen_views(dataset) else None


def reference_of(dataset: Dataset) -> Reference | None:
    """The judges of scans whose files hold more views than are used; None for other data."""
    unseen = unseen_views(dataset)
    if unseen is None:
        return None
    scan = dataset.scan
    settings: Any = scan.settings
    setup = settings.setup(scan.size)
    views = sorted([*setup.chosen, *settings.left_out(setup)])  # none twice
    physics = settings.with_gain(setup, scan.size, views, scan.gain)
    whole = replace(scan, physics=physics, measurement_shape=physics.measurement_shape)
    items = [unseen_item(item, views, setup) for item in dataset.items]
    y = torch.stack([whole.to_model(item) for item in items])
    least_squares = truncated_least_squares(y, physics, ITERATIONS)
    fine = _fine_backprojection(dataset, physics.geometry, setup, views)
    return Reference(unseen, least_squares, fine, seen_by_all(dataset))


def _fine_backprojection(
    dataset: Dataset, geometry: Geometry, setup: Setup, views: list[int]
) -> Tensor | None:
    """(N, 1, H, W) of these views, with the file's own detectors, on a finer grid, averaged down;
    None where some line through the image is not measured."""
    times = -(-FINE // max(dataset.scan.size))
    count = None if setup.detectors is None else setup.detectors * setup.binned
    unbinned = replace(setup, binned=1, detectors=count)
    sinograms = []
    for item in dataset.items:
        values = torch.from_numpy(unseen_item(item, views, unbinned).array()).float()
        sinograms.append(values / item.units.counts_as_one * times / setup.pixel)
    y = torch.stack(sinograms)[:, None]
    try:
        images = backprojected(refined(geometry, times, setup.binned), y)
    except ValueError:
        return None
    return torch.nn.functional.avg_pool2d(images, times)


def backprojected(geometry: Geometry, y: Tensor) -> Tensor:
    """Filtered backprojection with the ramp; y in units of x times pixels."""
    if isinstance(geometry, FanGeometry):
        return fan_fbp(geometry, y, "ramp")
    return parallel_fbp(geometry, None, y, "ramp")


def seen_by_all(dataset: Dataset) -> Tensor:
    """(H, W) the pixels inside the circle about the axis that every view sees, and the image holds;
    two pixels are left out at its edge."""
    physics: Any = dataset.scan.physics
    g = physics.geometry
    column = torch.arange(g.width) - (g.width - 1) / 2 - g.axis[0]
    row = torch.arange(g.height) - (g.height - 1) / 2 - g.axis[1]
    radius = min(g.half_width(), min(g.height, g.width) / 2) - MARGIN
    if radius < 1:
        raise UserError(
            f"{dataset.items[0].file}: no pixel is seen by every view (the detector's half width "
            f"is {g.half_width():.1f} pixels at the axis); check physics.offset and the pitch"
        )
    return (row[:, None].square() + column.square()).sqrt() <= radius
