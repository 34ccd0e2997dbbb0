"""The settings of the groups: ``GroupChoice`` is their union; a bare name says it all."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from ..settings import Settings, named
from .groups import Group, Reflections, Rotations, Shifts


class RotationsSettings(Settings):
    """Rotations about the centre, by any angle."""

    kind: Literal["rotations"] = "rotations"

    def make(self, draws: int = 1) -> Group:
        """``draws``: elements of the group for each sample."""
        return Rotations(n_trans=draws)


class QuarterTurnsSettings(Settings):
    """Rotations by multiples of 90°, which are exact."""

    kind: Literal["quarter_turns"] = "quarter_turns"

    def make(self, draws: int = 1) -> Group:
        """``draws``: elements of the group for each sample."""
        return Rotations(multiples=90, n_trans=draws)


class ReflectionsSettings(Settings):
    """Flips of rows and columns."""

    kind: Literal["reflections"] = "reflections"

    def make(self, draws: int = 1) -> Group:
        """``draws``: elements of the group for each sample."""
        return Reflections(n_trans=draws)


class ShiftsSettings(Settings):
    """Periodic shifts by whole pixels."""

    kind: Literal["shifts"] = "shifts"

    def make(self, draws: int = 1) -> Group:
        """``draws``: elements of the group for each sample."""
        return Shifts(n_trans=draws)


GroupChoice = Annotated[
    RotationsSettings | QuarterTurnsSettings | ReflectionsSettings | ShiftsSettings,
    Field(discriminator="kind"),
    BeforeValidator(named),
]
