"""What a request is resolved to before anything is computed, and everything that is refused there."""

from __future__ import annotations

from typing import Any

import pytest
from diffusers import (
    CMStochasticIterativeScheduler,
    ConsistencyModelPipeline,
    FluxPipeline,
    PNDMScheduler,
    QwenImageEditPlusPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from PIL import Image

from cluster import errors
from deployments.image.requests import MOST_SEED, Drawing
from deployments.image.resolved_drawing import LoadedModel, ResolvedDrawing, resolved
from tests.deployments.image.painter import as_file, noise, white_square

CLASSES = {
    "text2image": StableDiffusionPipeline,
    "image2image": StableDiffusionImg2ImgPipeline,
    "inpainting": StableDiffusionInpaintPipeline,
}


def model(**more: Any) -> LoadedModel:
    scheduler = PNDMScheduler(beta_schedule="scaled_linear")
    known = {
        "name": "m",
        "classes": CLASSES,
        "scheduler": scheduler,
        "multiple": 8,
        "side": 64,
        "max_pixels": 128 * 128,
    }
    return LoadedModel(**{**known, **more})


def one(task: str = "text2image", of: LoadedModel | None = None, **asked: Any) -> ResolvedDrawing:
    found = resolved(of or model(), task, "a cat", Drawing.model_validate(asked))
    assert len(found) == asked.get("n", 1)
    return found[0]


def red(width: int, height: int) -> bytes:
    return as_file(Image.new("RGB", (width, height), "red"))


# ------------------------------------------------------------------------------------------------------ sizes


def test_without_a_size_it_is_the_models_own() -> None:
    assert (one().width, one().height) == (64, 64)


@pytest.mark.parametrize(
    ("given", "made"),
    [((64, 32), (64, 32)), ((70, 33), (64, 32)), ((5, 5), (8, 8)), ((128, 128), (128, 128)), ((127, 121), (120, 120))],
)
def test_a_given_picture_keeps_its_size_as_far_as_the_model_can(given: tuple[int, int], made: tuple[int, int]) -> None:
    found = one("image2image", images=(red(*given),))
    assert (found.width, found.height) == made


def test_a_given_picture_of_too_many_pixels_is_made_smaller_where_it_may_be_read() -> None:
    small = model(max_pixels=128 * 128)
    with pytest.raises(errors.BadRequest, match="image has 256 x 256 pixels, 0.0 million are allowed"):
        one("image2image", of=small, images=(red(256, 256),))


def test_a_size_between_multiples_is_refused_with_the_nearest() -> None:
    with pytest.raises(errors.BadRequest, match="width is 68, and m makes multiples of 8: ask for 64"):
        one(width=68, height=64)


def test_too_many_pixels_are_refused() -> None:
    with pytest.raises(errors.BadRequest, match="136x128 is 0.0 million pixels"):
        one(width=136, height=128)


# ------------------------------------------------------------------------------------------ steps and strength


@pytest.mark.parametrize(
    ("facts", "asked", "steps"),
    [({}, {}, 50), ({"steps": 4}, {}, 4), ({"steps": 4}, {"num_inference_steps": 9}, 9)],
)
def test_steps_are_as_asked_or_as_the_catalogue_or_as_the_library_has_them(
    facts: dict[str, Any], asked: dict[str, Any], steps: int
) -> None:
    found = one(of=model(facts=facts), **asked)
    assert (found.steps, found.run_steps) == (steps, steps)


@pytest.mark.parametrize(
    ("steps", "strength", "whole", "run"),
    [(20, 0.5, 20, 10), (4, 1.0, 4, 4), (1, 0.5, 2, 1), (2, 0.1, 10, 1), (1, 1 / 49, 50, 1), (20, 0.001, 1000, 1)],
)
def test_a_part_of_the_steps_is_run_and_never_none(steps: int, strength: float, whole: int, run: int) -> None:
    found = one("image2image", images=(red(64, 64),), num_inference_steps=steps, strength=strength)
    assert (found.steps, found.run_steps) == (whole, run)


def test_a_strength_of_next_to_nothing_is_refused() -> None:
    with pytest.raises(errors.BadRequest, match="strength is 1e-09") as raised:
        one("image2image", images=(red(64, 64),), strength=1e-9)
    assert raised.value.param == "strength"


# ------------------------------------------------------------------------------------------------------ seeds


def test_seeds_count_on_from_the_first_and_stay_in_their_bounds() -> None:
    found = resolved(model(), "text2image", "a cat", Drawing(n=3, seed=MOST_SEED - 1))
    assert [one.seed for one in found] == [MOST_SEED - 1, MOST_SEED, 0]
    listed = resolved(model(), "text2image", "a cat", Drawing(n=2, seed=[9, 4]))
    assert [one.seed for one in listed] == [9, 4]


def test_without_a_seed_every_request_has_another() -> None:
    assert len({one().seed for _ in range(20)}) == 20


def test_previews_are_of_the_first_picture() -> None:
    found = resolved(model(), "text2image", "a cat", Drawing(n=3, partial_images=2))
    assert [one.previews for one in found] == [2, 0, 0]


# -------------------------------------------------------------------------------------------------- arguments


def test_what_steers_is_passed_on_under_the_names_of_the_library() -> None:
    found = one(guidance_scale=3.0, negative_prompt="fog", clip_skip=1)
    assert found.arguments == {"guidance_scale": 3.0, "negative_prompt": "fog", "clip_skip": 1}


def test_the_catalogue_knows_guidance_where_nobody_asks() -> None:
    assert one(of=model(facts={"guidance": 0.0})).arguments == {"guidance_scale": 0.0}
    assert one(of=model(facts={"guidance": 0.0}), guidance_scale=2.0).arguments == {"guidance_scale": 2.0}


def test_the_only_picture_for_a_controlnet_is_what_it_looks_at() -> None:
    seen = one("image2image", of=model(takes_control=True), images=[red(70, 40)])
    assert (seen.task, seen.images, seen.width, seen.height) == ("text2image", (), 64, 40)
    assert seen.control is not None and seen.control.size == (70, 40)
    both = one("image2image", of=model(takes_control=True), images=[red(64, 64)], control_image=red(64, 64))
    assert both.task == "image2image" and len(both.images) == 1


def test_loras_of_a_launch_are_for_those_who_name_none() -> None:
    inked = model(adapters=frozenset({"ink", "wash"}), usual_adapters=(("ink", 0.5),))
    assert one(of=inked).adapters == (("ink", 0.5),)
    assert one(of=inked, loras=[]).adapters == ()
    assert one(of=inked, loras=[{"name": "wash"}]).adapters == (("wash", 1.0),)


def test_loras_are_a_set_and_those_of_no_weight_are_none() -> None:
    inked = model(adapters=frozenset({"ink", "wash"}))
    loras = [{"name": "wash"}, {"name": "ink", "scale": 0.5}]
    assert one(of=inked, loras=loras).adapters == (("ink", 0.5), ("wash", 1.0))
    assert one(of=inked, loras=[{"name": "ink", "scale": 0}]).adapters == ()


def test_a_class_is_asked_for_or_drawn_by_the_seed() -> None:
    labelled = model(
        classes={"text2image": ConsistencyModelPipeline}, scheduler=CMStochasticIterativeScheduler(), labels=10
    )
    assert one(of=labelled, class_label=7).arguments == {"class_labels": 7}
    assert [one(of=labelled, seed=seed).arguments["class_labels"] for seed in (3, 25)] == [3, 5]


# --------------------------------------------------------------------------------------------------- refusals

FLUX = {"text2image": FluxPipeline}
PICTURE, MASK = noise(), white_square()
REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], str, str | None]] = [
    ("image2image", {"classes": FLUX}, {"images": (PICTURE,)}, "m does no image2image; it does text2image.", None),
    ("text2image", {}, {"images": (PICTURE,)}, "A picture was given, but this task reads none", "image"),
    ("text2image", {}, {"mask": MASK}, "A picture was given, but this task reads none", "image"),
    ("image2image", {}, {}, "image2image needs a picture to start from.", "image"),
    ("image2image", {}, {"images": (PICTURE,), "mask": MASK}, "image2image reads none: ask for inpainting", "mask"),
    ("image2image", {}, {"images": (PICTURE,) * 2}, "2 pictures were given, but m starts from one.", "image"),
    ("inpainting", {}, {"images": (PICTURE,)}, "inpainting needs a mask: white is repainted", "mask"),
    ("image2image", {}, {"images": (b"GIF89a",)}, "image is not a readable picture", "image"),
    ("inpainting", {}, {"images": (PICTURE,), "mask": b"no"}, "mask is not a readable picture", "mask"),
    ("text2image", {}, {"sampler_name": "Euler b"}, "did you mean 'Euler", "sampler_name"),
    ("text2image", {}, {"loras": [{"name": "ink"}]}, "There is no LoRA 'ink' here; there is none: launch", "loras"),
    ("text2image", {"adapters": frozenset({"ink"})}, {"loras": [{"name": "i"}]}, "'i' here; there is ink.", "loras"),
    ("text2image", {}, {"cache": "fast"}, "There is no cache 'fast' for this model; there is none.", "cache"),
    ("text2image", {"caches": ("fast",)}, {"cache": "f"}, "'f' for this model; there is fast.", "cache"),
    ("text2image", {}, {"true_cfg_scale": 2.0}, "m takes no true_cfg_scale.", "true_cfg_scale"),
    ("text2image", {}, {"strength": 0.5}, "m takes no strength.", "strength"),
    ("text2image", {}, {"max_sequence_length": 9}, "m takes no max_sequence_length.", "max_sequence_length"),
    ("text2image", {"classes": FLUX}, {"clip_skip": 1}, "m takes no clip_skip.", "clip_skip"),
    ("text2image", {}, {"class_label": 1}, "m draws from words, not classes: leave it out.", "class_label"),
    ("text2image", {}, {"control_image": PICTURE}, "is read by models launched with a ControlNet.", "control_image"),
    ("text2image", {"takes_control": True}, {}, "launched with a ControlNet: give it a control_image", "control_image"),
]


@pytest.mark.parametrize(("task", "of", "asked", "message", "param"), REFUSED, ids=lambda value: str(value)[:30])
def test_refused(task: str, of: dict[str, Any], asked: dict[str, Any], message: str, param: str | None) -> None:
    with pytest.raises(errors.BadRequest) as raised:
        one(task, of=model(**of), **asked)
    assert message in raised.value.message
    assert raised.value.param == param


def test_a_picture_is_decoded_once_for_all_of_a_request() -> None:
    found = resolved(model(), "image2image", "a cat", Drawing(n=3, images=(PICTURE,)))
    assert len({id(one.images[0]) for one in found}) == 1


def test_references_may_be_several() -> None:
    edits = model(classes={"image2image": QwenImageEditPlusPipeline})
    assert len(one("image2image", of=edits, images=(PICTURE, PICTURE)).images) == 2


def test_what_was_not_asked_is_not_passed_on() -> None:
    assert one().arguments == {}
