"""What launch options change in a tiny pipeline."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from cluster import errors
from cluster.weights.inventory import read
from cluster.weights.memory import component_bytes
from deployments.image.loading import Loaded
from tests.deployments.image.compared import FolderOf, away, kinds_in
from tests.pipelines import NINE, drawn, loaded


@pytest.mark.parametrize("name", NINE)
def test_a_folder_draws_what_the_bare_pipeline_draws(name: str, folder_of: FolderOf, plain: Any) -> None:
    found = loaded(folder_of(name))
    assert np.array_equal(drawn(found.pipe, name), plain(name))
    told = {slot: part["bytes"] for slot, part in found.about["components"].items()}
    stored = component_bytes(read(folder_of(name)))
    # Tables of positions are computed at load and are in no file.
    assert told == {slot: pytest.approx(size, rel=0.04, abs=4096) for slot, size in stored.items()}
    assert {part["lives_on"] for part in found.about["components"].values()} == {"cpu"}


def test_a_number_format_that_is_asked_for_is_taken_on_cpu_and_that_of_the_entry_is_not(folder_of: FolderOf) -> None:
    asked = loaded(folder_of("flux"), torch_dtype="bf16")
    assert asked.pipe.transformer.dtype == torch.bfloat16
    assert asked.about["dtype"] == "bfloat16"
    own = {"torch_dtype": "bfloat16"}
    assert loaded(folder_of("flux"), defaults=own).pipe.transformer.dtype == torch.float32
    assert loaded(folder_of("flux"), defaults=own, torch_dtype="bf16").pipe.transformer.dtype == torch.bfloat16


def test_a_variant_is_read_from_its_own_files(folder_of: FolderOf, tmp_path: Path) -> None:
    folder = shutil.copytree(folder_of("sd15"), tmp_path / "sd15")
    DiffusionPipeline.from_pretrained(folder, dtype=torch.float16).save_pretrained(folder, variant="fp16")
    for plain_file in folder.glob("unet/diffusion_pytorch_model.safetensors"):
        plain_file.unlink()
    assert loaded(folder, variant="fp16").pipe.unet.dtype == torch.float32
    with pytest.raises(errors.BadOption, match="no weights of the variant 'fp8'"):
        loaded(folder, variant="fp8")


@pytest.mark.parametrize(
    ("asked", "hook"),
    [
        ({"cpu_offload": True}, "_hf_hook"),
        ({"cpu_offload": "group"}, "_diffusers_hook"),
        ({"sequential_cpu_offload": True}, "_diffusers_hook"),
    ],
)
@pytest.mark.parametrize("name", ["flux", "sdxl", "hunyuandit"])
def test_offloaded_parts_have_their_hooks_and_draw_the_same(
    asked: dict[str, Any], hook: str, name: str, folder_of: FolderOf, plain: Any
) -> None:
    found = loaded(folder_of(name), **asked)
    denoiser = found.pipe.components.get("transformer") or found.pipe.components["unet"]
    assert any(hasattr(module, hook) for module in denoiser.modules())
    assert not any(hasattr(module, hook) for module in loaded(folder_of(name)).pipe.vae.modules())
    assert "offload" in found.about["components"]["vae"]["lives_on"]
    assert away(drawn(found.pipe, name), plain(name)) < 1e-5


@pytest.fixture(scope="module")
def quantised(folder_of: FolderOf, gguf_of: Any) -> Callable[..., Loaded]:
    """With its transformer and its second text encoder in fewer bits."""

    def load(transformer: str, **launch: Any) -> Loaded:
        asked = {"transformer_nf4": True}
        if transformer == "GGUF":
            asked = {"gguf_model_path": str(gguf_of("flux", "Q4_0", "flux"))}  # type: ignore[dict-item]
        return loaded(folder_of("flux"), quantize_text_encoder="text_encoder_2", **asked, **launch)

    return load


@pytest.fixture(scope="module")
def in_place(quantised: Callable[..., Loaded]) -> Callable[[str], Any]:
    """The picture that it draws where nothing is offloaded."""
    return cache(lambda transformer: drawn(quantised(transformer).pipe, "flux"))


@pytest.mark.parametrize("offload", ["model", "group", "sequential"])
@pytest.mark.parametrize("transformer", ["nf4", "GGUF"])
def test_quantised_text_encoder_transformer_and_offload_go_together(
    offload: str, transformer: str, quantised: Callable[..., Loaded], in_place: Callable[[str], Any]
) -> None:
    found = quantised(transformer, cpu_offload=offload)
    assert "Linear8bitLt" in kinds_in(found.pipe.text_encoder_2)
    assert {"nf4": "Linear4bit", "GGUF": "GGUFLinear"}[transformer] in kinds_in(found.pipe.transformer)
    assert away(drawn(found.pipe, "flux"), in_place(transformer)) < 1e-5


def test_a_map_to_cards_is_the_cpu_where_there_are_none(folder_of: FolderOf, plain: Any) -> None:
    found = loaded(folder_of("flux"), device_map="balanced")
    assert found.pipe.transformer.device.type == "cpu"
    with pytest.raises(errors.BadOption, match="device_map=cuda needs a GPU"):
        loaded(folder_of("flux"), device_map="cuda")


def test_a_text_encoder_that_is_not_there_is_refused_with_those_that_are(folder_of: FolderOf) -> None:
    with pytest.raises(errors.BadOption, match="no text encoder 'text_encoder_9'.*; it has text_encoder, text_enc"):
        loaded(folder_of("flux"), quantize_text_encoder="text_encoder_9")
    with pytest.raises(errors.BadOption, match="no text encoder 'text_encoder_3' for text_encoder_3"):
        loaded(folder_of("flux"), text_encoder_3=None)


def test_pickled_weights_are_loaded_only_where_the_server_allows_it(folder_of: FolderOf, tmp_path: Path) -> None:
    folder = shutil.copytree(folder_of("sd15"), tmp_path / "sd15")
    unet = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(unet), unet.with_suffix(".bin"))
    unet.unlink()
    with pytest.raises(errors.LoadFailed, match="unet of .* only as a pickle"):
        loaded(folder)
    with pytest.raises(errors.BadOption, match="allow_pickle is refused"):
        loaded(folder, defaults={"allow_pickle": True})
    assert drawn(loaded(folder, allow_pickle=True).pipe, "sd15").shape == (64, 64, 3)


def test_a_folder_without_an_index_and_one_that_is_broken_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(errors.LoadFailed, match="has no model_index.json"):
        loaded(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps({"unet": ["diffusers", "UNet2DConditionModel"]}))
    with pytest.raises(errors.LoadFailed, match="cannot be read"):
        loaded(tmp_path)
