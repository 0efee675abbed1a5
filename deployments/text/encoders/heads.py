"""What a model has behind its body beside the modules that sentence-transformers knows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file

from cluster import errors


class SeveralKinds(torch.nn.Module):  # type: ignore[misc]
    """bge-m3's two other heads: a weight for each token, and a vector for each token."""

    def __init__(self, sparse: Mapping[str, torch.Tensor], tokens: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.sparse = _linear(sparse)
        self.tokens = _linear(tokens)

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        rows = features["token_embeddings"]
        features["token_weights"] = torch.relu(self.sparse(rows)).squeeze(-1)
        features["token_vectors"] = torch.nn.functional.normalize(self.tokens(rows), dim=-1)
        return features


def _linear(state: Mapping[str, torch.Tensor]) -> torch.nn.Linear:
    outputs, inputs = state["weight"].shape
    made = torch.nn.Linear(inputs, outputs, bias="bias" in state)
    made.load_state_dict(dict(state))
    return made


def small_state(folder: Path, name: str, model: str, allow_pickle: bool) -> Mapping[str, torch.Tensor]:
    """The weights of a small part, which older repositories have as a pickle only."""
    if (file := folder / f"{name}.safetensors").exists():
        return dict(load_file(file))
    if not (file := folder / f"{name}.pt").exists():
        raise errors.LoadFailed(f"{model} has no {name}.safetensors and no {name}.pt beside its weights. {OTHERWISE}")
    if not allow_pickle:
        raise errors.LoadFailed(
            f"{model} has {name} only as a pickle: convert it to safetensors, set CLUSTER_ALLOW_PICKLE=true if you "
            f"trust it, or take a source of a pinned revision. {OTHERWISE}"
        )
    state: Mapping[str, torch.Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return state


OTHERWISE = "With model_engine=sentence_transformers the model gives one vector per text and needs no such part."
