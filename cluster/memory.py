"""Bytes a model needs: its weights, read from their headers, and what runs beside them."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cluster import errors
from cluster.weights import PICKLES, SHARD, names_in, weight_set

#: What a worker's process needs besides weights, on CPU. Measured as PSS of a Ray actor with torch, transformers and
#: sentence-transformers after its first forward pass, less the weights: 425 MiB.
PROCESS_BYTES = 450_000_000

#: What CUDA takes of a card before the first tensor: its context, kernels and the libraries' workspaces.
CUDA_CONTEXT_BYTES = 2**29

#: Peak of a batch of 16,384 tokens above the weights. Measured on CPU in fp32, by hidden size: 405 MB (384), 560 MB
#: (768), 747 MB (1024); such models have about 90, 440 and 1,300 MB of weights.
ENCODER_ACTIVATION_BYTES = 430_000_000
ENCODER_ACTIVATION_SHARE = 0.3

#: Larger headers are refused by the format's own reader as well.
MAX_HEADER_BYTES = 100_000_000

_CASTABLE = ("F64", "F32", "F16", "BF16")
_BYTES_OF_DTYPE = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


def claim_for_encoder(weight_bytes: int, *, on_gpu: bool) -> int:
    """What a worker of an embedding model or reranker takes: of its card, or of the node's memory on CPU."""
    activations = ENCODER_ACTIVATION_BYTES + int(ENCODER_ACTIVATION_SHARE * weight_bytes)
    return weight_bytes + activations + (CUDA_CONTEXT_BYTES if on_gpu else PROCESS_BYTES)


def weight_bytes(folder: Path, bytes_per_parameter: float | None = None) -> int:
    """Memory of the weights, as stored or at so many bytes per parameter; quantised tensors stay as they are."""
    if (folder / "model_index.json").is_file():
        return sum(component_bytes(folder, bytes_per_parameter).values())
    return sum(_bytes_of(path, bytes_per_parameter) for path in _weight_files(folder))


def component_bytes(folder: Path, bytes_per_parameter: float | None = None) -> dict[str, int]:
    """The same for each part of a pipeline that has weights."""
    index = json.loads((folder / "model_index.json").read_text())
    parts = [name for name, kind in index.items() if isinstance(kind, list) and kind[:1] != [None]]
    parts = [name for name in parts if weight_set(names_in(folder / name))]
    return {name: weight_bytes(folder / name, bytes_per_parameter) for name in parts}


def parameters(folder: Path) -> int | None:
    """How many numbers the weights are; None for GGUF, which packs them in blocks."""
    files = _weight_files(folder)
    if any(path.suffix == ".gguf" for path in files):
        return None
    return sum(_parameters_of(path) for path in files)


class Tensor(NamedTuple):
    name: str
    shape: tuple[int, ...]
    #: As the file has it.
    bytes: int
    #: False for what is packed already, and keeps its size in whatever number format it is loaded.
    is_plain: bool

    @property
    def numbers(self) -> int:
        return math.prod(self.shape)


def tensors(place: Path) -> Iterator[Tensor]:
    """What a file or a folder's set of weights is made of; nothing of formats that cannot be read without running."""
    for path in [place] if place.is_file() else _weight_files(place):
        if path.suffix == ".safetensors":
            for name, told in _header(path).items():
                size = told["data_offsets"][1] - told["data_offsets"][0]
                yield Tensor(name, tuple(told["shape"]), size, told["dtype"] in _CASTABLE)


def gguf_architecture(path: Path) -> str:
    """Which model the weights of a GGUF file belong to, as its header says."""
    field = _gguf(path).get_field("general.architecture")
    return str(field.contents()) if field is not None else ""


def gguf_bytes(path: Path) -> int:
    """Memory of a GGUF file's weights, which stay packed."""
    return sum(int(tensor.n_bytes) for tensor in _gguf(path).tensors)


def _gguf(path: Path) -> Any:
    from gguf import GGUFReader

    try:
        return GGUFReader(path)
    # It reads a map of the file, and stumbles wherever the file ends or says nonsense.
    except (ValueError, IndexError, KeyError, OSError, OverflowError, UnicodeDecodeError) as error:
        raise errors.LoadFailed(f"{path} is not a whole GGUF file ({error}): fetch it again.") from error


def _weight_files(folder: Path) -> list[Path]:
    files = [folder / name for name in weight_set(names_in(folder))]
    if not files:
        raise errors.LoadFailed(f"{folder} has no weights: it needs safetensors, GGUF or PyTorch files.")
    ggufs = [path for path in files if path.suffix == ".gguf"]
    if ggufs:
        # Several quantisations may lie side by side; one of them is loaded.
        sizes: Counter[str] = Counter()
        for path in ggufs:
            sizes[SHARD.sub("", path.stem)] += path.stat().st_size
        largest = sizes.most_common(1)[0][0]
        return [path for path in ggufs if SHARD.sub("", path.stem) == largest]
    return _as_indexed(files)


def _as_indexed(files: list[Path]) -> list[Path]:
    """Without parts that their index does not know: leftovers of another split."""
    parts = [path for path in files if SHARD.search(path.stem)]
    for index in filter(Path.is_file, {_index_of(path) for path in parts}):
        named = {index.with_name(name) for name in json.loads(index.read_text())["weight_map"].values()}
        missing = ", ".join(sorted(path.name for path in named.difference(parts)))
        if missing:
            raise errors.LoadFailed(f"{index.parent} lacks {missing}, which {index.name} names: fetch it again.")
        files = [path for path in files if path in named or path not in parts or _index_of(path) != index]
    return files


def _index_of(part: Path) -> Path:
    return part.with_name(f"{SHARD.sub('', part.stem)}{part.suffix}.index.json")


def _bytes_of(path: Path, bytes_per_parameter: float | None) -> int:
    if path.suffix == ".safetensors":
        return sum(_tensor_bytes(tensor, bytes_per_parameter) for tensor in _header(path).values())
    size = path.stat().st_size
    if bytes_per_parameter is None or path.suffix not in PICKLES:
        return size
    return int(_parameters_of(path) * bytes_per_parameter)


def _tensor_bytes(tensor: dict[str, Any], bytes_per_parameter: float | None) -> int:
    if bytes_per_parameter is not None and tensor["dtype"] in _CASTABLE:
        return int(math.prod(tensor["shape"]) * bytes_per_parameter)
    start, end = tensor["data_offsets"]
    return int(end - start)


def _parameters_of(path: Path) -> int:
    if path.suffix == ".safetensors":
        return sum(math.prod(tensor["shape"]) for tensor in _header(path).values())
    # Opening a pickle to count would run it.
    config = path.with_name("config.json")
    known = json.loads(config.read_text()) if config.is_file() else {}
    dtype = known.get("dtype") or known.get("torch_dtype") or "float32"
    return path.stat().st_size // _BYTES_OF_DTYPE.get(dtype, 4)


def _header(path: Path) -> dict[str, dict[str, Any]]:
    """Name -> dtype, shape and place of every tensor of a safetensors file."""
    size = path.stat().st_size
    with path.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise errors.LoadFailed(f"{path} is not a safetensors file: fetch it again.")
        try:
            header: dict[str, dict[str, Any]] = json.loads(content.read(length))
        except ValueError as error:
            raise errors.LoadFailed(f"{path} has an unreadable header ({error}): fetch it again.") from error
    header.pop("__metadata__", None)
    end = 8 + length + max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    if end != size:
        raise errors.LoadFailed(f"{path} has {size} bytes where its header speaks of {end}: fetch it again.")
    return header
