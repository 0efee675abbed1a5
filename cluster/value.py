"""The base class of values that are checked when they are read, and the type of a JSON object."""

from __future__ import annotations

from typing import Any, TypeAlias

from pydantic import BaseModel, ConfigDict

#: A JSON object whose fields are not checked here.
JsonObject: TypeAlias = dict[str, Any]


class Value(BaseModel):
    """A pydantic value that refuses fields it does not know."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        fill_in(self)


def fill_in(value: BaseModel) -> None:
    """A value that an older version has pickled lacks the fields that came later; it gets their defaults."""
    fields = type(value).model_fields
    for name in fields.keys() - value.__dict__.keys():
        if not fields[name].is_required():
            value.__dict__[name] = fields[name].get_default(call_default_factory=True)
