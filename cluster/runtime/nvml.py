"""Asks NVIDIA's driver what the cards of this machine are, how full they are, and whose processes have them.

By NVML, which holds nothing of a card, and by the binding that comes with Ray. Where there is no such driver it says so
at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import psutil
from ray._private.thirdparty import pynvml

from cluster.cards import Card, CardUser, is_same_card


def cards(home: str = "") -> tuple[Card, ...] | None:
    """Every card, and every slice of one that is cut into slices in its place; None without a driver. `home`: whose
    processes are ours."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return tuple(_card(device, home) for device in _devices())
    except pynvml.NVMLError:
        return None
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def cards_of(uuids: Sequence[str]) -> Sequence[Card]:
    """Those cards; nothing unless all of them are known."""
    every = cards() or () if uuids and all(uuids) else ()
    same = [card for uuid in uuids for card in every if is_same_card(card.uuid, uuid)]
    return same if len(same) == len(uuids) else ()


def show_slices() -> None:
    """Before Ray is started where cards are cut into slices: it counts cards only, and a process that is given a whole
    card sees the first of its slices. By the names in this variable it counts each slice as a card."""
    names = [card.uuid for card in cards() or ()]
    if any(name.startswith("MIG-") for name in names):
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", ",".join(names))


def _devices() -> Iterator[Any]:
    for number in range(pynvml.nvmlDeviceGetCount()):
        card = pynvml.nvmlDeviceGetHandleByIndex(number)
        mode = _told("nvmlDeviceGetMigMode", card)
        if not mode or not mode[0]:
            yield card
            continue
        for number_of_slice in range(_told("nvmlDeviceGetMaxMigDeviceCount", card) or 0):
            # Places without a slice are refused.
            part = _told("nvmlDeviceGetMigDeviceHandleByIndex", card, number_of_slice)
            if part is not None:
                yield part


def _card(device: Any, home: str) -> Card:
    # The later version leaves out what the driver keeps for itself.
    memory = _told("nvmlDeviceGetMemoryInfo", device, getattr(pynvml, "nvmlMemory_v2", None))
    memory = memory or _told("nvmlDeviceGetMemoryInfo", device)
    rates = _told("nvmlDeviceGetUtilizationRates", device)
    return Card(
        _text(_told("nvmlDeviceGetName", device) or ""),
        _text(_told("nvmlDeviceGetUUID", device) or ""),
        None if memory is None else int(memory.total),
        None if memory is None else int(memory.used),
        None if rates is None else rates.gpu / 100,
        _users(device, home),
    )


def _users(device: Any, home: str) -> tuple[CardUser, ...]:
    """Those that compute and those that draw; one may do both."""
    bytes_of: dict[int, int | None] = {}
    for question in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"):
        for process in _told(question, device) or ():
            before, size = bytes_of.get(process.pid), process.usedGpuMemory
            bytes_of[process.pid] = before if size is None else max(before or 0, int(size))
    return tuple(_user(pid, size, home) for pid, size in sorted(bytes_of.items()))


def _user(pid: int, size: int | None, home: str) -> CardUser:
    try:
        process = psutil.Process(pid)
        name, parents = process.name(), process.parents()
    except psutil.Error:
        return CardUser(pid, "", size)
    is_ours = any(_is_of(each, home) for each in (process, *parents))
    return CardUser(pid, name, size, tuple(parent.pid for parent in parents), is_ours)


def _is_of(process: psutil.Process, home: str) -> bool:
    """Whether it is a process of the Ray whose files are in this folder."""
    try:
        return bool(home) and process.name().startswith("ray::") and process.environ().get("CLUSTER_HOME") == home
    except psutil.Error:
        return False


def _told(question: str, *subject: Any) -> Any:
    """What the driver says; None where it does not know that of this card, or has no such question."""
    try:
        return getattr(pynvml, question)(*subject)
    except (pynvml.NVMLError, AttributeError, TypeError):
        return None


def _text(text: str | bytes) -> str:
    return text.decode() if isinstance(text, bytes) else text
