"""The memory that a launch will take, before anything is loaded: the bytes of each part and where they are, the peak,
and the changes of options that make it smaller.

Weights are counted from the headers of files on disk, or else from the sizes in the catalogue.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.value import JsonObject
from cluster.weights.inventory import Inventory
from cluster.weights.memory import CUDA_CONTEXT_BYTES, HOST_BYTES, MemoryPlan, PlannedPart, Tensor, tensors
from deployments.bits import TABLES, is_matrix, packed_bytes
from deployments.image.layout import DENOISERS, Layout
from deployments.image.options import ImageOptions
from deployments.image.sizes import Sizes

#: Memory of a worker's process besides the weights, on CPU, with torch, diffusers and bitsandbytes after the first
#: pictures: measured with tiny pipelines, 460 to 500 MB.
PROCESS_BYTES = 500_000_000

#: Most pixels of a picture, where the launch says nothing: twice as many as the largest pictures that such models are
#: trained on.
USUAL_PIXELS = 2 * 1024 * 1024

#: The claim is the estimate times this, for fragmentation and for adapters, which the estimate leaves out.
MARGIN = 1.1

#: Share of a text encoder's weights that can be packed. This is T5-XXL's, without its vocabulary and the layers that
#: must stay as they are; other encoders have more.
PACKABLE_OF_ENCODERS = 0.76
#: Share of a denoiser's weights that fp8 leaves as they are; about right for FLUX.1 and Stable Diffusion 3.5.
KEPT_OF_DENOISERS = 0.3

ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
#: Bits per weight of GGUF files; those whose names end in _S, _M and _L differ by little.
GGUF_BITS = {
    "Q2_K": 2.63,
    "Q3_K": 3.44,
    "Q4_0": 4.5,
    "Q4_K": 4.5,
    "Q4_1": 5.0,
    "Q5_0": 5.5,
    "Q5_K": 5.5,
    "Q5_1": 6.0,
    "Q6_K": 6.56,
    "Q8_0": 8.5,
    "F16": 16.0,
    "BF16": 16.0,
}

#: T5 loses too much when the last layer of its blocks is packed, so transformers leaves that layer as it is.
_UNPACKED = re.compile(r"DenseReluDense\.wo\.weight$")
#: Small errors do most harm in norms and in the linear layers that modulate them, so these keep their format.
_KEPT_BY_FP8 = re.compile(r"pos_embed|patch_embed|norm|^proj_(in|out)\.")
_BLOCK = re.compile(r"^(.*?\.\d+)\.")


# ------------------------------------------------------------------------------------------- weights of a part


@dataclass(frozen=True)
class Weights:
    """How many numbers one part has, by how they can be stored."""

    kind: str
    #: Numbers in linear layers, which can be packed.
    packable: int
    others: int = 0
    #: Of all of them, those that fp8 leaves as they are.
    kept: int = 0
    #: Rows of the linear layers: in 8 bits each row has a scale.
    rows: int = 0
    #: Bytes of weights that are already packed in the file.
    packed_bytes: int = 0
    #: The share of it that is on the device at once when its blocks are offloaded in groups.
    block_share: float = 0.1
    #: Size of its GGUF file.
    gguf_bytes: int | None = None

    @classmethod
    def of(cls, kind: str, tensors: Iterable[Tensor], tables: re.Pattern[str] | None) -> Weights:
        """`tables` matches the names of matrices that are looked up, not multiplied; denoisers have none."""
        packable = others = kept = rows = packed_bytes = 0
        blocks: dict[str, int] = defaultdict(int)
        for tensor in tensors:
            if not tensor.is_plain:
                packed_bytes += tensor.bytes
            elif _is_packable(tensor, tables):
                packable += tensor.numbers
                rows += tensor.shape[0]
            else:
                others += tensor.numbers
            kept += tensor.numbers if tensor.is_plain and _KEPT_BY_FP8.search(tensor.name) else 0
            match = _BLOCK.match(tensor.name)
            blocks[match[1] if match else ""] += tensor.bytes
        return cls(kind, packable, others, kept, rows, packed_bytes, _share_at_once(blocks))

    def bytes(self, item_bytes: int, quantization: str) -> int:
        unpacked = self.others * item_bytes + self.packed_bytes
        match quantization:
            case "8-bit" | "4-bit" | "nf4":
                return packed_bytes(quantization, self.packable, self.rows) + unpacked
            case "fp8":
                return self.packable + self.others + self.kept * (item_bytes - 1) + self.packed_bytes
        if quantization.startswith("GGUF"):
            return self._gguf(quantization.removeprefix("GGUF "), item_bytes)
        return self.packable * item_bytes + unpacked

    def _gguf(self, type: str, item_bytes: int) -> int:
        if self.gguf_bytes is not None:
            return self.gguf_bytes * item_bytes // 2 if type == "F16" else self.gguf_bytes
        bits = 8.0 * item_bytes if type == "F16" else GGUF_BITS.get(re.sub(r"_[SML]$", "", type), 16.0)
        return int((self.packable + self.others) * bits / 8)


def _is_packable(tensor: Tensor, tables: re.Pattern[str] | None) -> bool:
    return is_matrix(tensor) and (tables is None or not (tables.search(tensor.name) or _UNPACKED.search(tensor.name)))


def _share_at_once(blocks: Mapping[str, int]) -> float:
    """The share of a part outside of its blocks, together with the block that runs and the one that comes next."""
    largest = max((size for name, size in blocks.items() if name), default=0)
    return min(1.0, (blocks.get("", 0) + 2 * largest) / max(1, sum(blocks.values())))


def weights_on_disk(inventory: Inventory, layout: Layout) -> dict[str, Weights]:
    """By slot, for the parts whose weights are on disk."""
    weights = {}
    for slot, (_, kind) in layout.parts.items():
        part = inventory.under(slot)
        if any(name.endswith(".safetensors") and "/" not in name for name in part.files):
            tables = None if slot in DENOISERS else TABLES
            weights[slot] = Weights.of(kind, tensors(part), tables)
    return weights


def weights_told(facts: JsonObject) -> dict[str, Weights]:
    """By slot, from the billions of parameters in a catalogue entry."""
    components: Mapping[str, float] = facts.get("components") or {}
    weights = {}
    for slot, billions in components.items():
        numbers = int(billions * 1e9)
        packable = int(numbers * PACKABLE_OF_ENCODERS) if slot.startswith("text_encoder") else numbers
        weights[slot] = Weights("", packable, numbers - packable, kept=int(numbers * KEPT_OF_DENOISERS))
    return weights


def number_format(options: ImageOptions, named: Collection[str], on_gpu: bool) -> str:
    """On CPU float32, unless the launch itself sets torch_dtype: the option of a catalogue entry is meant for GPUs."""
    if options.torch_dtype == "auto" or not (on_gpu or "torch_dtype" in named):
        return "bfloat16" if on_gpu else "float32"
    return options.torch_dtype


# --------------------------------------------------------------------------------------------------- the plan


@dataclass(frozen=True)
class Case:
    """All that the plan depends on."""

    options: ImageOptions
    dtype: str
    on_gpu: bool
    weights: Mapping[str, Weights]
    sizes: Sizes = Sizes()
    has_gguf: bool = False

    @property
    def denoiser(self) -> str:
        return next((slot for slot in DENOISERS if slot in self.weights), "")

    @property
    def text_encoders(self) -> tuple[str, ...]:
        return tuple(slot for slot in self.weights if slot.startswith("text_encoder"))

    @property
    def pixels(self) -> int:
        """Of the largest picture."""
        return most_pixels(self.options, self.sizes.side)

    @property
    def item_bytes(self) -> int:
        return ITEM_BYTES[self.dtype]

    def with_options(self, **changes: object) -> Case:
        return replace(self, options=self.options.model_copy(update=changes))


def most_pixels(options: ImageOptions, side: int) -> int:
    """That one picture may have."""
    return options.max_pixels or max(USUAL_PIXELS, 2 * side**2)


def plan(case: Case) -> MemoryPlan:
    rows = tuple(_rows(case))
    in_tiles = case.options.vae_tiling
    decoding = case.sizes.decoding(case.pixels, case.item_bytes, on_card=case.on_gpu, in_tiles=in_tiles)
    denoising = case.sizes.denoising(case.pixels, case.item_bytes)
    fixed = CUDA_CONTEXT_BYTES if case.on_gpu else PROCESS_BYTES
    if not case.on_gpu or case.options.offload is None:
        peak = sum(row.bytes for row in rows) + max(decoding, denoising)
    else:
        peak = max(
            size + (decoding if slot == "vae" else denoising if slot == case.denoiser else 0)
            for slot, size in _at_once(case, rows)
        )
    # On CPU the process was measured as a whole; on a card the context is another for each kind of card.
    spare = int((MARGIN - 1) * (peak + fixed if case.on_gpu else peak))
    kept_in_memory = sum(row.bytes for row in rows if row.lives_on.startswith("main memory"))
    host = HOST_BYTES + kept_in_memory if case.on_gpu else 0
    return MemoryPlan(rows, max(decoding, denoising), fixed, spare, peak + fixed + spare, host)


def _rows(case: Case) -> Iterator[PlannedPart]:
    for slot, weights in case.weights.items():
        if slot not in case.options.dropped:
            quantization = quantization_of(case, slot)
            size = weights.bytes(case.item_bytes, quantization)
            yield PlannedPart(slot, weights.kind, case.dtype, quantization, size, _home_of(case, quantization))


def quantization_of(case: Case, slot: str) -> str:
    options = case.options
    if slot == case.denoiser:
        if options.takes_gguf:
            return f"GGUF {_gguf_type(options)}".strip()
        return options.denoiser_quantization or "none"
    return (options.text_encoder_quantization if slot in options.quantize_text_encoder else None) or "none"


def _gguf_type(options: ImageOptions) -> str:
    if options.gguf_quantization is not None:
        return options.gguf_quantization.upper()
    named = re.findall(r"(?i)(?:BF16|F16|Q\d_(?:K(?:_[SML])?|\d))", Path(options.gguf_model_path or "").stem)
    return str(named[-1]).upper() if named else ""


def _home_of(case: Case, quantization: str) -> str:
    if not case.on_gpu:
        return "main memory"
    match case.options.offload:
        case "model":
            return "main memory, on the card while it runs"
        case "group" | "sequential" if quantization not in ("8-bit", "4-bit", "nf4"):
            return "main memory, layers on the card while they run"
    return "card"


def _at_once(case: Case, rows: Iterable[PlannedPart]) -> Iterator[tuple[str, int]]:
    """For each part that may run: its slot, and the bytes on the GPU while it runs."""
    rows = tuple(rows)
    stays = sum(row.bytes for row in rows if row.lives_on == "card")
    for row in rows:
        if row.lives_on == "card":
            yield row.slot, stays
        elif case.options.offload == "model":
            yield row.slot, stays + row.bytes
        else:
            yield row.slot, stays + int(row.bytes * case.weights[row.slot].block_share)


# ------------------------------------------------------------------------------------------------- the ladder


def rungs(case: Case) -> Iterator[JsonObject]:
    """Changes of options that would make the launch smaller, the least harmful first."""
    options = case.options
    encoders = [slot for slot in case.text_encoders if slot not in options.dropped]
    if encoders and not options.quantize_text_encoder:
        largest = max(encoders, key=lambda slot: case.weights[slot].bytes(case.item_bytes, "none"))
        yield {"quantize_text_encoder": largest}
    if case.denoiser and not options.takes_gguf and options.denoiser_quantization is None:
        yield {"gguf_quantization": "Q4_0"} if case.has_gguf else {"transformer_quantization": "nf4"}
    if case.pixels > case.sizes.tile**2 and not options.vae_tiling:
        yield {"vae_tiling": True}
    if case.pixels > case.sizes.side**2:
        yield {"max_pixels": case.sizes.side**2}
    if case.on_gpu and options.device_map is None:
        if options.offload is None:
            yield {"cpu_offload": "model"}
        if options.offload in (None, "model"):
            yield {"cpu_offload": "group"}
            if options.quantize_text_encoder:
                # Packed weights stay on the GPU even when parts are offloaded.
                yield {"quantize_text_encoder": False, "cpu_offload": "group"}
