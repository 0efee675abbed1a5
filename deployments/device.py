"""Torch on the device a worker was given: its share of the cores or of the card, and the type to compute in."""

from __future__ import annotations

from typing import Any

from cluster.family import Setup


def torch_for(setup: Setup) -> Any:
    """Imports torch and keeps it within what was claimed, so that only the model that needs too much fails."""
    import torch

    torch.set_num_threads(setup.threads)
    if setup.device == "cuda" and setup.card_share < 1:
        torch.cuda.set_per_process_memory_fraction(setup.card_share)
    return torch


def library_arguments(setup: Setup) -> dict[str, Any]:
    """How sentence-transformers is told to load a folder, for every kind of model it knows; the number format apart."""
    return {
        "device": setup.device,
        "local_files_only": True,
        "trust_remote_code": setup.remote_code,
        "model_kwargs": {} if setup.allow_pickle else {"use_safetensors": True},
    }


def dtype_for(name: str, setup: Setup) -> Any:
    """`auto` is what computes exactly on CPU and fast on a GPU."""
    torch = torch_for(setup)
    if name == "auto":
        return torch.float32 if setup.device == "cpu" else torch.bfloat16
    return getattr(torch, name)
