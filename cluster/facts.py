"""What a loaded model says about itself, and how that reaches the processes that answer questions about it.

Each model type has a class of facts beside its requests; the families fill it in when they load. The worker sends it to
the supervisor, and the supervisor to the ingresses. The supervisor knows no model types: so facts travel pickled, next
to the part that every process can read, and only the routes of that model type open them again.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, TypeVar

from cluster.value import JsonObject

F = TypeVar("F", bound="ModelFacts")


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What models of every type may say about themselves.

    Listings show a field under its own name, or under the name that its metadata gives as `listed_as`. A field whose
    default is None is left out while it is None.
    """

    #: The longest input that the model reads.
    max_tokens: int | None = None
    #: The number format it computes in, as torch calls it.
    dtype: str | None = None
    #: What computes it.
    engine: str | None = None

    def listed(self) -> JsonObject:
        named = ((item, getattr(self, item.name)) for item in fields(self))
        return {
            item.metadata.get("listed_as", item.name): value
            for item, value in named
            if value is not None or item.default is not None
        }

    def extended(self, kind: type[F], **more: Any) -> F:
        """The same facts, and more, as a class that has more fields."""
        return kind(**{item.name: getattr(self, item.name) for item in fields(self)}, **more)


@dataclass(frozen=True)
class SentFacts:
    """A model's facts on their way from the worker to the ingresses."""

    #: For listings.
    listed: JsonObject = field(default_factory=dict)
    max_tokens: int | None = None
    #: Only processes that may import the model type unpickle it.
    pickled: bytes = b""

    @classmethod
    def of(cls, facts: ModelFacts) -> SentFacts:
        return cls(facts.listed(), facts.max_tokens, pickle.dumps(facts))

    def opened(self, kind: type[F]) -> F | None:
        """The facts, or None when the model is not loaded yet or its facts are not of that kind."""
        facts = _unpickled(self.pickled) if self.pickled else None
        return facts if isinstance(facts, kind) else None


@lru_cache(maxsize=1024)
def _unpickled(pickled: bytes) -> object:
    """Kept, because requests ask for the same facts again and again."""
    return pickle.loads(pickled)
