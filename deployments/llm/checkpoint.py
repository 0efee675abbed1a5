"""A folder as transformers saves a language model: what of it is refused before it is loaded, and its memory."""

from __future__ import annotations

from cluster import errors
from cluster.value import JsonObject
from cluster.weights.inventory import Inventory
from cluster.weights.locate import PICKLES
from cluster.weights.memory import (
    BYTES_OF_DTYPE,
    CUDA_CONTEXT_BYTES,
    HOST_BYTES,
    MemoryPlan,
    PlannedPart,
    tensors,
    weight_bytes,
)
from cluster.worker.family import UNKNOWN_WEIGHT_BYTES, Prospect
from deployments.bits import TABLES, is_matrix, packed_bytes
from deployments.llm.language import GB, LanguageOptions
from deployments.llm.needs import STEP_WIDTH, assumed_bytes, is_packed, kept_of
from deployments.llm.paged import BLOCK, STEP_TOKENS, blocks_of
from deployments.llm.shape import PRECISIONS, Shape, shape_of_config

#: The layers whose tokens transformers' continuous batching can keep.
LAYERS = ("full_attention", "sliding_attention")
#: A worker without its model on CPU: torch and transformers, and what they allocate for a first answer.
PROCESS_BYTES = 500_000_000
#: More of it where bitsandbytes packs the weights and unpacks a matrix at a time; measured with smollm2, 140 to 180 MB.
PACKING_BYTES = 200_000_000
#: Share of the weights in linear layers, before the files are there to be looked into.
PACKABLE = 0.85


def folder_of(prospect: Prospect) -> Inventory | None:
    """What is in the model's folder, if it is on this machine. Raises for what transformers cannot load."""
    inventory = safetensors_of(prospect, "transformers")
    if inventory is not None:
        _refuse_other_models(inventory)
    return inventory


def safetensors_of(prospect: Prospect, engine: str) -> Inventory | None:
    """The same; raises for what is no language model as transformers saves it."""
    inventory = prospect.weights()
    if inventory is None:
        return None
    names = [name for name in inventory.files if "/" not in name]
    if not any(name.endswith(".safetensors") for name in names):
        raise errors.BadRequest(_no_folder(inventory, names, engine), "model_path")
    for name, what in (("config.json", "what model it is"), ("tokenizer.json", "its vocabulary")):
        if name not in names:
            raise errors.BadRequest(f"{inventory.place} has no {name}, which says {what}: add it.", "model_path")
    inventory.refuse_wrong("config.json")
    _refuse_encoders(inventory)
    return inventory


def _no_folder(inventory: Inventory, names: list[str], engine: str) -> str:
    if any(name.endswith(".gguf") for name in names):
        return (
            f"{inventory.place} is GGUF, which {engine} does not read: launch it with model_engine=llamacpp or "
            "model_engine=openvino."
        )
    if any(name.endswith(PICKLES) for name in names):
        return f"{inventory.place} has its weights only as pickles, which can run code: convert them to safetensors."
    return f"{inventory.place} has no safetensors file: a language model for {engine} is a folder with them."


def _refuse_other_models(inventory: Inventory) -> None:
    config = text_config(inventory)
    strange = sorted(set(_texts(config.get("layer_types"))).difference(LAYERS))
    # Keys that are compressed have another size than is kept, and bent scores would be taken for plain ones.
    named = [f"{name} in its config" for name in ("kv_lora_rank", "attn_logit_softcapping") if config.get(name)]
    if strange or named:
        raise errors.BadRequest(
            f"{inventory.place} has {(strange + named)[0]:.50}, which transformers' continuous batching does not know: "
            f"it serves models of {' and '.join(LAYERS)}.",
            "model_path",
        )
    shape_of_config(config)


def _refuse_encoders(inventory: Inventory) -> None:
    if inventory.config().get("is_encoder_decoder"):
        raise errors.BadRequest(
            f"{inventory.place} has an encoder beside its decoder: only models that go on with a text are served.",
            "model_path",
        )


def text_config(inventory: Inventory) -> JsonObject:
    config = inventory.config()
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def _texts(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []


def plan_of_folder(prospect: Prospect, dtype: str, bits: str | None) -> MemoryPlan:
    """`bits`: of the linear layers, where bitsandbytes packs them."""
    options: LanguageOptions = prospect.options
    item, precision = BYTES_OF_DTYPE[dtype], PRECISIONS[dtype]
    inventory = folder_of(prospect)
    if inventory is None:
        file_bytes = assumed_bytes(prospect.source) or prospect.entry.weight_bytes or UNKNOWN_WEIGHT_BYTES
        weights = file_bytes if is_packed(prospect.source) else _assumed(file_bytes, item, bits)
        kept, kept_bytes, step = 0, int(options.cache_gb * GB), 0
    else:
        shape = shape_of_config(text_config(inventory))
        weights = weight_bytes(inventory, item) if bits is None else _packed(inventory, item, bits)
        kept = kept_of(shape, options, precision)
        kept_bytes = blocks_of(kept, options.slots) * BLOCK * shape.bytes_per_token(precision)
        step = _step_bytes(shape, kept, options.slots, item, precision)
    home = "card" if prospect.on_card else "main memory"
    fixed = (CUDA_CONTEXT_BYTES if prospect.on_card else PROCESS_BYTES) + (PACKING_BYTES if bits is not None else 0)
    parts = (
        PlannedPart("model", prospect.entry.family, dtype, bits or "none", weights, home),
        PlannedPart(f"{kept or 'its'} tokens", "cache", precision, "none", kept_bytes, home),
    )
    peak = weights + kept_bytes + step + fixed
    return MemoryPlan(parts, step, fixed, 0, peak, HOST_BYTES if prospect.on_card else 0)


def _step_bytes(shape: Shape, kept: int, slots: int, item: int, precision: str) -> int:
    """The activations of a step, the logits of all answers, what a layer reads of all tokens (as kept, and again
    for each head that shares them), and which of those each may see."""
    read = kept * shape.bytes_per_token(precision) // shape.layers * (1 + shape.heads // shape.kv_heads)
    sees = 2 * STEP_TOKENS * (kept + STEP_TOKENS) * item
    return STEP_TOKENS * shape.hidden * STEP_WIDTH * item + slots * shape.vocabulary * 4 * 3 + read + sees


def _packed(inventory: Inventory, item: int, bits: str) -> int:
    packable = rows = others = 0
    for tensor in tensors(inventory):
        if not tensor.is_plain:
            others += tensor.bytes
        elif is_matrix(tensor) and not TABLES.search(tensor.name):
            packable += tensor.numbers
            rows += tensor.shape[0]
        else:
            others += tensor.numbers * item
    return packed_bytes(bits, packable, rows) + others


def _assumed(file_bytes: int, item: int, bits: str | None) -> int:
    """For files with two bytes for each number."""
    numbers = file_bytes // 2
    packable = int(numbers * PACKABLE) if bits is not None else 0
    return (packed_bytes(bits, packable, 0) if bits is not None else 0) + (numbers - packable) * item
