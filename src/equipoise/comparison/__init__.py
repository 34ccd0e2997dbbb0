"""Methods against each other on the same measurements, and what a trained network is."""

from .compare import compare
from .diagnosis import Diagnosis, diagnose
from .evaluation import Evaluation, evaluate, evaluations
from .method import Fitted, Method, Problem, Unavailable
from .methods import METHODS, load_methods, register
from .sweep import Comparison, plan

__all__ = [
    "METHODS",
    "Comparison",
    "Diagnosis",
    "Evaluation",
    "Fitted",
    "Method",
    "Problem",
    "Unavailable",
    "compare",
    "diagnose",
    "evaluate",
    "evaluations",
    "load_methods",
    "plan",
    "register",
]
