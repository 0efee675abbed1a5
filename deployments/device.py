"""Torch on the device a worker was given: its share of the cores or of the card, and the type to compute in."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from cluster import errors
from cluster.value import JsonObject
from cluster.worker.family import Setup

if TYPE_CHECKING:
    import torch

#: Files that name classes, and how they name one of another repository.
_SAY_CODE = (
    "config.json",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "modules.json",
)
_CODE_ELSEWHERE = re.compile(r'"([\w.-]+/[\w.-]+)--[\w.]+"')


def torch_for(setup: Setup) -> ModuleType:
    """Imports torch and keeps it within what was claimed, so that only the model that needs too much fails."""
    import torch

    torch.set_num_threads(setup.threads)
    if setup.device != "cpu":
        card = torch.backends.mps if setup.device == "mps" else getattr(torch, setup.device, None)
        if card is None or not card.is_available():
            raise errors.LoadFailed(
                f"{setup.entry.name} was given a GPU, but torch {torch.__version__} of this node can use none: "
                "launch it with n_gpu none, or install the torch that is made for this card."
            )
        limit = getattr(getattr(torch, setup.device), "set_per_process_memory_fraction", None)
        if setup.card_share < 1 and limit is not None:
            limit(setup.card_share)
    module: ModuleType = torch
    return module


def library_arguments(setup: Setup) -> JsonObject:
    """How sentence-transformers is told to load a folder, for every kind of model it knows; the number format apart."""
    refuse_foreign_code(setup)
    return {
        "device": setup.device,
        "local_files_only": True,
        "trust_remote_code": setup.remote_code,
        "model_kwargs": {} if setup.allow_pickle else {"use_safetensors": True},
    }


def refuse_foreign_code(setup: Setup) -> None:
    """A config may name another repository for its code, and transformers would load that at whatever commit it has."""
    if not setup.remote_code:
        return
    for file in [*setup.folder.glob("*.json"), *setup.folder.glob("*/*.json")]:
        foreign = _CODE_ELSEWHERE.search(file.read_text(errors="replace")) if file.name in _SAY_CODE else None
        if foreign:
            raise errors.LoadFailed(
                f"{setup.entry.name} takes code from another repository, {foreign[1]}, of which no commit is trusted: "
                "use a revision that has its code beside its weights."
            )


def brings_code(folder: Path) -> bool:
    """Whether a folder names classes of its own, or of another repository, which run where code is trusted."""
    for name in _SAY_CODE:
        try:
            config = json.loads((folder / name).read_text())
        except (OSError, ValueError):
            continue  # what cannot be read names nothing
        if isinstance(config, dict) and "auto_map" in config:
            return True
    return False


def dtype_for(name: str, setup: Setup) -> torch.dtype:
    dtype: torch.dtype = getattr(torch_for(setup), dtype_name(name, setup.device))
    return dtype


def dtype_name(name: str, device: str) -> str:
    """`auto` is what computes exactly on CPU and fast on a GPU."""
    if name != "auto":
        return name
    return "float32" if device == "cpu" else "bfloat16"
