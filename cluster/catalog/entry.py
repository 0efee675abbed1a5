"""A row of the catalogue, and where its weights are."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from cluster.value import Value


class Source(Value):
    """One place that has the weights."""

    hub: Literal["huggingface", "modelscope", "package", "local"]
    #: Hub repository, import name of the package that ships them, or a folder.
    id: str
    #: Commit or tag; None where no pinned one is known, then what was resolved is recorded beside the weights.
    revision: str | None = None
    #: Folder, or the one file, inside the repository or package.
    path: str = ""
    #: Patterns of files that a launch has no use for, e.g. `text_encoder_3/*`.
    exclude: tuple[str, ...] = ()
    #: Which of several precisions, e.g. fp16; where it is not there, the plain files.
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
    #: Needs code from its repository; launches only where that is allowed by name.
    remote_code: bool = False
    #: Bytes of the weights when known without looking at them.
    weight_bytes: int | None = None
    description: str = ""
    #: Defaults for the family's launch options.
    options: dict[str, Any] = Field(default_factory=dict)
    #: What only the model's own type reads (dimensions, prompts, pipeline classes, ...).
    facts: dict[str, Any] = Field(default_factory=dict)
    builtin: bool = True
