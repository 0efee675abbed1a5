"""Which family can load a folder that no catalogue names, told by the files in it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from cluster.weights.inventory import Inventory


@dataclass(frozen=True)
class Contents:
    files: Collection[str] = ()
    #: config.json
    config: Mapping[str, object] = field(default_factory=dict)
    #: What sentence-transformers calls it in config_sentence_transformers.json.
    kind: str = ""
    #: The classes in modules.json.
    modules: Collection[str] = ()

    @classmethod
    def of(cls, inventory: Inventory) -> Contents:
        modules = inventory.configs.get("modules.json")
        rows = modules if isinstance(modules, list) else []
        types = [str(row.get("type", "")) for row in rows if isinstance(row, dict)]
        described = inventory.config("config_sentence_transformers.json")
        # PyLate has not always said what it saved, but always had its own classes, or prefixes for the two roles.
        is_pylate = "query_prefix" in described or any(type.startswith("pylate.") for type in types)
        return cls(
            {name for name in inventory.files if "/" not in name},
            inventory.config() or inventory.config("0_CLIPModel/config.json"),
            str(described.get("model_type") or ("ColBERT" if is_pylate else "")),
            [type.rpartition(".")[2] for type in types],
        )


def family_in(type: str, contents: Contents) -> str | None:
    """The name of one of the type's families, or None for the usual one."""
    named = contents.config.get("architectures")
    architectures = [str(name) for name in named] if isinstance(named, list) else []
    is_late = (
        contents.kind in ("MultiVectorEncoder", "ColBERT")
        or "MultiVectorMask" in contents.modules
        or "HF_ColBERT" in architectures
    )
    if type in ("embedding", "rerank") and is_late:
        return "late-interaction"
    model_type = str(contents.config.get("model_type") or "")
    if type == "rerank" and model_type == "qwen3_vl":
        return "vision"
    if type == "rerank":
        is_causal = any(name.endswith("ForCausalLM") for name in architectures) or "LogitScore" in contents.modules
        return "causal" if is_causal else None
    if type == "llm":
        suffixes = {name.rpartition(".")[2] for name in contents.files}
        return "transformers" if "safetensors" in suffixes and "gguf" not in suffixes else None
    if type != "embedding":
        return None
    stems = {name.rpartition(".")[0] for name in contents.files}
    if {"sparse_linear", "colbert_linear"} <= stems:
        return "bge-m3"
    # A masked language model without more is what many dense encoders were made of, and not said to be sparse.
    if contents.kind == "SparseEncoder" or {"SpladePooling", "SparseAutoEncoder"} & set(contents.modules):
        return "sparse"
    if "StaticEmbedding" in contents.modules:
        return "static"
    if model_type in ("clip", "siglip", "siglip2", "chinese_clip") and not {"Transformer"} & set(contents.modules):
        return "clip"
    return "clap" if model_type == "clap" else None
