"""The memory that a launch of a diffusion model will need, found out before it is placed on a node: from its options
and from the files on this machine. And what cannot be loaded, refused while its caller waits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from cluster.catalog.entry import Entry, Source
from cluster.weights.inventory import Inventory
from cluster.weights.memory import gguf_bytes, parameters, tensors
from cluster.worker.family import Prospect
from deployments import allowed
from deployments.image.layout import DENOISERS, INDEX, Layout
from deployments.image.options import ImageOptions
from deployments.image.plan import (
    Case,
    Weights,
    number_format,
    weights_on_disk,
    weights_told,
)
from deployments.image.quantised import refuse_other_gguf
from deployments.image.sizes import sizes_on_disk, sizes_told
from deployments.image.sources import controlnet_source, gguf_source, lightning_source, paths_in, without_unused


@dataclass(frozen=True)
class PlannedLaunch:
    """The launch, and what this machine has of its files. The machine that will load it may have more of them."""

    prospect: Prospect
    source: Source
    #: The files of the weights, where they are on this machine.
    inventory: Inventory | None
    layout: Layout | None

    @classmethod
    def of(cls, prospect: Prospect) -> PlannedLaunch:
        source = prospect.source
        if source.hub == "local" and source.id.endswith(".safetensors"):
            source = source.model_copy(update={"id": str(Path(source.id).parent), "path": Path(source.id).name})
        inventory = prospect.weights(source)
        has_index = inventory is not None and INDEX in inventory.files
        layout = Layout.told_by(inventory) if inventory is not None and has_index else None
        return cls(prospect, source, inventory, layout)

    @property
    def entry(self) -> Entry:
        return self.prospect.entry

    @property
    def options(self) -> ImageOptions:
        options: ImageOptions = self.prospect.options
        return options

    @property
    def denoiser(self) -> str:
        if self.layout is not None:
            return self.layout.denoiser
        components = self.entry.facts.get("components") or {}
        return next((slot for slot in DENOISERS if slot in components), DENOISERS[0])

    def here(self, source: Source) -> Inventory | None:
        return self.prospect.weights(source, allow_pickle=False)


# ------------------------------------------------------------------------------------------ what cannot be loaded


def needed(prospect: Prospect) -> Source:
    """The source in the variant of the launch, less what that replaces or leaves out."""
    launch = PlannedLaunch.of(prospect)
    _refuse(launch)
    return without_unused(launch.source, launch.options, launch.denoiser)


def _refuse(launch: PlannedLaunch) -> None:
    """Refuses what cannot be loaded while the caller is still waiting. The worker checks again, with its own disk."""
    options, entry, hub = launch.options, launch.entry, launch.source.hub
    for option, path in paths_in(options):
        allowed(path, launch.prospect.settings, option)
    lightning_source(entry, options, hub)
    for name in options.controlnet:
        controlnet_source(entry, name, hub)
    layout = launch.layout
    if layout is None and "text_encoders" in entry.facts:
        layout = Layout(entry.name, {slot: ("", "") for slot in entry.facts["text_encoders"]})
    if layout is not None:
        layout.refuse_unknown("quantize_text_encoder", options.quantize_text_encoder)
        for slot in options.dropped:
            layout.refuse_unknown(slot, (slot,))


# ------------------------------------------------------------------------------------------------ what it weighs


def case_of(prospect: Prospect) -> Case:
    launch = PlannedLaunch.of(prospect)
    entry, options = launch.entry, launch.options
    weights = weights_told(entry.facts)
    if launch.layout is not None and launch.inventory is not None:
        weights = weights_on_disk(launch.inventory, launch.layout)
    elif launch.inventory is not None and not weights:
        weights = {"checkpoint": Weights.of("", tensors(launch.inventory), None)}
    weights |= _gguf_weights(launch, weights)
    weights |= _controlnet_weights(launch, weights)
    sizes = sizes_told(entry.facts)
    if launch.layout is not None and launch.inventory is not None:
        vae = launch.layout.parts.get("vae", ("", ""))[1]
        sizes = sizes_on_disk(launch.inventory, launch.denoiser, entry.facts.get("resolution"), vae)
    return Case(
        options=options,
        dtype=number_format(options, prospect.spec.options, prospect.on_card),
        on_gpu=prospect.on_card,
        weights=weights,
        sizes=sizes,
        has_gguf=bool(entry.facts.get("gguf")),
    )


def _gguf_weights(launch: PlannedLaunch, weights: dict[str, Weights]) -> dict[str, Weights]:
    """The weights of the denoiser, when it comes from a GGUF file on this machine."""
    source = gguf_source(launch.entry, launch.options, launch.source.hub)
    file = launch.here(source) if source is not None else None
    if file is None:
        return {}
    slot = launch.denoiser
    kind = launch.layout.parts[slot][1] if launch.layout else ""
    refuse_other_gguf(file, kind or launch.entry.name, (launch.entry.facts.get("gguf") or {}).get("architecture"))
    return {slot: replace(weights.get(slot, Weights(kind, 0)), gguf_bytes=gguf_bytes(file))}


def _controlnet_weights(launch: PlannedLaunch, weights: dict[str, Weights]) -> dict[str, Weights]:
    by_slot = {}
    for name in launch.options.controlnet:
        inventory = launch.here(controlnet_source(launch.entry, name, launch.source.hub))
        denoiser = weights.get(launch.denoiser, Weights("", 0))
        # Without its files: a ControlNet is usually a copy of the first half of the denoiser.
        numbers = parameters(inventory) if inventory else (denoiser.packable + denoiser.others) // 2
        by_slot[f"controlnet {name}"] = Weights("ControlNet", 0, numbers or 0)
    return by_slot
