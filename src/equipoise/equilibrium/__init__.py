"""``z = f(z)`` and its derivative, for any f, in any loss. Imports torch alone."""

from .fixed_point import fixed_point
from .gradient import Implicit, JacobianFree, Neumann, Phantom, Unrolled
from .result import Equilibrium, EquilibriumError, EquilibriumWarning, Status, Stop
from .solve import solve
from .solvers import GMRES, Anderson, Broyden, Picard, Solver

__all__ = [
    "GMRES",
    "Anderson",
    "Broyden",
    "Equilibrium",
    "EquilibriumError",
    "EquilibriumWarning",
    "Implicit",
    "JacobianFree",
    "Neumann",
    "Phantom",
    "Picard",
    "Solver",
    "Status",
    "Stop",
    "Unrolled",
    "fixed_point",
    "solve",
]
