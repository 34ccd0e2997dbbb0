"""What every section of a configuration is: strict, and explained option by option."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, model_validator

#: ``json_schema_extra`` of what the package fills in itself: no option to set.
INTERNAL: dict[str, Any] = {"internal": True}


class Settings(BaseModel):
    """A section: an unknown key is an error, and each option has a ``description``.

    A room describes what it makes in subclasses of this, each with a method ``make``. Where there
    are several kinds of a thing, each kind is a subclass with ``kind: Literal["name"] = "name"``
    and the options that apply to it alone; their union is discriminated by ``kind``.
    """

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_values_for_numbers(cls, tree: Any) -> Any:
        """pydantic would take ``steps: true`` for 1."""
        if not isinstance(tree, dict):
            return tree
        for key, value in tree.items():
            field = cls.model_fields.get(key)
            if not isinstance(value, bool) or field is None:
                continue
            if bool not in (field.annotation, *get_args(field.annotation)):
                wanted = "a number" if "int" in str(field.annotation) else "a value"
                raise ValueError(f"{key} must be {wanted}, not {value}")
        return tree


def named(value: Any) -> Any:
    """``proximal`` is short for ``{kind: proximal}``: for unions whose kind says it all."""
    return {"kind": value} if isinstance(value, str) else value
