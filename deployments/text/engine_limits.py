"""The engines of text encoders and the sizes of their batches, which plans and the engines go by. No torch."""

from __future__ import annotations

#: The engine that the others are compared with.
EXACT = "torch"
CANDIDATES = (EXACT, "torch_bf16", "onnx", "onnx_int8", "openvino_bf16", "openvino_int8")

#: Tokens of a batch on CPU: more gain little there and keep the next request waiting. See benchmarks/LOG.md.
TORCH_BATCH_TOKENS = 512
COMPILED_BATCH_TOKENS = 256
#: A batch that takes less time than this is made larger until it does, at most so many times: starting a small layer
#: costs more than computing it.
UNNOTICED_MS, MOST_TIMES = 30.0, 8
#: On CPU each batch has its own cores, and fewer cores wait less for each other: one core for a batch if a short text
#: then takes no longer than this, more cores if it does.
SHORT_MS = 20.0
MOST_PARALLEL = 8
#: On a card the next batch is put together, and carried there, while this one is computed.
CARD_PARALLEL = 2
#: Models up to this size are loaded twice by engines other than torch, the second time for all cores, which a batch
#: that is alone uses.
TWICE_BYTES = 200_000_000
#: Every token of a batch becomes a row over the whole vocabulary in a sparse encoder, which soon takes gigabytes.
MOST_SPARSE_TOKENS = 4096


def named(asked: str | None) -> str:
    """The engine that a launch asks for; `auto` is left as it is."""
    wanted = (asked or EXACT).replace("-", "_").lower()
    return wanted if wanted in CANDIDATES or wanted == "auto" else EXACT
