"""The memory that a text encoder will take on CPU, before anything is loaded. Pure.

It is counted as a worker measures it: what its process holds by itself, and the pages of mapped weights. Each constant
was measured on models of 4 to 340 million parameters; benchmarks/memory.py prints plans beside measurements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.weights.memory import CUDA_CONTEXT_BYTES, HOST_BYTES, PROCESS_BYTES, MemoryPlan, PlannedPart
from deployments.text.engine_limits import (
    CANDIDATES,
    COMPILED_BATCH_TOKENS,
    MOST_PARALLEL,
    MOST_TIMES,
    SHORT_MS,
    TORCH_BATCH_TOKENS,
    TWICE_BYTES,
    UNNOTICED_MS,
)

#: What a core computes and reads in a second at most. On faster cores batches are larger, and more run at once.
CORE_FLOPS = 1e11
CORE_BYTES_PER_S = 25e9
#: From this width on. Narrower layers leave a core waiting.
WIDE = 512

#: Programs that torch and oneDNN make for a model's shapes, the sample that it is timed on, and small objects.
TORCH_BYTES = 25_000_000
PLAIN_BYTES = 5_000_000
#: The same for the other engines, whose libraries stand beside torch; OpenVINO keeps more with int8.
ONNX_BYTES = 20_000_000
OPENVINO_BYTES = 25_000_000
OPENVINO_INT8_BYTES = 50_000_000
#: Pages of tables that the texts of a warm-up bring in from the file.
LOOKED_UP_BYTES = 10_000_000
#: What OpenVINO keeps of the conversion to bf16, as a share of the weights in fp32.
OPENVINO_KEEPS = 0.15
#: What the heap of each thread keeps beside what a batch in fp32 has in use.
HEAPS_KEEP = 1.6
#: What the allocator keeps, at most, of the layers that were freed one by one while they were converted.
CONVERSION_BYTES = 2**24

#: Memory of a tokenizer for each entry of its vocabulary, by the kind of that: a tree of pieces, pairs that are merged,
#: or words. Measured with 250,000, 150,000 and 30,000 entries.
ENTRY_BYTES: Mapping[str, int] = {"Unigram": 1500, "BPE": 1000, "WordPiece": 420, "WordLevel": 420}

#: For the plan, what is usual where no configuration says anything.
USUAL_HIDDEN, USUAL_TOKENS, HEAD = 768, 512, 64

FP32 = 4
#: For what differs from launch to launch: how the allocator cuts its memory, and which threads were there.
SPARE = 0.03


@dataclass(frozen=True)
class EncoderSizes:
    """The sizes of a model by which its memory grows."""

    #: Numbers in its weights, and those of them in tables that are looked up and not multiplied.
    numbers: int
    tables: int = 0
    hidden: int = USUAL_HIDDEN
    intermediate: int = 4 * USUAL_HIDDEN
    heads: int = USUAL_HIDDEN // HEAD
    #: The longest text that it reads.
    max_tokens: int = USUAL_TOKENS
    #: Tokens that attention sees in either direction, where that is less than all.
    window: int | None = None
    #: Numbers of an answer for each token, beside the hidden ones.
    answer: int = 0
    tokenizer_bytes: int = 0

    @property
    def layers(self) -> int:
        """Numbers that are multiplied."""
        return max(self.numbers - self.tables, 0)


@dataclass(frozen=True)
class EncoderCase:
    """All that the plan of an encoder on CPU depends on."""

    kind: str
    engine: str
    dtype: str
    sizes: EncoderSizes
    #: Whether the files have another number format than the model in memory.
    is_converted: bool
    threads: int


def host_plan(case: EncoderCase) -> MemoryPlan:
    """With the engine `auto` any may turn out to be the fastest, so the plan is that of the one that takes most."""
    if case.engine != "auto":
        return _plan_of(case, case.engine)
    return max((_plan_of(case, engine) for engine in CANDIDATES), key=lambda plan: plan.peak_bytes)


def _plan_of(case: EncoderCase, engine: str) -> MemoryPlan:
    sizes = case.sizes
    dtype = "bfloat16" if engine == "torch_bf16" else case.dtype
    item = FP32 if dtype == "float32" else 2
    parallel = _parallel(case, engine, item)
    match engine:
        case "torch" | "torch_bf16":
            weights = sizes.numbers * item
            is_converted = case.is_converted or item < FP32
            beside = TORCH_BYTES + (min(sizes.layers * item, CONVERSION_BYTES) if is_converted else 0)
            activations = int(_of_torch(case, parallel) * (HEAPS_KEEP if item == FP32 else 1))
        case "onnx" | "onnx_int8":
            item = 1 if engine == "onnx_int8" else FP32
            # The tables stay in the file, and only what lies near rows that are looked up comes into memory.
            weights = _copies(sizes.layers * item + sizes.tables * FP32, parallel) * sizes.layers * item
            beside = ONNX_BYTES + min(sizes.tables * FP32, LOOKED_UP_BYTES)
            activations = parallel * _padded_pass(sizes, FP32)
        case "openvino_bf16":
            weights = _copies(sizes.numbers * FP32, parallel) * sizes.numbers * 2 + sizes.numbers * FP32
            beside = OPENVINO_BYTES + int(OPENVINO_KEEPS * sizes.numbers * FP32)
            activations = parallel * _padded_pass(sizes, 2)
        case _:
            copies = _copies(sizes.numbers, parallel)
            # The tables are unpacked for each copy, and once more while it is made.
            weights = copies * sizes.layers + (copies + 1) * sizes.tables * FP32 + sizes.numbers
            beside = OPENVINO_INT8_BYTES
            activations = parallel * _padded_pass(sizes, FP32)
    return _summed(case.kind, _dtype_of(engine, dtype), weights, activations, beside + sizes.tokenizer_bytes)


def _summed(kind: str, dtype: str, weights: int, activations: int, beside: int) -> MemoryPlan:
    fixed = PROCESS_BYTES + beside
    spare = int(SPARE * (weights + activations + fixed))
    part = PlannedPart("model", kind, dtype, "none", weights, "main memory")
    return MemoryPlan((part,), activations, fixed, spare, weights + activations + fixed + spare)


def _dtype_of(engine: str, dtype: str) -> str:
    return {"onnx": "float32", "onnx_int8": "int8", "openvino_bf16": "bfloat16", "openvino_int8": "int8"}.get(
        engine, dtype
    )


def _copies(file_bytes: int, parallel: int) -> int:
    return 2 if parallel > 1 and file_bytes <= TWICE_BYTES else 1


def _parallel(case: EncoderCase, engine: str, item: int) -> int:
    """Batches at once: fewer than threads where reading the weights for one short text takes one thread too long."""
    read = case.sizes.layers * (1 if engine.endswith("int8") else item)
    parallel = min(MOST_PARALLEL, case.threads)
    while parallel > 1 and read / (CORE_BYTES_PER_S * case.threads / parallel) > SHORT_MS / 1000:
        parallel //= 2
    return max(parallel, 1)


def _of_torch(case: EncoderCase, parallel: int) -> int:
    """Texts stand one behind the other. A batch has at least one text, however long it is."""
    sizes = case.sizes
    speed = CORE_FLOPS * min(sizes.hidden / WIDE, 1) * case.threads
    seconds = TORCH_BATCH_TOKENS * 2 * sizes.layers / speed
    times = min(max(1.0, UNNOTICED_MS / 1000 / max(seconds, 1e-9)), MOST_TIMES)
    tokens = max(int(TORCH_BATCH_TOKENS * times), sizes.max_tokens)
    # Which tokens see which, as truth values and as numbers.
    mask = sizes.max_tokens**2 * (3 + FP32) if sizes.window and sizes.max_tokens > sizes.window else 0
    return parallel * (tokens * per_token(sizes) + mask)


def _padded_pass(sizes: EncoderSizes, score: int) -> int:
    """A batch of texts of the greatest length, with all scores of their attention, before and after its softmax."""
    texts = max(COMPILED_BATCH_TOKENS // sizes.max_tokens, 1)
    scores = 2 * sizes.heads * sizes.max_tokens**2 * score
    return texts * (sizes.max_tokens * per_token(sizes) + scores)


def per_token(sizes: EncoderSizes) -> int:
    """At the widest place of a layer: its input, attention's three, and the wide layer before and after its function.
    It is fp32 in bf16 too, where parts of a layer compute in it."""
    return FP32 * (4 * sizes.hidden + 2 * sizes.intermediate + sizes.answer)


def plain_plan(kind: str, dtype: str, weight_bytes: int, activations: int, tokenizer_bytes: int) -> MemoryPlan:
    """Of a model that its library runs by itself, one batch at a time, and that nothing is tried with."""
    return _summed(kind, dtype, weight_bytes, activations, PLAIN_BYTES + tokenizer_bytes)


def card_plan(kind: str, dtype: str, weight_bytes: int, activations: int, beside: int) -> MemoryPlan:
    """Of such a model on a card. `beside`: main memory of what is being carried there."""
    spare = int(SPARE * (weight_bytes + activations))
    part = PlannedPart("model", kind, dtype, "none", weight_bytes, "card")
    peak = weight_bytes + activations + CUDA_CONTEXT_BYTES + spare
    return MemoryPlan((part,), activations, CUDA_CONTEXT_BYTES, spare, peak, max(HOST_BYTES, PROCESS_BYTES + beside))
