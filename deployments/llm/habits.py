"""What the catalogue, or whoever registered a model, says of how a language model writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from cluster.catalog.entry import Entry
from deployments.llm.calls import FORMATS

#: What others call the ways in which calls of tools are written.
CALLS = {"qwen": "hermes", **{name: name for name in FORMATS}}


#: What may be said of how it is sampled from.
SAMPLING = ("temperature", "top_p", "top_k")


class Habits(NamedTuple):
    #: What it writes around its thoughts; empty where its chat template tells.
    thinks: tuple[str, str] | tuple[()] = ()
    #: How it writes calls of tools.
    calls: str | None = None
    #: What ends its answers: tokens, by their text and by their ids.
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    #: How its makers sample from it, where its weights do not say.
    sampling: Mapping[str, float] = MappingProxyType({})

    @classmethod
    def of(cls, entry: Entry) -> Habits:
        """Facts may be anything that somebody registered."""
        facts = entry.facts
        start, end = (facts.get(f"reasoning_{side}_tag") for side in ("start", "end"))
        has_tags = isinstance(start, str) and isinstance(end, str) and start and end
        ids = [id for id in _listed(facts.get("stop_token_ids")) if isinstance(id, int)]
        return cls(
            (str(start), str(end)) if has_tags else (),
            CALLS.get(str(facts.get("tool_parser")).lower()),
            tuple(text for text in _listed(facts.get("stop")) if isinstance(text, str) and text),
            tuple(ids),
            {name: number for name in SAMPLING if (number := _positive(facts.get(name)))},
        )


#: Of a model of which nobody said anything.
UNKNOWN = Habits()


def _listed(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else ()


def _positive(value: object) -> float | None:
    return value if isinstance(value, int | float) and value > 0 else None
