"""Computed tomography as one sparse matrix: exactly matched forward and backward projection.

``geometry`` says where the rays run, ``projector`` makes them a matrix, ``fbp`` inverts it by
filtering, ``physics`` puts deepinv's contract on top, and ``beams`` are what users make.
"""

from .beams import FanBeam, ParallelBeam
from .fbp import WINDOWS, NotMeasured
from .geometry import FanGeometry, ParallelGeometry
from .physics import Tomography
from .projector import SystemMatrix, system_matrix
from .scanner import ScannerGeometry

__all__ = [
    "WINDOWS",
    "FanBeam",
    "FanGeometry",
    "NotMeasured",
    "ParallelBeam",
    "ParallelGeometry",
    "ScannerGeometry",
    "SystemMatrix",
    "Tomography",
    "system_matrix",
]
