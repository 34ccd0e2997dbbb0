"""Until those who import it go (``runs.py``, ``doctor.py``, ``demo.py``): the old address."""

from .loop import train
from .processes import on_device, processes, together
from .report import Report
from .trainer import Trainer

__all__ = ["Report", "Trainer", "on_device", "processes", "together", "train"]
