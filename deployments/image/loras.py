"""LoRAs of a launch: put in force for the requests that ask for them, and out of force for the others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch.nn import Module

#: The LoRAs of a request with their scales, by name.
Adapters: TypeAlias = tuple[tuple[str, float], ...]


def names_in(pipe: DiffusionPipeline) -> frozenset[str]:
    return frozenset(name for names in _names_by_slot(pipe).values() for name in names)


def adapting(pipe: DiffusionPipeline, slots: Collection[str], always: Sequence[str] = ()) -> Callable[[Adapters], None]:
    """Returns a function that makes a set of LoRAs the one in force in these parts of the pipeline.

    It is called before every pass, and does nothing when the set is in force already. `always`: LoRAs that belong to
    the model itself. Not thread-safe: it is called by the thread that runs the part, between two runs.
    """
    parts = [(getattr(pipe, slot), frozenset(names)) for slot, names in _names_by_slot(pipe).items() if slot in slots]
    own = tuple((name, 1.0) for name in always)
    in_force: list[Adapters | None] = [None] * len(parts)

    def adapt(adapters: Adapters) -> None:
        for index, (part, names) in enumerate(parts):
            wanted = tuple((name, scale) for name, scale in (*own, *adapters) if name in names)
            if in_force[index] != wanted:
                # A change that fails half-way leaves no set in force, so that the next call makes it again.
                in_force[index] = None
                _put_in_force(part, wanted)
                in_force[index] = wanted

    return adapt


def _names_by_slot(pipe: DiffusionPipeline) -> dict[str, list[str]]:
    return pipe.get_list_adapters() if hasattr(pipe, "get_list_adapters") else {}


def _put_in_force(part: Module, adapters: Adapters) -> None:
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers: list[BaseTunerLayer] = [layer for layer in part.modules() if isinstance(layer, BaseTunerLayer)]
    names = [name for name, _ in adapters]
    for layer in layers:
        layer.enable_adapters(bool(names))
        if not names:
            continue
        layer.set_adapter(names)
        for name, scale in adapters:
            if name in layer.scaling:
                layer.set_scale(name, scale)
    # Setting an adapter marks its parameters as trainable.
    for parameter in part.parameters():
        if torch.is_floating_point(parameter):
            parameter.requires_grad_(False)
