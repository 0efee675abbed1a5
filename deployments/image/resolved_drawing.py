"""One picture to make, with everything decided: the request, checked against the model and completed by defaults."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cluster import errors
from cluster.names import quoted
from cluster.value import JsonObject
from deployments.image import pictures
from deployments.image.loras import Adapters
from deployments.image.requests import MOST_SEED, MOST_STEPS, Drawing, Task
from deployments.image.samplers import check_sampler
from deployments.image.tasks import BY_REFERENCE, call_arguments, class_for

if TYPE_CHECKING:
    from diffusers import SchedulerMixin
    from PIL.Image import Image

    from deployments.image.tasks import PipelineClass


@dataclass(frozen=True)
class LoadedModel:
    """What requests are checked against, and the defaults that complete them."""

    name: str
    #: Task -> class of the pipeline that does it.
    classes: Mapping[str, PipelineClass]
    #: The model's own scheduler. It is never run; its configuration says which samplers the model can use.
    scheduler: SchedulerMixin
    #: Sides are multiples of this.
    multiple: int
    #: Side of a picture where the request gives no size.
    side: int
    max_pixels: int
    #: Defaults for steps, guidance and so on, where the catalogue knows better ones than the library.
    facts: JsonObject = field(default_factory=dict)
    adapters: frozenset[str] = frozenset()
    #: Those of requests that name none.
    usual_adapters: Adapters = ()
    caches: tuple[str, ...] = ()
    takes_control: bool = False
    #: How many classes it was trained on, for a model that draws a class instead of a prompt.
    labels: int | None = None


@dataclass(frozen=True)
class ResolvedDrawing:
    task: Task
    pipeline: PipelineClass
    request: Drawing
    width: int
    height: int
    steps: int
    #: Steps that are really run: with a picture to start from, the first ones are skipped.
    run_steps: int
    seed: int
    sampler: str | None
    adapters: Adapters
    cache: str | None
    #: Decoded pictures; never changed.
    images: tuple[Image, ...] = ()
    mask: Image | None = None
    control: Image | None = None
    #: Further arguments of the pipeline, from the request or from the model's defaults.
    arguments: JsonObject = field(default_factory=dict)
    #: How many previews are made on the way; of several pictures of a request, only the first has any.
    previews: int = 0


def resolved(model: LoadedModel, task: str, prompt: str, drawing: Drawing) -> list[ResolvedDrawing]:
    """One for each picture of the request; raises BadRequest with what the caller must change."""
    drawing = drawing.model_copy(update={"prompt": prompt})
    if model.takes_control and task == "image2image" and drawing.control_image is None and drawing.images:
        task, drawing = "text2image", _controlled(model, drawing)
    pipeline = class_for(model.classes, task, model.name)
    takes = call_arguments(pipeline)
    images, mask = _pictures(model, pipeline, task, drawing)
    width, height = _size(model, takes, drawing, images)
    steps, run_steps = _steps(model, takes, drawing)
    sampler = check_sampler(drawing.sampler_name, model.scheduler)
    adapters = _adapters(model, drawing)
    control = _control(model, drawing)
    arguments = _arguments(model, takes, drawing)
    if drawing.cache is not None and drawing.cache not in model.caches:
        names = ", ".join(model.caches) or "none"
        raise errors.BadRequest(f"There is no cache {quoted(drawing.cache)} for this model; there is {names}.", "cache")
    return [
        ResolvedDrawing(
            task=task,  # type: ignore[arg-type]
            pipeline=pipeline,
            request=drawing,
            width=width,
            height=height,
            steps=steps,
            run_steps=run_steps,
            seed=seed,
            sampler=sampler,
            adapters=adapters,
            cache=drawing.cache,
            images=images,
            mask=mask,
            control=control,
            arguments={**arguments, **_label(model, takes, drawing, seed)},
            previews=drawing.partial_images if index == 0 else 0,
        )
        for index, seed in enumerate(_seeds(drawing))
    ]


def _controlled(model: LoadedModel, drawing: Drawing) -> Drawing:
    """The only picture for a model with a ControlNet is what that looks at, and has the size of what is drawn."""
    looked_at = pictures.read_colours(drawing.images[0], model.max_pixels, "image")
    width, height = (max(model.multiple, side // model.multiple * model.multiple) for side in looked_at.size)
    sizes = {"width": drawing.width or width, "height": drawing.height or height}
    return drawing.model_copy(update={"control_image": drawing.images[0], "images": (), **sizes})


def _pictures(
    model: LoadedModel, pipeline: PipelineClass, task: str, drawing: Drawing
) -> tuple[tuple[Image, ...], Image | None]:
    if task == "text2image":
        if drawing.images or drawing.mask is not None:
            raise errors.BadRequest("A picture was given, but this task reads none: ask for image2image.", "image")
        return (), None
    if not drawing.images:
        raise errors.BadRequest(f"{task} needs a picture to start from.", "image")
    if len(drawing.images) > 1 and pipeline.__name__ not in BY_REFERENCE:
        raise errors.BadRequest(
            f"{len(drawing.images)} pictures were given, but {model.name} starts from one.", "image"
        )
    images = tuple(pictures.read_colours(data, model.max_pixels, "image") for data in drawing.images)
    if task != "inpainting":
        if drawing.mask is not None:
            raise errors.BadRequest(f"A mask was given, but {task} reads none: ask for inpainting.", "mask")
        return images, None
    if drawing.mask is None:
        raise errors.BadRequest("inpainting needs a mask: white is repainted, black is kept.", "mask")
    return images, pictures.read(drawing.mask, model.max_pixels, "mask").convert("L")


def _size(model: LoadedModel, takes: JsonObject, drawing: Drawing, images: tuple[Image, ...]) -> tuple[int, int]:
    """The size that was asked for, else that of the first picture to start from, else the model's own."""
    if not images and "width" not in takes:
        if {drawing.width, drawing.height} - {None, model.side}:
            raise errors.BadRequest(f"{model.name} draws {model.side}x{model.side} only: ask for that.", "size")
        return model.side, model.side
    own = images[0].size if images else (model.side, model.side)
    width, height = drawing.width or own[0], drawing.height or own[1]
    if drawing.width is None and drawing.height is None:
        shrink = min(1.0, math.sqrt(model.max_pixels / (width * height)))
        width, height = (max(model.multiple, int(side * shrink) // model.multiple * model.multiple) for side in own)
    for name, side in (("width", width), ("height", height)):
        if side % model.multiple:
            near = max(model.multiple, round(side / model.multiple) * model.multiple)
            raise errors.BadRequest(
                f"{name} is {side}, and {model.name} makes multiples of {model.multiple}: ask for {near}.", "size"
            )
    if width * height > model.max_pixels:
        raise errors.BadRequest(
            f"{width}x{height} is {width * height / 1e6:.1f} million pixels, {model.max_pixels / 1e6:.1f} million are "
            "allowed; a launch with a higher max_pixels allows more.",
            "size",
        )
    return width, height


def _steps(model: LoadedModel, takes: JsonObject, drawing: Drawing) -> tuple[int, int]:
    steps = drawing.num_inference_steps or model.facts.get("steps") or takes.get("num_inference_steps") or 1
    strength = _strength(takes, drawing)
    if strength is None:
        return steps, steps
    # The first steps of a picture to start from are skipped; one is run at least.
    needed = math.ceil(1 / strength)
    if needed > MOST_STEPS:
        raise errors.BadRequest(
            f"strength is {strength:g}: it redraws so little that not even one of {MOST_STEPS} steps is left for it.",
            "strength",
        )
    steps = max(steps, needed)
    # Rounding may leave the product of two fractions just below one.
    steps += int(steps * strength) < 1
    return steps, min(int(steps * strength), steps)


def _strength(takes: JsonObject, drawing: Drawing) -> float | None:
    if "strength" not in takes:
        return None
    return drawing.strength if drawing.strength is not None else float(takes["strength"])


def _adapters(model: LoadedModel, drawing: Drawing) -> Adapters:
    if drawing.loras is None:
        return model.usual_adapters
    for lora in drawing.loras:
        if lora.name not in model.adapters:
            names = ", ".join(sorted(model.adapters)) or "none: launch the model with lora_modules"
            raise errors.BadRequest(f"There is no LoRA {quoted(lora.name)} here; there is {names}.", "loras")
    return tuple(sorted((lora.name, lora.scale) for lora in drawing.loras if lora.scale))


def _control(model: LoadedModel, drawing: Drawing) -> Image | None:
    if drawing.control_image is None:
        if model.takes_control:
            raise errors.BadRequest(
                "This model was launched with a ControlNet: give it a control_image.", "control_image"
            )
        return None
    if not model.takes_control:
        raise errors.BadRequest("control_image is read by models launched with a ControlNet.", "control_image")
    return pictures.read_colours(drawing.control_image, model.max_pixels, "control_image")


def _arguments(model: LoadedModel, takes: JsonObject, drawing: Drawing) -> JsonObject:
    """Further arguments of the pipeline. What the request asks for and the pipeline does not take is refused, never
    silently dropped."""
    named = {
        "guidance_scale": (drawing.guidance_scale, "guidance"),
        "true_cfg_scale": (drawing.true_cfg_scale, "true_cfg"),
        "max_sequence_length": (drawing.max_sequence_length, "max_sequence_length"),
        "clip_skip": (drawing.clip_skip, ""),
        "negative_prompt": (drawing.negative_prompt, "negative_prompt"),
        "strength": (drawing.strength, ""),
        "controlnet_conditioning_scale": (drawing.controlnet_conditioning_scale, ""),
    }
    arguments = {}
    for name, (requested, fact) in named.items():
        value = requested if requested is not None else model.facts.get(fact)
        if value is None:
            continue
        if name in takes:
            arguments[name] = value
        elif requested:
            raise errors.BadRequest(f"{model.name} takes no {name}.", name)
    return arguments


def _label(model: LoadedModel, takes: JsonObject, drawing: Drawing, seed: int) -> dict[str, int]:
    """The class to draw, for models that draw classes. Without one in the request the seed chooses, so that equal seeds
    still make equal pictures."""
    label = drawing.class_label
    if model.labels is None or "class_labels" not in takes:
        if label is not None:
            raise errors.BadRequest(f"{model.name} draws from words, not classes: leave it out.", "class_label")
        return {}
    if label is not None and label >= model.labels:
        raise errors.BadRequest(
            f"There is no class {label}: {model.name} knows those from 0 to {model.labels - 1}.", "class_label"
        )
    return {"class_labels": seed % model.labels if label is None else label}


def _seeds(drawing: Drawing) -> list[int]:
    if isinstance(drawing.seed, list):
        return drawing.seed
    first = drawing.seed if drawing.seed is not None else secrets.randbelow(2**32)
    return [(first + offset) % (MOST_SEED + 1) for offset in range(drawing.n)]
