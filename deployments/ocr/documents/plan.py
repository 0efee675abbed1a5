"""The memory that a document model will take, from its configuration. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from cluster.value import JsonObject
from cluster.weights.memory import CUDA_CONTEXT_BYTES, HOST_BYTES, PROCESS_BYTES, MemoryPlan, PlannedPart

#: For what a configuration does not say.
USUAL_PIXELS, USUAL_PATCH, USUAL_HIDDEN, USUAL_HEADS = 1024 * 1024, 16, 1024, 16
USUAL_LAYERS, USUAL_VOCABULARY = 24, 100_000
#: A picture in numbers, and how often: as it is resized, normalised, colours first, and in the batch.
COLOURS, COPIES = 3, 4
FP32 = 4
#: Sides and areas of pictures are both called edges; longer ones are areas.
MOST_EDGE = 10_000
#: No size is larger: memory will be claimed for it.
MOST = 1_000_000_000
#: What torch and the tokenizer take, and what differs from launch to launch.
FIXED_BYTES = 15_000_000
SPARE = 0.05


class DocumentSizes(NamedTuple):
    """The sizes of a document model by which its memory grows."""

    #: Of the picture as its encoder gets it.
    pixels: int
    patch: int
    hidden: int
    intermediate: int
    #: Heads whose scores of all pairs of patches are there at once; 0 where none are.
    scored_heads: int
    #: Numbers that are kept for each token of the text.
    kept: int
    vocabulary: int

    @property
    def tokens(self) -> int:
        return max(self.pixels // self.patch**2, 1)

    @classmethod
    def of(cls, config: JsonObject, processor: JsonObject) -> DocumentSizes:
        vision = _part(config, "vision_config", "encoder")
        vision = {**vision, **_part(vision, "sam_config")}
        text = _part(config, "text_config", "decoder") or config
        hidden = _number(vision, USUAL_HIDDEN, "hidden_size", "embed_dim", "d_model")
        heads = _number(vision, USUAL_HEADS, "num_attention_heads", "num_heads")
        side = _number(vision, 0, "image_size")
        width = _number(text, USUAL_HIDDEN, "hidden_size", "d_model")
        text_heads = _number(text, USUAL_HEADS, "num_attention_heads", "decoder_attention_heads")
        of_head = _number(text, max(width // text_heads, 1), "head_dim")
        layers = _number(text, USUAL_LAYERS, "num_hidden_layers", "decoder_layers")
        return cls(
            pixels=_pixels(processor) or side**2 or USUAL_PIXELS,
            patch=_number(vision, USUAL_PATCH, "patch_size", "patch_stride"),
            hidden=hidden,
            intermediate=_number(vision, 4 * hidden, "intermediate_size", "mlp_dim"),
            scored_heads=heads if vision.get("global_attn_indexes") else 0,
            kept=2 * layers * _number(text, text_heads, "num_key_value_heads") * of_head,
            vocabulary=_number(text, USUAL_VOCABULARY, "vocab_size"),
        )


def document_plan(
    part: PlannedPart, sizes: DocumentSizes, *, pages: int, new_tokens: int, page_bytes: int, item: int, on_card: bool
) -> MemoryPlan:
    """`pages`: so many are written at once, each with so many tokens. `page_bytes`: main memory of pages."""
    seen = COLOURS * COPIES * FP32 * sizes.pixels + FP32 * sizes.tokens * (4 * sizes.hidden + 2 * sizes.intermediate)
    scores = 2 * FP32 * sizes.scored_heads * sizes.tokens**2
    written = item * sizes.kept * (sizes.tokens + new_tokens) + FP32 * sizes.vocabulary
    activations = pages * (seen + scores + written)
    if on_card:
        peak = part.bytes + activations
        spare = int(SPARE * peak)
        host = max(HOST_BYTES, PROCESS_BYTES + page_bytes)
        return MemoryPlan((part,), activations, CUDA_CONTEXT_BYTES, spare, peak + CUDA_CONTEXT_BYTES + spare, host)
    # Pages are opened before anything of them is computed, and the largest stands beside what is computed.
    activations += page_bytes
    fixed = PROCESS_BYTES + FIXED_BYTES
    spare = int(SPARE * (part.bytes + activations))
    return MemoryPlan((part,), activations, fixed, spare, part.bytes + activations + fixed + spare)


def _part(config: Mapping[str, object], *names: str) -> JsonObject:
    return next((dict(value) for name in names if isinstance(value := config.get(name), dict)), {})


def _number(config: Mapping[str, object], otherwise: int, *names: str) -> int:
    """The first that is there; of several levels, that of the first, which has most patches."""
    for name in names:
        value = config.get(name)
        if isinstance(value, list) and value:
            value = value[0]
        if type(value) is int and 0 < value < MOST:
            return value
    return otherwise


def _pixels(processor: Mapping[str, object]) -> int:
    size = _part(processor, "size")
    edge = _number(size, 0, "longest_edge", "shortest_edge")
    if edge:
        return edge if edge > MOST_EDGE else edge**2
    return _number(size, 0, "height") * _number(size, 0, "width")
