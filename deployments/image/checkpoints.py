"""Models that are one file: what is in it, and where the rest of its pipeline comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster import errors
from cluster.catalog.entry import Entry, Source
from cluster.weights.inventory import read
from cluster.weights.memory import tensors
from deployments.image.layout import INDEX

#: How the names of text encoders begin in the files that have them.
_ENCODERS = ("cond_stage_model.", "conditioner.embedders.", "text_encoders.")


def checkpoint_in(path: Path) -> Path | None:
    """The file, where there is no folder of a pipeline."""
    if path.is_file():
        return path
    if (path / INDEX).is_file():
        return None
    files = sorted(path.glob("*.safetensors"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise errors.LoadFailed(f"{path} has {names}, and no {INDEX}: give one of the files as model_path.")
    return files[0] if files else None


def is_whole(file: Path) -> bool:
    """Whether it is a pipeline, and not only its denoiser."""
    return any(tensor.name.startswith(_ENCODERS) for tensor in tensors(read(file)))


def rest_of(file: Path, entry: Entry, own: Source) -> Source:
    """The pipeline that the file belongs to, less what the file has: as the catalogue says, or as its names tell."""
    listed = next((source for source in entry.sources if source != own and source.id != own.id), None)
    source = listed or Source(hub="huggingface", id=_repository_of(file))
    places = ("*",) if is_whole(file) else ("transformer/*", "unet/*")
    unused = [f"{folder}.{suffix}" for folder in places for suffix in ("safetensors", "bin")]
    return source.model_copy(update={"exclude": (*source.exclude, *unused)})


def _repository_of(file: Path) -> str:
    import torch
    from diffusers.loaders.single_file_utils import fetch_diffusers_config

    outline = {tensor.name: torch.empty(tensor.shape, device="meta") for tensor in tensors(read(file))}
    return str(fetch_diffusers_config(outline)["pretrained_model_name_or_path"])


def whole_pipeline(kind: Any, file: Path, folder: Path, dtype: Any, parts: dict[str, Any]) -> Any:
    try:
        return kind.from_single_file(str(file), config=str(folder), dtype=dtype, local_files_only=True, **parts)
    # Weights of another model end in whatever its conversion stumbles over.
    except (ValueError, RuntimeError, KeyError, OSError) as error:
        raise errors.LoadFailed(f"{file.name} cannot be loaded as a {kind.__name__}: {error}") from error
