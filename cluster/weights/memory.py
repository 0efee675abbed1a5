"""The bytes that a model needs: its weights, read from their headers, and what a worker needs besides."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

from cluster import errors
from cluster.launch import Needs
from cluster.value import JsonObject
from cluster.weights.headers import MOST_TENSORS, models_in
from cluster.weights.inventory import Inventory
from cluster.weights.locate import PICKLES, SHARD, weight_set, without_copies

#: Memory of a worker's process before it loads a model, on CPU: what it holds by itself, with Ray, torch, transformers
#: and sentence-transformers imported. It is the same whether the process was forked or not: pages that it shares with
#: the one that it was forked from count, since they are its own as soon as that one ends.
PROCESS_BYTES = 325_000_000

#: Main memory of a worker whose model is on a card.
HOST_BYTES = 2_000_000_000

#: Card memory that CUDA takes before the first tensor: its context, kernels and the libraries' workspaces.
CUDA_CONTEXT_BYTES = 2**29

#: Peak of a batch of 16,384 tokens above the weights. Measured on CPU in fp32, by hidden size: 405 MB (384), 560 MB
#: (768), 747 MB (1024); such models have about 90, 440 and 1,300 MB of weights.
ENCODER_ACTIVATION_BYTES = 430_000_000
ENCODER_ACTIVATION_SHARE = 0.3

PIPELINE = "model_index.json"

BYTES_OF_DTYPE = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class PlannedPart:
    slot: str
    kind: str
    dtype: str
    quantization: str
    bytes: int
    lives_on: str


@dataclass(frozen=True)
class MemoryPlan:
    """What a launch is expected to take, before anything is loaded. This is what is claimed for it."""

    parts: tuple[PlannedPart, ...]
    #: Of a request of the largest size, or of as many as are computed at once.
    activation_bytes: int
    #: Of the process, or of the device without any tensor.
    fixed_bytes: int
    #: For fragmentation, and for what nobody can count beforehand.
    spare_bytes: int
    #: All of that, as far as it is there at the same time: of the card, or of main memory without one.
    peak_bytes: int
    #: Main memory of a worker that has a card.
    host_bytes: int = 0

    def needs(self, *, on_card: bool) -> Needs:
        if on_card:
            return Needs(memory_bytes=self.host_bytes, card_bytes=self.peak_bytes)
        return Needs(memory_bytes=self.peak_bytes)


def encoder_plan(kind: str, dtype: str, weight_bytes: int, *, on_card: bool) -> MemoryPlan:
    """The plan of an embedding model, a reranker or a classifier."""
    activations = ENCODER_ACTIVATION_BYTES + int(ENCODER_ACTIVATION_SHARE * weight_bytes)
    fixed = CUDA_CONTEXT_BYTES if on_card else PROCESS_BYTES
    home = "card" if on_card else "main memory"
    part = PlannedPart("model", kind, dtype, "none", weight_bytes, home)
    peak = weight_bytes + activations + fixed
    return MemoryPlan((part,), activations, fixed, 0, peak, HOST_BYTES if on_card else 0)


def weight_bytes(inventory: Inventory, bytes_per_parameter: float | None = None) -> int:
    """Memory of the weights, as stored or with so many bytes per parameter; quantised tensors keep their size."""
    if PIPELINE in inventory.files:
        return sum(component_bytes(inventory, bytes_per_parameter).values())
    return sum(_bytes_of(inventory, name, bytes_per_parameter) for name in _weights_in(inventory))


def component_bytes(inventory: Inventory, bytes_per_parameter: float | None = None) -> dict[str, int]:
    """`weight_bytes` of each part of a pipeline that has weights."""
    inventory.refuse_wrong(PIPELINE)
    kinds = inventory.config(PIPELINE).items()
    parts = {name: inventory.under(name) for name, kind in kinds if isinstance(kind, list) and kind[:1] != [None]}
    return {
        name: weight_bytes(part, bytes_per_parameter)
        for name, part in parts.items()
        if weight_set(without_copies(part.files))
    }


def parameters(inventory: Inventory) -> int | None:
    """How many numbers the weights have; None for GGUF, which packs them in blocks."""
    names = _weights_in(inventory)
    if any(name.endswith(".gguf") for name in names):
        return None
    return sum(_parameters_of(inventory, name) for name in names)


class Tensor(NamedTuple):
    name: str
    shape: tuple[int, ...]
    #: Its size in the file.
    bytes: int
    #: False for packed numbers, which keep their size in whatever number format the model is loaded.
    is_plain: bool

    @property
    def numbers(self) -> int:
        return math.prod(self.shape)


def tensors(inventory: Inventory) -> Iterator[Tensor]:
    """The tensors of a file or a folder's set of weights, except in formats that only running them could read."""
    for name in _weights_in(inventory):
        if name.endswith(".safetensors"):
            rows = _header(inventory, name).get("tensors")
            if rows is None:
                raise errors.LoadFailed(f"{inventory.place} has more than {MOST_TENSORS} tensors and cannot be read.")
            for tensor, shape, size, is_plain in rows:
                yield Tensor(tensor, tuple(shape), size, is_plain)


