"""An entry of the catalogue, and where its weights are."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cluster.value import JsonObject, Value


class Source(Value):
    """One place that has the weights."""

    hub: Literal["huggingface", "modelscope", "package", "local"]
    #: Hub repository, import name of the package that ships them, or a folder.
    id: str
    #: Commit or tag. None if none is pinned; the commit that was downloaded is recorded beside the weights.
    revision: str | None = None
    #: Folder, or the one file, inside the repository or package.
    path: str = ""
    #: Patterns of files that a launch does not need, e.g. `text_encoder_3/*`.
    exclude: tuple[str, ...] = ()
    #: Which of several precisions, e.g. fp16; if the repository does not have it, the plain files.
    variant: str = ""
    format: str = "pytorch"
    quantizations: tuple[str, ...] = ("none",)


class Entry(Value):
    """A catalogue row, built in or registered."""

    name: str
    type: str
    #: The code that can load it: a key of its type's `families`.
    family: str
    sources: tuple[Source, ...]
    aliases: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    max_tokens: int | None = None
    licence: str | None = None
    gated: bool = False
    #: Needs code from its repository; launches only if the operator allows that code by name.
    remote_code: bool = False
    #: Bytes of the weights, if known without looking at them.
    weight_bytes: int | None = None
    description: str = ""
    #: Defaults for the family's launch options.
    options: JsonObject = Field(default_factory=dict)
    #: Facts that only the model's own type reads (dimensions, prompts, pipeline classes, ...).
    facts: JsonObject = Field(default_factory=dict)
    builtin: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """What it is found by; within a type, every name belongs to one entry."""
        return (self.name, *self.aliases)

    @property
    def hub_ids(self) -> tuple[str, ...]:
        return tuple(source.id for source in self.sources if source.hub in ("huggingface", "modelscope"))
