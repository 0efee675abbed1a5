"""Which pipeline does which task, and how a request gets a pipeline with a model's parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import pytest
from diffusers import DiffusionPipeline, EulerDiscreteScheduler

from cluster import errors
from deployments.image.tasks import call_arguments, class_for, classes_for, own_pipeline
from tests import terrain
from tests.pipelines import NINE

FolderOf = Callable[[str], Path]

CLASSES = {
    "sd15": ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"),
    "sdxl": ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"),
    "sd3": ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline"),
    "flux": ("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline"),
    "flux_kontext": ("FluxKontextPipeline", "FluxKontextPipeline", None),
    "qwen_image": ("QwenImagePipeline", "QwenImageImg2ImgPipeline", "QwenImageInpaintPipeline"),
    "cogview4": ("CogView4Pipeline", None, None),
    "hunyuandit": ("HunyuanDiTPipeline", None, None),
    "kolors": ("KolorsPipeline", "KolorsImg2ImgPipeline", None),
}


def names(found: Mapping[str, Any]) -> dict[str, str]:
    return {task: cls.__name__ for task, cls in found.items()}


@pytest.mark.parametrize("name", NINE)
def test_classes_of_a_loaded_pipeline(folder_of: FolderOf, name: str) -> None:
    pipe = DiffusionPipeline.from_pretrained(folder_of(name))
    wanted = dict(zip(("text2image", "image2image", "inpainting"), CLASSES[name], strict=True))
    assert names(classes_for(pipe, {})) == {task: cls for task, cls in wanted.items() if cls is not None}


def test_the_catalogue_has_the_last_word(folder_of: FolderOf) -> None:
    pipe = DiffusionPipeline.from_pretrained(folder_of("flux"))
    assert names(classes_for(pipe, {"image2image": "FluxKontextPipeline"})) == {"image2image": "FluxKontextPipeline"}


def test_a_pipeline_that_the_library_relates_to_none_does_what_it_can_be_asked(tmp_path: Path) -> None:
    pipe = DiffusionPipeline.from_pretrained(terrain.saved(tmp_path))
    assert names(classes_for(pipe, {})) == {"text2image": "ConsistencyModelPipeline"}


def test_a_task_of_another_model_is_refused() -> None:
    with pytest.raises(errors.BadRequest, match="m does no inpainting; it does image2image, text2image."):
        class_for({"text2image": object, "image2image": object}, "inpainting", "m")


def test_what_a_pipeline_can_be_asked_has_its_defaults() -> None:
    takes = call_arguments(diffusers.StableDiffusionImg2ImgPipeline)
    assert takes["strength"] == 0.8
    assert takes["num_inference_steps"] == 50
    assert "self" not in takes


@pytest.mark.parametrize("name", NINE)
def test_every_request_has_a_pipeline_of_its_own_of_the_same_parts(folder_of: FolderOf, name: str) -> None:
    pipe = DiffusionPipeline.from_pretrained(folder_of(name))
    before = dict(pipe.scheduler.config)
    for cls in classes_for(pipe, {}).values():
        scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
        made = own_pipeline(cls, pipe, scheduler, pipe.device)
        assert isinstance(made, cls) and type(made).__name__ == cls.__name__
        assert made._execution_device == pipe.device
        assert made.scheduler is scheduler
        others = {slot: part for slot, part in made.components.items() if slot != "scheduler"}
        assert all(part is pipe.components.get(slot) for slot, part in others.items())
    assert dict(pipe.scheduler.config) == before


def test_settings_of_the_loaded_pipeline_are_those_of_the_others(folder_of: FolderOf) -> None:
    pipe = DiffusionPipeline.from_pretrained(folder_of("kolors"), force_zeros_for_empty_prompt=True)
    made = own_pipeline(diffusers.KolorsImg2ImgPipeline, pipe, EulerDiscreteScheduler(), pipe.device)
    assert made.config.force_zeros_for_empty_prompt is True
