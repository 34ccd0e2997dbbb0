"""Fan-beam scans of discs, as the Helsinki Tomography Challenge writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.io
import torch
from torch import Tensor

import equipoise as eq

SIZE, PIXEL, VIEWS, DETECTORS = 32, 1.5, 90, 144
NEAR, FAR = 120.0, 160.0


def disc(size: int, hole: float = 0.3) -> Tensor:
    """A disc with a hole, smooth enough for both grids."""
    place = (torch.arange(size) - (size - 1) / 2) / size
    radius = (place[:, None] ** 2 + place**2).sqrt()
    x = torch.sigmoid((0.35 - radius) * 60)
    aside = ((place[:, None] - 0.1) ** 2 + (place + 0.12) ** 2).sqrt()
    return 0.04 * x * (1 - hole * torch.sigmoid((0.1 - aside) * 60))


def write(folder: Path, names: Sequence[str] = ("a", "b")) -> None:
    """Scans of discs on a grid four times as fine, as HTC's files have them."""
    angles = np.linspace(0, 360, VIEWS + 1)
    fine, px = 4 * SIZE, PIXEL / 4
    physics = eq.FanBeam(
        fine,
        torch.as_tensor(-angles),
        NEAR / px,
        (FAR - NEAR) / px,
        detectors=DETECTORS,
        pixel=px,
        pitch=0.5 / px,
    )
    parameters = {
        "angles": angles,
        "distanceSourceOrigin": NEAR,
        "distanceSourceDetector": FAR,
        "pixelSizePost": 0.5,
        "numDetectorsPost": DETECTORS,
        "effectivePixelSizePost": 0.375,
        "geometryType": "Cone",
    }
    for k, name in enumerate(names):
        sinogram = physics.A(disc(fine, 0.3 + 0.3 * k)[None, None])[0, 0].numpy()
        scan = {"sinogram": sinogram, "parameters": parameters}
        scipy.io.savemat(folder / f"{name}.mat", {"CtDataFull": scan})