def gguf_architecture(inventory: Inventory) -> str:
    """The architecture of a GGUF file's model, as its header says."""
    return str(gguf_header(inventory)["architecture"])


def gguf_bytes(inventory: Inventory) -> int:
    """Memory of a GGUF file's weights, which stay packed."""
    return int(gguf_header(inventory)["bytes"])


def gguf_header(inventory: Inventory) -> JsonObject:
    """What a GGUF file says of its model: see `GgufHeader`. Of one in parts, the first says what it is."""
    first, *others = names = models_in(inventory.files)
    header = dict(_header(inventory, first))
    if (part := SHARD.search(PurePosixPath(first).stem)) is None:
        return header
    count = int(part[0].rpartition("-")[2])
    if len(names) != count or not part[0].startswith("-00001-"):
        raise errors.LoadFailed(
            f"{inventory.place} has {len(names)} of the {count} parts of {_model_of(first)}: fetch the others."
        )
    for name in others:
        rest = _header(inventory, name)
        header |= {key: int(header[key]) + int(rest[key]) for key in ("bytes", "weights")}
    return header


def _header(inventory: Inventory, name: str) -> JsonObject:
    inventory.refuse_wrong(name)
    return inventory.weights[name]


def _weights_in(inventory: Inventory) -> list[str]:
    names = weight_set(without_copies(inventory.files))
    if not names:
        raise errors.LoadFailed(f"{inventory.place} has no weights: it needs safetensors, GGUF or PyTorch files.")
    ggufs = [name for name in names if name.endswith(".gguf")]
    if ggufs:
        # Several quantisations may lie side by side, of which one is loaded: claim for the largest.
        sizes: Counter[str] = Counter()
        for name in ggufs:
            sizes[_model_of(name)] += inventory.files[name]
        largest = sizes.most_common(1)[0][0]
        return [name for name in ggufs if _model_of(name) == largest]
    return _as_indexed(inventory, names)


def _model_of(name: str) -> str:
    return SHARD.sub("", PurePosixPath(name).stem)


def _as_indexed(inventory: Inventory, names: list[str]) -> list[str]:
    """The names without parts that their index does not list, which are left over from another split."""
    parts = [name for name in names if SHARD.search(PurePosixPath(name).stem)]
    for index in {_index_of(name) for name in parts}:
        inventory.refuse_wrong(index)
        if index not in inventory.parts:
            continue
        named = {str(PurePosixPath(index).with_name(part)) for part in inventory.parts[index]}
        missing = ", ".join(sorted(PurePosixPath(name).name for name in named.difference(parts)))
        if missing:
            where = inventory.path_of(index)
            raise errors.LoadFailed(f"{where.parent} lacks {missing[:300]}, which {where.name} names: fetch it again.")
        names = [name for name in names if name in named or name not in parts or _index_of(name) != index]
    return names


def _index_of(part: str) -> str:
    path = PurePosixPath(part)
    return str(path.with_name(f"{SHARD.sub('', path.stem)}{path.suffix}.index.json"))


def _bytes_of(inventory: Inventory, name: str, bytes_per_parameter: float | None) -> int:
    if name.endswith(".safetensors"):
        header = _header(inventory, name)
        if bytes_per_parameter is None:
            return int(header["bytes"])
        packed_bytes = int(header["bytes"] - header["plain_bytes"])
        return packed_bytes + int(header["plain_numbers"] * bytes_per_parameter)
    if bytes_per_parameter is None or not name.endswith(PICKLES):
        return inventory.files[name]
    return int(_parameters_of(inventory, name) * bytes_per_parameter)


def _parameters_of(inventory: Inventory, name: str) -> int:
    if name.endswith(".safetensors"):
        return int(_header(inventory, name)["numbers"])
    # Counting the numbers of a pickle would mean running it, so they follow from its size.
    config = inventory.config(str(PurePosixPath(name).with_name("config.json")))
    dtype = config.get("dtype") or config.get("torch_dtype") or "float32"
    return inventory.files[name] // BYTES_OF_DTYPE.get(str(dtype), 4)
