"""LoRAs of a launch, put in force for one request and out of force for the next."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from deployments.image.steps import Adapters


def names_in(pipe: Any) -> frozenset[str]:
    return frozenset(name for names in _listed(pipe).values() for name in names)


def adapting(pipe: Any, slots: Collection[str], always: Sequence[str] = ()) -> Callable[[Adapters], None]:
    """Makes a set the one in force in these parts; asked before every pass, it is nearly free. `always`: what belongs
    to the model itself. Not thread-safe: whoever runs a part is the one to adapt it, between two runs."""
    parts = [(getattr(pipe, slot), frozenset(names)) for slot, names in _listed(pipe).items() if slot in slots]
    own = tuple((name, 1.0) for name in always)
    now: list[Adapters | None] = [None] * len(parts)

    def adapt(adapters: Adapters) -> None:
        for place, (part, names) in enumerate(parts):
            asked = tuple((name, scale) for name, scale in (*own, *adapters) if name in names)
            if now[place] != asked:
                # Half of a change is none: what fails is done again.
                now[place] = None
                _put_in_force(part, asked)
                now[place] = asked

    return adapt


def _listed(pipe: Any) -> dict[str, list[str]]:
    """Part -> the adapters in it."""
    return pipe.get_list_adapters() if hasattr(pipe, "get_list_adapters") else {}


def _put_in_force(part: Any, adapters: Adapters) -> None:
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers: list[Any] = [layer for layer in part.modules() if isinstance(layer, BaseTunerLayer)]
    names = [name for name, _ in adapters]
    for layer in layers:
        layer.enable_adapters(bool(names))
        if not names:
            continue
        layer.set_adapter(names)
        for name, scale in adapters:
            if name in layer.scaling:
                layer.set_scale(name, scale)
    # Choosing an adapter marks it for training.
    for parameter in part.parameters():
        if torch.is_floating_point(parameter):
            parameter.requires_grad_(False)
