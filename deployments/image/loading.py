"""A diffusers pipeline from a launch: look at the folder, load the parts, assemble and place them, and describe them.

Nothing here contacts a hub: further weights come from `fetch`, everything else from the folder.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cluster import errors
from cluster.catalog.entry import Source
from cluster.names import quoted
from cluster.value import JsonObject
from cluster.weights.inventory import read
from cluster.worker.family import Setup
from deployments.bits import config_for, taking_any_width
from deployments.device import dtype_for
from deployments.image import addons
from deployments.image.checkpoints import checkpoint_in, is_whole, rest_of, whole_pipeline
from deployments.image.layout import Layout, Parts, has_variant, pickled_parts
from deployments.image.options import ImageOptions
from deployments.image.placing import is_packed, place
from deployments.image.plan import number_format
from deployments.image.quantised import allowed_without_gpu, denoiser_from, refuse_other_gguf
from deployments.image.sources import any_source, controlnet_source, gguf_source, lightning_source
from deployments.image.tuning import tune

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import dtype as Dtype
    from torch.nn import Module

    from deployments.bits import PartClass

Fetch = Callable[[Source], Path]


class Loaded(NamedTuple):
    pipe: DiffusionPipeline
    about: JsonObject


@dataclass(frozen=True)
class LoadingLaunch:
    """What every stage of loading needs to know."""

    setup: Setup
    options: ImageOptions
    folder: Path
    layout: Layout
    dtype: Dtype
    fetch: Fetch
    #: A single file with the denoiser, or with all weights; the folder has the rest.
    checkpoint: Path | None = None

    @property
    def device(self) -> str:
        return self.setup.device

    @property
    def bits(self) -> dict[str, str]:
        """Slot -> bits, for the parts that bitsandbytes quantises."""
        options = self.options
        by_slot = dict.fromkeys(options.quantize_text_encoder, str(options.text_encoder_quantization))
        if options.denoiser_quantization not in (None, "fp8"):
            by_slot[self.layout.denoiser] = str(options.denoiser_quantization)
        return {slot: bits for slot, bits in by_slot.items() if slot not in options.dropped}

    def reading(self) -> JsonObject:
        """The arguments with which every part is read from the folder."""
        return {
            "dtype": self.dtype,
            "variant": self.options.variant,
            "local_files_only": True,
            "use_safetensors": None if self.setup.allow_pickle else True,
        }


def load(setup: Setup, fetch: Fetch) -> Loaded:
    options: ImageOptions = setup.options
    dtype = dtype_for(number_format(options, setup.asked, setup.device != "cpu"), setup)
    checkpoint = checkpoint_in(setup.folder)
    folder = fetch(rest_of(checkpoint, setup.entry, setup.source)) if checkpoint else setup.folder
    launch = LoadingLaunch(setup, options, folder, Layout.of(folder), dtype, fetch, checkpoint)
    _refuse_impossible(launch)
    setup.report(0.2, "loading weights")
    parts = _parts(launch)
    setup.report(0.6, "loading weights")
    pipe = _pipeline(launch, parts)
    pipe, facts = _outfitted(launch, pipe)
    setup.report(0.8, "placing weights")
    facts |= tune(pipe, launch.layout.denoiser, options, launch.dtype, launch.device)
    place(pipe, launch.layout.denoiser, options, launch.device)
    return Loaded(pipe, {**_about(launch, pipe), **facts})


# ---------------------------------------------------------------------------------------- what cannot be done


def _refuse_impossible(launch: LoadingLaunch) -> None:
    """Refuses what cannot work, before a byte of the weights is read."""
    options, layout, setup = launch.options, launch.layout, launch.setup
    layout.refuse_unknown("quantize_text_encoder", options.quantize_text_encoder)
    for slot in options.dropped:
        layout.refuse_unknown(slot, (slot,))
    if options.variant is not None and not has_variant(launch.folder, options.variant):
        raise errors.BadOption(
            f"{launch.folder} has no weights of the variant {quoted(options.variant)}: leave variant out.",
            "variant",
        )
    if options.device_map == "cuda" and setup.device == "cpu":
        raise errors.BadOption("device_map=cuda needs a GPU, and this launch has none: ask for n_gpu.", "device_map")
    _refuse_packing(launch)
    _refuse_pickles(launch)
    _refuse_cache(launch)


def _refuse_packing(launch: LoadingLaunch) -> None:
    """diffusers packs weights only while it reads them from a folder."""
    if launch.checkpoint is None:
        return
    packed = [slot for slot in launch.bits if slot == launch.layout.denoiser or is_whole(launch.checkpoint)]
    if packed:
        raise errors.BadOption(
            f"{' and '.join(packed)} of {launch.checkpoint.name} cannot be packed while it is read from one file: "
            "switch that quantisation off with false, or take transformer_quantization=fp8 or a GGUF file.",
            "model_path",
        )


def _refuse_pickles(launch: LoadingLaunch) -> None:
    if launch.setup.allow_pickle:
        return
    if launch.options.allow_pickle:
        raise errors.BadOption(
            "allow_pickle is refused: pickles can run code when they are loaded, and the server takes them only when "
            "it is started with CLUSTER_ALLOW_PICKLE=true.",
            "allow_pickle",
        )
    pickled = [slot for slot in pickled_parts(launch.folder, launch.layout) if slot not in launch.options.dropped]
    if pickled:
        raise errors.LoadFailed(
            f"{', '.join(pickled)} of {launch.folder} exists only as a pickle, which can run code when it is loaded: "
            "convert it to safetensors, or set CLUSTER_ALLOW_PICKLE=true if you trust it."
        )


def _refuse_cache(launch: LoadingLaunch) -> None:
    from diffusers import CacheMixin

    kind = class_of(launch.layout, launch.layout.denoiser)
    if launch.options.cache is not None and not issubclass(kind, CacheMixin):
        raise errors.BadOption(f"{kind.__name__} keeps nothing between steps: leave cache out.", "cache")


# ------------------------------------------------------------------------------------------------ parts


def class_of(layout: Layout, slot: str) -> PartClass:
    library, name = layout.parts[slot]
    if library not in ("diffusers", "transformers"):
        # Some pipelines, such as Kolors, bring a text encoder of their own.
        library = f"diffusers.pipelines.{library}"
    try:
        kind: PartClass = getattr(importlib.import_module(library), name)
    except (ImportError, AttributeError):
        raise errors.LoadFailed(f"{layout.pipeline} needs {name} of {library}, which is not installed.") from None
    return kind


def _parts(launch: LoadingLaunch) -> Parts:
    """The parts that are not loaded from the folder as they are, and None for those that are left out."""
    denoiser = launch.layout.denoiser
    parts: Parts = dict.fromkeys(launch.options.dropped)
    file = _denoiser_file(launch)
    if file is not None:
        parts[denoiser] = denoiser_from(file, class_of(launch.layout, denoiser), launch.folder / denoiser, launch.dtype)
    for slot, bits in launch.bits.items():
        parts[slot] = _quantised(launch, slot, bits)
    return parts


def _denoiser_file(launch: LoadingLaunch) -> Path | None:
    """The file of the denoiser, if it has one of its own. A file of another model is refused before it is read."""
    gguf = gguf_source(launch.setup.entry, launch.options, launch.setup.source.hub)
    if gguf is None:
        return None if launch.checkpoint is None or is_whole(launch.checkpoint) else launch.checkpoint
    file = launch.fetch(gguf)
    expected = None if launch.options.gguf_model_path else launch.setup.entry.facts["gguf"].get("architecture")
    refuse_other_gguf(read(file), launch.layout.parts[launch.layout.denoiser][1], expected)
    return file


def _quantised(launch: LoadingLaunch, slot: str, bits: str) -> Module:
    kind = class_of(launch.layout, slot)
    with allowed_without_gpu(launch.device):
        part = taking_any_width(
            kind.from_pretrained(
                launch.folder,
                subfolder=slot,
                quantization_config=config_for(kind, bits, launch.dtype),
                device_map={"": launch.device},
                **launch.reading(),
            )
        )
    # Weights are packed on the GPU; a part that is offloaded as a whole then makes room for the next.
    return part.to("cpu") if launch.options.offload == "model" and launch.device != "cpu" else part


# ---------------------------------------------------------------------------------------------- pipeline


def _pipeline(launch: LoadingLaunch, parts: Parts) -> DiffusionPipeline:
    if launch.checkpoint is not None and is_whole(launch.checkpoint):
        kind = getattr(importlib.import_module("diffusers"), launch.layout.pipeline)
        pipe = whole_pipeline(kind, launch.checkpoint, launch.folder, launch.dtype, parts)
    else:
        pipe = _from_folder(launch, parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _from_folder(launch: LoadingLaunch, parts: Parts) -> DiffusionPipeline:
    from diffusers import DiffusionPipeline

    spread = {"device_map": "balanced"} if launch.options.device_map == "balanced" and launch.device != "cpu" else {}
    try:
        pipe = DiffusionPipeline.from_pretrained(launch.folder, **launch.reading(), **parts, **spread)
    except (OSError, ValueError) as error:
        raise errors.LoadFailed(f"{launch.folder} cannot be loaded as a pipeline: {error}") from error
    # The library loads optional parts of a pipeline from the folder even when they are given: those of HunyuanDiT.
    pipe.register_modules(**{slot: part for slot, part in parts.items() if getattr(pipe, slot) is not part})
    return pipe


def _outfitted(launch: LoadingLaunch, pipe: DiffusionPipeline) -> tuple[DiffusionPipeline, JsonObject]:
    """The pipeline with LoRAs and ControlNets, and facts about them."""
    options, entry, hub = launch.options, launch.setup.entry, launch.setup.source.hub
    facts: JsonObject = {}
    lightning = lightning_source(entry, options, hub)
    if lightning is not None:
        is_packed = options.takes_gguf or launch.layout.denoiser in launch.bits
        facts["steps"] = addons.add_lightning(pipe, launch.fetch(lightning), is_packed)
        facts["always"] = [addons.LIGHTNING] if is_packed else []
    for name, text in options.lora_modules.items():
        addons.add_lora(pipe, name, launch.fetch(any_source(text, "lora_modules", hub)))
    if options.lora_modules:
        facts["loras"] = sorted(options.lora_modules)
        _use_only(pipe, facts.get("always", []))
    if options.controlnet:
        folders = [launch.fetch(controlnet_source(entry, name, hub)) for name in options.controlnet]
        pipe = addons.with_controlnets(pipe, [addons.controlnet(folder, launch.dtype) for folder in folders])
        facts["controlnets"] = list(options.controlnet)
    return pipe, facts


def _use_only(pipe: DiffusionPipeline, names: list[str]) -> None:
    """Only these LoRAs are in force at first: a request that names none gets the model as it is."""
    if names:
        pipe.set_adapters(names)
    else:
        pipe.disable_lora()


# ------------------------------------------------------------------------------------------------- about


def _about(launch: LoadingLaunch, pipe: DiffusionPipeline) -> JsonObject:
    import torch

    modules = {slot: part for slot, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    return {
        "pipeline": type(pipe).__name__,
        "dtype": str(launch.dtype).removeprefix("torch."),
        "offload": launch.options.offload,
        "components": {slot: _part_about(launch, slot, part) for slot, part in modules.items()},
        **{name: why for name, why in WITHOUT_EFFECT.items() if getattr(launch.options, name) not in (None, False)},
    }


#: Options that are taken from other servers' launches, and why they changed nothing.
WITHOUT_EFFECT = {
    "quantize": "works on the parts of MLX pipelines, which do not run here: it changed nothing; "
    "transformer_quantization and quantize_text_encoder do",
    "deepcache": "is not run here: it changed nothing, and pictures are exact",
}


def _part_about(launch: LoadingLaunch, slot: str, part: Module) -> JsonObject:
    return {
        "class": type(part).__name__,
        "dtype": str(launch.dtype).removeprefix("torch."),
        "bytes": bytes_of(part),
        "lives_on": _home_of(launch, part),
        "quantization": _quantization_of(launch, slot),
    }


def bytes_of(part: Module) -> int:
    """Bytes in memory, including the scales of packed weights."""
    tensors = {id(tensor): tensor for tensor in (*part.parameters(), *part.buffers())}
    scales = [getattr(tensor, "quant_state", None) for tensor in tensors.values()]
    packed = sum(state.absmax.nbytes for state in scales if state is not None)
    return int(packed + sum(tensor.nbytes for tensor in tensors.values()))


def _home_of(launch: LoadingLaunch, part: Module) -> str:
    offload = launch.options.offload
    if offload is None or (offload != "model" and is_packed(part)):
        return ", ".join(sorted({tensor.device.type for tensor in part.parameters()}))
    return f"cpu ({offload} offload)"


def _quantization_of(launch: LoadingLaunch, slot: str) -> str:
    if slot == launch.layout.denoiser:
        if launch.options.takes_gguf:
            return f"GGUF {launch.options.gguf_quantization or ''}".strip()
        return launch.options.denoiser_quantization or "none"
    return launch.bits.get(slot, "none")
