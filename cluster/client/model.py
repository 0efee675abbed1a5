"""The handle of a launched model, and the calls that every model takes."""

from __future__ import annotations

from typing import Any, ClassVar

from cluster.client.http import Async, Steps, Sync, ask, call
from cluster.value import JsonObject


class ModelCalls:
    """The calls of any model; each kind of model adds its own and says which models take them."""

    #: A model with one of these abilities has these calls, whatever its type is called.
    abilities: ClassVar[frozenset[str]] = frozenset()
    #: So does a model of this type, from a server that tells no abilities.
    model_type: ClassVar[str] = ""

    uid: str

    @classmethod
    def fits(cls, description: JsonObject) -> bool:
        """Whether a model that the server describes so is able to answer these calls."""
        return not cls.abilities.isdisjoint(description.get("model_ability") or ())

    @call
    def infer(self, path: str, /, **body: object) -> Steps[Any]:
        """Posts to a route that takes a `model` in its JSON, e.g. `infer("/v1/chat/completions", messages=[...])`."""
        return ask("POST", path, body={"model": self.uid, **body})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.uid!r})"


class Model(ModelCalls, Sync):
    """A launched model; shares its client's connections."""

    def __init__(self, client: Sync, uid: str, description: JsonObject | None = None) -> None:
        self.driver = client.driver
        self.uid = uid
        self.description = dict(description or {})


class AsyncModel(ModelCalls, Async):
    """A launched model; shares its client's connections."""

    def __init__(self, client: Async, uid: str, description: JsonObject | None = None) -> None:
        self.driver = client.driver
        self.uid = uid
        self.description = dict(description or {})
