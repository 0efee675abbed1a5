"""The memory that a launch of a language model will need, found out before it is placed on a node: weights, the tokens
that are kept, and what a step computes with. And what cannot be loaded, refused while its caller waits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from cluster import errors
from cluster.catalog.entry import Source
from cluster.value import JsonObject
from cluster.weights.headers import models_in
from cluster.weights.inventory import Inventory
from cluster.weights.locate import SHARD
from cluster.weights.memory import MemoryPlan, PlannedPart, gguf_header
from cluster.worker.family import UNKNOWN_WEIGHT_BYTES, Prospect
from deployments.llm.language import GB, LanguageOptions
from deployments.llm.shape import Shape, shape_of_gguf

#: A worker without its model: the PSS of one that has loaded smollm2, less its weights and what it kept.
PROCESS_BYTES = 350_000_000
#: Tokens of prompts that are computed in one step, and how many numbers of the hidden size a layer holds of each.
STEP_TOKENS = 256
STEP_WIDTH = 24


#: Bits of a weight in files of other formats than GGUF, and of the numbers that stand in the names of quantisations:
#: blocks have scales besides, and some tensors have more bits.
PLAIN_BITS = 16.0
BITS = {"pytorch": PLAIN_BITS, "fp8": 8.5, "awq": 4.6, "gptq": 4.6}
EXTRA_BITS = 0.9


def assumed_bytes(source: Source) -> int | None:
    """The size of weights that are not on this machine, by the size of the model and the quantisation."""
    billions = source.weight_billions
    return int(billions * 1e9 * _bits_of(source) / 8) if billions is not None else None


def is_packed(source: Source) -> bool:
    """Whether its weights stay as they are in whatever number format the model is loaded."""
    return _bits_of(source) < PLAIN_BITS


def _bits_of(source: Source) -> float:
    """Of a weight in the files."""
    if source.bits is not None:
        return source.bits
    named = re.search(r"(\d+)", source.quantizations[0])
    if named is not None and int(named[1]) <= PLAIN_BITS:
        return int(named[1]) + (EXTRA_BITS if int(named[1]) < PLAIN_BITS else 0)
    return BITS.get(source.format, PLAIN_BITS)


def gguf_of(prospect: Prospect) -> Inventory | None:
    """The inventory of the weights, if they are one GGUF file on this machine, whole or in parts."""
    inventory = prospect.weights(allow_pickle=False)
    if inventory is None:
        return None
    return inventory if len(ggufs_of(inventory)) == 1 else None


def ggufs_of(inventory: Inventory) -> set[str]:
    """The GGUF models among files, each once, however many parts it has."""
    return {SHARD.sub("", name.removesuffix(".gguf")) for name in models_in(inventory.files)}


def refuse_other(
    prospect: Prospect, architectures: tuple[str, ...] | None, engine: str, *, takes_parts: bool = False
) -> None:
    """Raises for weights that the engine does not read, as far as they are on this machine."""
    inventory = prospect.weights(allow_pickle=False)
    if inventory is None:
        return
    gguf = gguf_of(prospect)
    if gguf is None:
        is_for_others = any(name.endswith(".safetensors") for name in inventory.files)
        hint = "launch it with model_engine=transformers" if is_for_others else "name the file as model_path"
        raise errors.BadRequest(
            f"{engine} reads a language model from one GGUF file, and {inventory.place} has none or several: {hint}.",
            "model_path",
        )
    if not takes_parts and len(models_in(gguf.files)) > 1:
        raise errors.BadRequest(
            f"{engine} reads no GGUF file that is in parts, as {gguf.place} is: launch it with model_engine=llamacpp.",
            "model_engine",
        )
    architecture = str(gguf_header(gguf)["architecture"])
    if architectures is not None and architecture not in architectures:
        raise errors.BadRequest(
            f"{engine} reads GGUF files of {', '.join(architectures)}, not of {architecture!r:.50}.", "model_engine"
        )


def shape_in(gguf: Inventory) -> Shape:
    header = gguf_header(gguf)
    return shape_of_gguf(str(header["architecture"]), header["sizes"])


def kept_of(shape: Shape, options: LanguageOptions, precision: str) -> int:
    """Tokens that are kept for all answers at once."""
    context = min(options.context_length or shape.context, shape.context)
    return shape.kept_tokens(options.slots * context, int(options.cache_gb * GB), precision)


def plan_of(
    prospect: Prospect,
    bytes_per_weight: float | None,
    precision: str,
    engine_bytes: Callable[[Shape | None], int] = lambda shape: 0,
) -> MemoryPlan:
    """`bytes_per_weight`: None for weights that stay as they are packed in the file. `engine_bytes`: what the engine
    takes besides, of a model of that shape."""
    options: LanguageOptions = prospect.options
    gguf = gguf_of(prospect)
    if gguf is None:
        weights = assumed_bytes(prospect.source) or prospect.entry.weight_bytes or UNKNOWN_WEIGHT_BYTES
        if bytes_per_weight is not None and (billions := prospect.source.weight_billions):
            weights = int(billions * 1e9 * bytes_per_weight)
        kept, kept_bytes, step = 0, int(options.cache_gb * GB), 0
        dtype, fixed = "as stored", PROCESS_BYTES + engine_bytes(None)
    else:
        header, shape = gguf_header(gguf), shape_in(gguf)
        weights = int(header["bytes"] if bytes_per_weight is None else header["weights"] * bytes_per_weight)
        kept = kept_of(shape, options, precision)
        kept_bytes = kept * shape.bytes_per_token(precision)
        step = STEP_TOKENS * shape.hidden * STEP_WIDTH * 4 + options.slots * shape.vocabulary * 4 * 3
        dtype = "int8" if bytes_per_weight is not None else "as stored"
        fixed = PROCESS_BYTES + engine_bytes(shape)
    parts = (
        PlannedPart("model", prospect.entry.family, dtype, "none", weights, "main memory"),
        PlannedPart(f"{kept or 'its'} tokens", "cache", precision, "none", kept_bytes, "main memory"),
    )
    return MemoryPlan(parts, step, fixed, 0, weights + kept_bytes + step + fixed)


def smaller(prospect: Prospect) -> Iterator[JsonObject]:
    """Fewer kept tokens first: then requests wait for each other, and long ones are refused."""
    options: LanguageOptions = prospect.options
    if getattr(options, "kv_precision", "u8") != "u8":
        yield {"kv_precision": "u8"}
    if options.cache_gb > 0.25:
        yield {"cache_gb": options.cache_gb / 2}
        yield {"cache_gb": options.cache_gb / 4}
