"""Which family can load a folder that no catalogue names, told by the files in it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Contents:
    files: Collection[str] = ()
    #: config.json
    config: Mapping[str, Any] = field(default_factory=dict)
    #: What sentence-transformers calls it in config_sentence_transformers.json.
    kind: str = ""
    #: The classes in modules.json.
    modules: Collection[str] = ()

    @classmethod
    def of(cls, folder: Path) -> Contents:
        """What can be read of it: nothing at all when it is on another machine."""
        try:
            files = {path.name for path in folder.iterdir()}
        except OSError:
            return cls()
        own, modules = _json(folder / "config_sentence_transformers.json"), _json(folder / "modules.json")
        inner = _json(folder / "config.json") or _json(folder / "0_CLIPModel" / "config.json")
        return cls(
            files,
            inner if isinstance(inner, dict) else {},
            str(own.get("model_type") or "") if isinstance(own, dict) else "",
            [str(row.get("type", "")).rpartition(".")[2] for row in modules if isinstance(row, dict)],
        )


def family_in(type: str, contents: Contents) -> str | None:
    """A name among the type's families, or None where nothing says that it is not of the usual one."""
    architectures = [str(name) for name in contents.config.get("architectures") or ()]
    is_late = (
        contents.kind in ("MultiVectorEncoder", "ColBERT")
        or "MultiVectorMask" in contents.modules
        or "HF_ColBERT" in architectures
    )
    if type in ("embedding", "rerank") and is_late:
        return "late-interaction"
    if type == "rerank":
        is_causal = any(name.endswith("ForCausalLM") for name in architectures) or "LogitScore" in contents.modules
        return "causal" if is_causal else None
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
    model_type = str(contents.config.get("model_type") or "")
    if model_type in ("clip", "siglip", "siglip2", "chinese_clip") and not {"Transformer"} & set(contents.modules):
        return "clip"
    return "clap" if model_type == "clap" else None


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
