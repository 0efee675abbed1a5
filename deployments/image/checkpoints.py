"""Models in a single file: what the file contains, and where the rest of its pipeline comes from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cluster import errors
from cluster.catalog.entry import Entry, Source
from cluster.weights.inventory import read
from cluster.weights.memory import tensors
from deployments.image.layout import INDEX, Parts

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import dtype as Dtype

    from deployments.image.tasks import PipelineClass

#: Prefixes of the tensors of text encoders in files that contain any.
_ENCODERS = ("cond_stage_model.", "conditioner.embedders.", "text_encoders.")


def checkpoint_in(path: Path) -> Path | None:
    """The single file with the weights; None where there is the folder of a pipeline."""
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
    """Whether the file contains a whole pipeline, and not only its denoiser."""
    return any(tensor.name.startswith(_ENCODERS) for tensor in tensors(read(file)))


def rest_of(file: Path, entry: Entry, own: Source) -> Source:
    """The pipeline that the file belongs to, without the weights that the file has. The catalogue names it, or else the
    names of the tensors show it."""
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


def whole_pipeline(kind: PipelineClass, file: Path, folder: Path, dtype: Dtype, parts: Parts) -> DiffusionPipeline:
    try:
        return kind.from_single_file(str(file), config=str(folder), dtype=dtype, local_files_only=True, **parts)
    # Weights of another model make the library's conversion fail with any of these.
    except (ValueError, RuntimeError, KeyError, OSError) as error:
        raise errors.LoadFailed(f"{file.name} cannot be loaded as a {kind.__name__}: {error}") from error
