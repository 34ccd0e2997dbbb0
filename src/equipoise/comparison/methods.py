"""All methods, in the order of the tables.

A method of your own is one class and the line that registers it, in a file of yours:

    from equipoise.comparison.method import Fitted, Method, Problem
    from equipoise.comparison.methods import register

    class Halved(Method):
        name, label = "halved", "Half the backprojection"

        def fit(self, problem: Problem) -> Fitted:
            return Fitted(lambda dataset: dataset.scan.physics.A_adjoint(dataset.y) / 2)

    register(Halved())

``load_methods(file)`` runs such a file. A classical method with a setting to tune is a subclass of
``Classical`` (copy ``TotalVariation`` in ``classical.py``), and stands in evaluations too; a
network of your own configuration is ``register(Trained("name", "label", {"model.…": …}))``.
"""

from __future__ import annotations

import runpy
from pathlib import Path

from ..config import Config
from ..errors import UserError
from .classical import (
    Classical,
    FilteredBackprojection,
    LeastSquares,
    TotalVariation,
    ZeroFilled,
)
from .method import Method
from .plugged import PlugAndPlay, RegularisationByDenoising
from .trained import Trained

PNP = PlugAndPlay("pnp", "Plug-and-play (HQS)")
INVARIANT = {"model.invariant": "quarter_turns"}
#: Unrolled steps are no equilibrium, so nothing keeps them contractive.
FREE = {"objective.contraction.weight": 0.0}


def _unrolled(steps: int, untied: bool = False) -> dict[str, object]:
    return {"model.gradient": {"kind": "unrolled", "steps": steps, "untied": untied}, **FREE}


METHODS: list[Method] = [
    FilteredBackprojection(),
    ZeroFilled(),
    LeastSquares(),
    TotalVariation(),
    PNP,
    PlugAndPlay("equivariant_pnp", "Equivariant plug-and-play", INVARIANT),
    RegularisationByDenoising(PNP),
    # The objective of the configuration, with each way to differentiate.
    Trained("implicit", "Equilibrium, implicit"),
    Trained(
        "jacobian_free",
        "Equilibrium, Jacobian-free",
        {"model.gradient": {"kind": "jacobian_free"}},
    ),
    Trained("phantom", "Equilibrium, phantom gradient", {"model.gradient": {"kind": "phantom"}}),
    Trained("unrolled_5", "Unrolled, 5 steps", _unrolled(5)),
    Trained("unrolled_10", "Unrolled, 10 steps", _unrolled(10)),
    Trained("untied_5", "Unrolled, 5 steps, untied", _unrolled(5, untied=True)),
    # The equilibrium, with some of the objective's terms.
    Trained("consistency", "Equilibrium, consistency alone", terms=("consistency",)),
    Trained("ei", "Equilibrium, consistency + EI", terms=("consistency", "equivariance")),
    Trained("sure_ei", "Equilibrium, SURE + EI", terms=("sure", "equivariance")),
    Trained("splitting", "Equilibrium, splitting alone (SSDU)", terms=("splitting",)),
    Trained("supervised", "Equilibrium, supervised", terms=("supervised",)),
]


def register(method: Method) -> Method:
    """Takes a method in, after those that there are.

    Raises:
        UserError: there is one of that name.
    """
    if any(other.name == method.name for other in METHODS):
        raise UserError(f"a method is called {method.name!r} already; give yours another name")
    METHODS.append(method)
    return method


def load_methods(file: Path) -> None:
    """Runs a Python file that registers methods.

    Raises:
        UserError: there is no such file, it cannot be run, or it registers nothing.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file of methods; name a Python file that registers some")
    before = len(METHODS)
    try:
        runpy.run_path(str(file))
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever somebody's file raises
        raise UserError(f"{file}: cannot be run: {type(error).__name__}: {error}") from error
    if len(METHODS) == before:
        raise UserError(
            f"{file}: registers no method; end it with equipoise.comparison.methods.register(…)"
        )


def classical_methods(config: Config) -> list[Classical]:
    """Those that evaluations score a run against."""
    return [m for m in METHODS if isinstance(m, Classical) and not m.excluded(config)]


def methods_for(config: Config) -> tuple[list[Method], dict[str, str]]:
    """The methods that have a place beside each other for a configuration, and, by name, why the
    others have none: there is nothing that they could learn from, or they are another one again."""
    methods: list[Method] = []
    excluded: dict[str, str] = {}
    trained: list[tuple[Config, str]] = []
    for method in METHODS:
        reason = method.excluded(config) or _repeats(method, config, trained)
        if reason:
            excluded[method.name] = reason
        else:
            methods.append(method)
    return methods, excluded


def _repeats(method: Method, config: Config, trained: list[tuple[Config, str]]) -> str:
    """Why a method is another one again; otherwise it joins those that are trained."""
    if not isinstance(method, Trained):
        return ""
    try:
        own = method.configuration(config)
    except UserError:
        return ""  # that it cannot be had is said in its row
    for other, name in trained:
        if other == own:
            return f"with this configuration it is {name} again"
    trained.append((own, method.name))
    return ""
