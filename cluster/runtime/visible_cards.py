"""Which cards a process sees: by the variable that each maker's libraries read, as Ray's managers of cards name it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ray._private.accelerators import (
    AppleGPUAcceleratorManager,
    IntelGPUAcceleratorManager,
    NPUAcceleratorManager,
    get_accelerator_manager_for_resource,
)
from ray._private.accelerators.accelerator import AcceleratorManager

NVIDIA = "CUDA_VISIBLE_DEVICES"
#: Chooses cards of Intel as well, and those that the other variable leaves are counted anew for it.
SELECTOR = "ONEAPI_DEVICE_SELECTOR"
#: Every variable that limits which cards a process can use.
VARIABLES = (
    NVIDIA,
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
    SELECTOR,
    "ASCEND_RT_VISIBLE_DEVICES",
)
#: By torch's name for a kind of card; the cards of AMD have the name of NVIDIA's.
_MANAGERS: dict[str, type[AcceleratorManager]] = {
    "xpu": IntelGPUAcceleratorManager,
    "npu": NPUAcceleratorManager,
    "mps": AppleGPUAcceleratorManager,
}
#: What Ray counts.
RESOURCES = ("GPU", "NPU")


def names() -> tuple[str, ...]:
    """The names of the cards that this process may use; empty where it may use all."""
    managers = (get_accelerator_manager_for_resource(resource) for resource in RESOURCES)
    visible = (manager.get_current_process_visible_accelerator_ids() for manager in managers if manager is not None)
    return next((tuple(cards) for cards in visible if cards), ())


def show_only(device: str, cards: Sequence[str]) -> None:
    """Hides all other cards from this process and those that it starts; before any library looks for cards. `device`:
    what torch calls the kind of card."""
    manager = _MANAGERS.get(device) or get_accelerator_manager_for_resource("GPU")
    variable = manager.get_visible_accelerator_ids_env_var() if manager is not None else NVIDIA
    # Nobody's other cards either: a machine may have those of two makers.
    os.environ[NVIDIA] = ",".join(cards) if variable in (None, NVIDIA) or device == "cuda" else ""
    if variable is None:
        return
    os.environ[variable] = ",".join(cards)
    if variable == "ZE_AFFINITY_MASK":
        # It would choose among the cards that are left by the numbers that they had.
        os.environ.pop(SELECTOR, None)
