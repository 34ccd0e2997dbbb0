"""What is minimised: losses in deepinv's contract, each of which also tells what it found out."""

from .base import Example, LossValue, RecordedLoss, evaluate
from .consistency import MeasurementConsistency, Supervised, Weighted
from .contraction import JacobianPenalty
from .equivariance import Equivariance, MultiOperator, StopGradient
from .recorrupted import Recorrupted
from .second_solve import AS_THE_MODEL, DEFAULT_ACCURACY, Accuracy, SecondSolveLoss, accurate
from .splitting import Splitting

__all__ = [
    "AS_THE_MODEL",
    "DEFAULT_ACCURACY",
    "Accuracy",
    "Equivariance",
    "Example",
    "JacobianPenalty",
    "LossValue",
    "MeasurementConsistency",
    "MultiOperator",
    "RecordedLoss",
    "Recorrupted",
    "SecondSolveLoss",
    "Splitting",
    "StopGradient",
    "Supervised",
    "Weighted",
    "accurate",
    "evaluate",
]
