"""What loaded image models say about themselves."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.facts import ModelFacts
from cluster.value import JsonObject


@dataclass(frozen=True, kw_only=True)
class ImageFacts(ModelFacts):
    #: Of all that its family can do, what this model can.
    tasks: tuple[str, ...]
    pipeline: str
    offload: str | None
    #: By the pipeline's slot: class, number format, bytes, device, quantisation.
    components: dict[str, JsonObject]
    #: Width and height that pictures have unless a request says otherwise.
    resolution: int
    max_pixels: int
    steps: int
    scheduler: str
    #: Which samplers requests may name: those of flow models, or of diffusion models.
    samplers: str
    attention_backend: str
    #: Which requests may name; those of `always` are part of the model.
    loras: tuple[str, ...]
    always: tuple[str, ...] | None = None
    controlnets: tuple[str, ...] | None = None
    caches: tuple[str, ...]
    #: By how much a batch is faster than one picture after the other, as measured at loading.
    batching: JsonObject
    transparent: bool | None = None
    #: What was compiled.
    compile: str | None = None
    #: Why the option of that name changed nothing.
    quantize: str | None = None
    deepcache: str | None = None
