"""The base class of values that are checked when they are read, and the type of a JSON object."""

from __future__ import annotations

from typing import Any, TypeAlias

from pydantic import BaseModel, ConfigDict

#: A JSON object whose fields are not checked here.
JsonObject: TypeAlias = dict[str, Any]


class Value(BaseModel):
    """A pydantic value that refuses fields it does not know."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())
