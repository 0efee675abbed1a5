"""LoRAs, Lightning and ControlNets on tiny pipelines."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, DiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from cluster import errors
from tests.deployments.image.compared import FolderOf, away
from tests.pipelines import drawn, loaded


@pytest.fixture(scope="module")
def lora_of(folder_of: FolderOf, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A LoRA file for the transformer of that pipeline."""
    root = tmp_path_factory.mktemp("loras")

    def save(name: str, file: str) -> Path:
        torch.manual_seed(7)
        pipe = DiffusionPipeline.from_pretrained(folder_of(name), local_files_only=True)
        part = pipe.components.get("transformer") or pipe.unet
        part.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
        layers = get_peft_model_state_dict(part)
        slot = "transformer_lora_layers" if "transformer" in pipe.components else "unet_lora_layers"
        pipe.save_lora_weights(root, **{slot: layers}, weight_name=file)
        return root / file

    return save


def test_loras_count_when_a_request_names_them_and_not_before(folder_of: FolderOf, lora_of: Any, plain: Any) -> None:
    file = lora_of("flux", "ink.safetensors")
    found = loaded(folder_of("flux"), lora_modules={"ink": str(file), "wash": str(file)})
    assert found.about["loras"] == ["ink", "wash"]
    assert np.array_equal(drawn(found.pipe, "flux"), plain("flux"))
    found.pipe.enable_lora()
    found.pipe.set_adapters(["ink"], [1.0])
    assert away(drawn(found.pipe, "flux"), plain("flux")) > 0.001


def test_a_lora_goes_on_a_packed_transformer(folder_of: FolderOf, lora_of: Any) -> None:
    file = lora_of("flux", "ink.safetensors")
    found = loaded(folder_of("flux"), transformer_nf4=True, lora_modules={"ink": str(file)})
    before = drawn(found.pipe, "flux")
    found.pipe.enable_lora()
    found.pipe.set_adapters(["ink"], [1.0])
    assert away(drawn(found.pipe, "flux"), before) > 0.001


def test_the_folder_of_a_lora_will_do_when_it_has_one_file(folder_of: FolderOf, lora_of: Any, tmp_path: Path) -> None:
    folder = tmp_path / "v1.0"
    folder.mkdir()
    shutil.copy(lora_of("flux", "ink.safetensors"), folder)
    assert loaded(folder_of("flux"), lora_modules={"ink": str(folder)}).about["loras"] == ["ink"]
    shutil.copy(folder / "ink.safetensors", folder / "other.safetensors")
    with pytest.raises(errors.BadOption, match="has ink.safetensors, other.safetensors: give the file itself"):
        loaded(folder_of("flux"), lora_modules={"ink": str(folder)})


@pytest.mark.parametrize("name", ["sd15", "flux_wide", "qwen_image"])
def test_a_lora_of_another_architecture_is_refused(name: str, folder_of: FolderOf, lora_of: Any) -> None:
    file = lora_of(name, f"{name}.safetensors")
    with pytest.raises(errors.BadOption, match="was not made for FluxPipeline") as refused:
        loaded(folder_of("flux"), lora_modules={"ink": str(file)})
    assert "\n" not in refused.value.message


def test_a_file_that_is_no_lora_and_a_model_that_takes_none_are_refused(
    folder_of: FolderOf, lora_of: Any, tmp_path: Path
) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(errors.BadOption, match="was not made for FluxPipeline"):
        loaded(folder_of("flux"), lora_modules={"ink": str(tmp_path / "a.safetensors")})
    with pytest.raises(errors.BadOption, match="HunyuanDiTPipeline takes no LoRA"):
        loaded(folder_of("hunyuandit"), lora_modules={"ink": str(lora_of("flux", "ink.safetensors"))})


def test_lightning_is_melted_in_and_says_how_many_steps_it_takes(folder_of: FolderOf, lora_of: Any, plain: Any) -> None:
    file = lora_of("qwen_image", "Lightning-4steps-V1.0.safetensors")
    found = loaded(folder_of("qwen_image"), lightning_model_path=str(file))
    assert found.about["steps"] == 4
    assert found.pipe.get_list_adapters() == {}
    assert found.pipe.scheduler.config.base_shift == pytest.approx(1.0986, abs=1e-4)
    assert away(drawn(found.pipe, "qwen_image"), plain("qwen_image")) > 0


def test_lightning_is_found_by_version(folder_of: FolderOf, lora_of: Any) -> None:
    file = lora_of("qwen_image", "Lightning-8steps-V1.1.safetensors")
    place = {"id": str(file.parent), "file": "Lightning-{version}.safetensors"}
    facts = {"lightning": {"local": place, "versions": ["8steps-V1.1"]}}
    assert loaded(folder_of("qwen_image"), facts=facts, lightning_version="8steps-V1.1").about["steps"] == 8
    with pytest.raises(errors.BadOption, match="no Lightning LoRA '2steps'; there is 8steps-V1.1"):
        loaded(folder_of("qwen_image"), facts=facts, lightning_version="2steps")


def test_lightning_stays_beside_packed_weights_and_always_counts(
    folder_of: FolderOf, lora_of: Any, gguf_of: Any
) -> None:
    file = lora_of("qwen_image", "Lightning-4steps-V1.0.safetensors")
    gguf = str(gguf_of("qwen_image", "Q8_0", "qwen_image"))
    found = loaded(folder_of("qwen_image"), lightning_model_path=str(file), gguf_model_path=gguf)
    assert found.about["always"] == ["lightning"]
    assert found.pipe.get_active_adapters() == ["lightning"]
    bare = loaded(folder_of("qwen_image"), gguf_model_path=gguf)
    assert away(drawn(found.pipe, "qwen_image"), drawn(bare.pipe, "qwen_image")) > 0


@pytest.fixture(scope="module")
def controlnet(folder_of: FolderOf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    unet = DiffusionPipeline.from_pretrained(folder_of("sd15"), local_files_only=True).unet
    folder = tmp_path_factory.mktemp("controlnets") / "canny"
    ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("count", [1, 2])
def test_one_controlnet_or_several_make_the_pipeline_one_that_listens(
    count: int, controlnet: Path, folder_of: FolderOf
) -> None:
    found = loaded(folder_of("sd15"), controlnet=[str(controlnet)] * count)
    assert found.about["pipeline"] == "StableDiffusionControlNetPipeline"
    assert "controlnet" in found.about["components"]
    assert found.pipe.controlnet.dtype == torch.float32
    assert len(getattr(found.pipe.controlnet, "nets", [found.pipe.controlnet])) == count


def test_controlnets_that_are_not_there_or_do_not_go_with_the_model_are_refused(
    controlnet: Path, folder_of: FolderOf
) -> None:
    facts = {"controlnets": {"canny": {"id": "lllyasviel/sd-controlnet-canny"}}}
    with pytest.raises(errors.BadOption, match="no ControlNet 'cany'; there is canny"):
        loaded(folder_of("sd15"), facts=facts, controlnet="cany")
    with pytest.raises(errors.BadOption, match="HunyuanDiTPipeline takes no ControlNet|CogView4Pipeline takes"):
        loaded(folder_of("cogview4"), controlnet=str(controlnet))
    with pytest.raises(errors.BadOption, match="holds a UNet2DConditionModel, not a ControlNet"):
        loaded(folder_of("sd15"), controlnet=str(folder_of("sd15") / "unet"))
