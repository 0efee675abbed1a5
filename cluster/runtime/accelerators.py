"""Which cards of this machine torch can use, and which ones they are; run as a program it says so in JSON, and what
torch holds goes with it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

NONE: tuple[str, dict[int, int]] = ("cpu", {})


def usable(torch: Any) -> tuple[str, dict[int, int]]:
    """Torch's name for the kind of card, and by number the bytes of each that can be used; `cpu` where there is none.

    Tried, not asked: torch says that cards are there whose driver is too old for it."""
    for kind in ("cuda", "xpu", "npu"):
        module = getattr(torch, kind, None)
        if module is not None and module.is_available():
            cards = [index for index in range(module.device_count()) if _works(torch, f"{kind}:{index}")]
            if cards:
                return kind, {index: int(module.get_device_properties(index).total_memory) for index in cards}
    mps = getattr(getattr(torch, "backends", None), "mps", None)
    if mps is not None and mps.is_available() and _works(torch, "mps"):
        return "mps", {0: int(torch.mps.recommended_max_memory())}
    return NONE


def identities(torch: Any, kind: str, numbers: Iterable[int]) -> dict[int, tuple[str, str]]:
    """What each card is called, and its number in the world; empty where torch does not say."""
    if kind == "mps":
        return {number: ("Apple GPU", "") for number in numbers}
    properties = {number: getattr(torch, kind).get_device_properties(number) for number in numbers}
    return {
        number: (str(getattr(facts, "name", "")), str(getattr(facts, "uuid", "")))
        for number, facts in properties.items()
    }


def _works(torch: Any, device: str) -> bool:
    try:
        return float((torch.ones(1, device=device) + 1).cpu()[0]) == 2.0
    except RuntimeError as error:
        # One that others have filled at this moment works all the same.
        return "out of memory" in str(error).lower()


def main() -> None:
    try:
        import torch
    except ImportError:
        device, sizes = NONE
        print(json.dumps({"device": device, "sizes": sizes, "identities": {}}))
        return
    with suppress(ImportError):
        # Makes torch know the cards of Ascend.
        import torch_npu  # noqa: F401
    device, sizes = usable(torch)
    print(json.dumps({"device": device, "sizes": sizes, "identities": identities(torch, device, sizes)}))


if __name__ == "__main__":
    main()
