"""Weights in one file, for a denoiser or a whole pipeline."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file

from cluster import errors
from cluster.catalog.entry import Entry, Source
from deployments.image.checkpoints import rest_of
from tests import checkpoints
from tests.deployments.image.compared import FolderOf, away, kinds_in
from tests.pipelines import drawn, loaded


def checkpoint(folder: Path, source: Path) -> Path:
    folder.mkdir()
    return Path(shutil.copy(source / "transformer" / "diffusion_pytorch_model.safetensors", folder / "own.safetensors"))


@pytest.mark.parametrize("names_the_file", [True, False])
def test_a_denoiser_in_one_file_takes_the_rest_from_where_the_entry_says(
    names_the_file: bool, folder_of: FolderOf, plain: Any, tmp_path: Path
) -> None:
    file = checkpoint(tmp_path / "own", folder_of("flux"))
    found = loaded(file if names_the_file else file.parent, base=folder_of("flux"))
    assert away(drawn(found.pipe, "flux"), plain("flux")) < 1e-6


def test_one_file_goes_with_a_packed_text_encoder_and_fp8_and_not_with_packing_itself(
    folder_of: FolderOf, tmp_path: Path
) -> None:
    file = checkpoint(tmp_path / "own", folder_of("flux"))
    options = {"quantize_text_encoder": "text_encoder_2", "transformer_quantization": "fp8"}
    found = loaded(file, base=folder_of("flux"), **options)
    assert "Linear8bitLt" in kinds_in(found.pipe.text_encoder_2)
    assert found.pipe.transformer.transformer_blocks[0].attn.to_q.weight.dtype == torch.float8_e4m3fn
    with pytest.raises(errors.BadOption, match="transformer of own.safetensors cannot be packed"):
        loaded(file, base=folder_of("flux"), transformer_nf4=True)


def test_a_file_of_another_model_and_a_folder_of_many_files_are_refused(folder_of: FolderOf, tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "own", folder_of("flux_wide"))
    with pytest.raises(errors.LoadFailed, match="own.safetensors does not hold the weights of this Flux"):
        loaded(file, base=folder_of("flux"))
    shutil.copy(file, file.with_name("other.safetensors"))
    with pytest.raises(errors.LoadFailed, match="has other.safetensors, own.safetensors, and no model_index.json"):
        loaded(file.parent, base=folder_of("flux"))


def test_a_whole_pipeline_in_one_file_takes_only_its_settings_from_elsewhere(
    folder_of: FolderOf, plain: Any, tmp_path: Path
) -> None:
    pipe = DiffusionPipeline.from_pretrained(folder_of("sd15"), local_files_only=True)
    file = checkpoints.write(tmp_path / "sd15.safetensors", pipe)
    settings = shutil.copytree(folder_of("sd15"), tmp_path / "settings", ignore=shutil.ignore_patterns("*.safetensors"))
    found = loaded(file, base=settings, vae_tiling=True)
    assert found.pipe.vae.use_tiling
    assert away(drawn(found.pipe, "sd15"), plain("sd15")) < 1e-5
    with pytest.raises(errors.BadOption, match="text_encoder of sd15.safetensors cannot be packed"):
        loaded(file, base=settings, quantize_text_encoder="text_encoder")


def test_what_a_file_has_is_not_downloaded_again(folder_of: FolderOf, tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "own", folder_of("flux"))
    hub = Source(hub="huggingface", id="org/flux")
    entry = Entry(name="m", type="image", family="diffusers", sources=(hub,))
    own = Source(hub="local", id=str(file.parent))
    assert "transformer/*.safetensors" in rest_of(file, entry, own).exclude
    whole = tmp_path / "whole.safetensors"
    save_file({"cond_stage_model.a": torch.zeros(2)}, whole)
    assert rest_of(whole, entry, own).exclude == ("*.safetensors", "*.bin")
    bare = Entry(name="m", type="image", family="diffusers", sources=(own,))
    assert rest_of(whole, bare, own).id == "stable-diffusion-v1-5/stable-diffusion-v1-5"
