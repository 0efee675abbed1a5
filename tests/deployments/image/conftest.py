"""The tiny pipelines, each made once for all tests that need it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from tests import gguf_files, pipelines
from tests.deployments.image.compared import FolderOf


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of the tiny pipeline of that name; it is only read."""
    root = tmp_path_factory.mktemp("pipelines")
    return cache(lambda name: pipelines.saved(name, root / name))


@pytest.fixture(scope="session")
def plain(folder_of: FolderOf) -> Callable[[str], np.ndarray]:
    """The picture that the bare pipeline draws."""
    pictures: dict[str, np.ndarray] = {}

    def picture(name: str) -> np.ndarray:
        if name not in pictures:
            pipe = DiffusionPipeline.from_pretrained(folder_of(name), local_files_only=True)
            pipe.set_progress_bar_config(disable=True)
            pictures[name] = pipelines.drawn(pipe, name)
        return pictures[name]

    return picture


@pytest.fixture(scope="session")
def gguf_of(folder_of: FolderOf, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A GGUF file of the denoiser of that pipeline."""
    root = tmp_path_factory.mktemp("gguf")

    def write(name: str, type: str, architecture: str) -> Path:
        weights = load_file(folder_of(name) / "transformer" / "diffusion_pytorch_model.safetensors")
        return gguf_files.write(root / f"{name}-{architecture}-{type}.gguf", weights, type, architecture)

    return write
