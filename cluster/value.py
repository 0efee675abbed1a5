"""The ground of all values that are checked when they are read."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Value(BaseModel):
    """A pydantic value that refuses fields it does not know."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())
