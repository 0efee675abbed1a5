"""One picture to make, with everything decided: what was asked, completed by what the model does by itself."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster import errors
from cluster.names import quoted
from deployments.image import pictures
from deployments.image.requests import MOST_SEED, MOST_STEPS, Drawing, Task
from deployments.image.samplers import check_sampler
from deployments.image.steps import Adapters
from deployments.image.tasks import BY_REFERENCE, call_arguments, class_for


@dataclass(frozen=True)
class Model:
    """What of a loaded model requests are checked against and completed with."""

    name: str
    classes: Mapping[str, Any]
    #: The model's own scheduler; never run, only asked.
    scheduler: Any
    #: Sides are multiples of this.
    multiple: int
    #: Side of a picture that nobody gave a size.
    side: int
    max_pixels: int
    #: Steps, guidance and the like, where the catalogue knows better than the library.
    facts: Mapping[str, Any] = field(default_factory=dict)
    adapters: frozenset[str] = frozenset()
    caches: tuple[str, ...] = ()
    takes_control: bool = False
    #: How many classes it was trained on, where it draws one of them instead of a prompt.
    labels: int | None = None


@dataclass(frozen=True)
class Sketch:
    task: Task
    pipeline: Any
    drawing: Drawing
    width: int
    height: int
    steps: int
    #: Steps that are really run: a picture to start from saves the first ones.
    run_steps: int
    seed: int
    sampler: str | None
    adapters: Adapters
    cache: str | None
    #: Decoded pictures; never changed.
    images: tuple[Any, ...] = ()
    mask: Any = None
    control: Any = None
    #: Named arguments that the pipeline takes and the request or the model gives.
    arguments: Mapping[str, Any] = field(default_factory=dict)
    #: One of several of a request shows how far it is.
    previews: int = 0


def sketches(model: Model, task: str, prompt: str, drawing: Drawing) -> list[Sketch]:
    """One for each picture asked for; raises what the caller must change."""
    pipeline = class_for(model.classes, task, model.name)
    takes = call_arguments(pipeline)
    drawing = drawing.model_copy(update={"prompt": prompt})
    images, mask = _pictures(model, pipeline, task, drawing)
    width, height = _size(model, takes, drawing, images)
    steps, run_steps = _steps(model, takes, drawing)
    sampler = check_sampler(drawing.sampler_name, model.scheduler)
    adapters = _adapters(model, drawing)
    control = _control(model, drawing)
    arguments = _arguments(model, takes, drawing)
    if drawing.cache is not None and drawing.cache not in model.caches:
        known = ", ".join(model.caches) or "none"
        raise errors.BadRequest(f"There is no cache {quoted(drawing.cache)} for this model; there is {known}.", "cache")
    return [
        Sketch(
            task=task,  # type: ignore[arg-type]
            pipeline=pipeline,
            drawing=drawing,
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
            previews=drawing.partial_images if place == 0 else 0,
        )
        for place, seed in enumerate(_seeds(drawing))
    ]


def _pictures(model: Model, pipeline: Any, task: str, drawing: Drawing) -> tuple[tuple[Any, ...], Any]:
    if task == "text2image":
        if drawing.images or drawing.mask is not None:
            raise errors.BadRequest("A picture was given where none is read: ask for image2image.", "image")
        return (), None
    if not drawing.images:
        raise errors.BadRequest(f"{task} needs a picture to start from.", "image")
    if len(drawing.images) > 1 and pipeline.__name__ not in BY_REFERENCE:
        raise errors.BadRequest(
            f"{len(drawing.images)} pictures were given, and {model.name} starts from one.", "image"
        )
    images = tuple(pictures.read_colours(data, model.max_pixels, "image") for data in drawing.images)
    if task != "inpainting":
        if drawing.mask is not None:
            raise errors.BadRequest(f"A mask was given, and {task} reads none: ask for inpainting.", "mask")
        return images, None
    if drawing.mask is None:
        raise errors.BadRequest("inpainting needs a mask: white is repainted, black is kept.", "mask")
    return images, pictures.read(drawing.mask, model.max_pixels, "mask").convert("L")


def _size(model: Model, takes: Mapping[str, Any], drawing: Drawing, images: tuple[Any, ...]) -> tuple[int, int]:
    """As asked, or that of the picture given, or the model's own."""
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


def _steps(model: Model, takes: Mapping[str, Any], drawing: Drawing) -> tuple[int, int]:
    steps = drawing.num_inference_steps or model.facts.get("steps") or takes.get("num_inference_steps") or 1
    strength = _strength(takes, drawing)
    if strength is None:
        return steps, steps
    # The first steps of a picture to start from are skipped; one is run at least.
    needed = math.ceil(1 / strength)
    if needed > MOST_STEPS:
        raise errors.BadRequest(
            f"strength is {strength:g}: so little of the picture is redrawn that {MOST_STEPS} steps have none for it.",
            "strength",
        )
    steps = max(steps, needed)
    # What is left of a product of fractions may be just below one.
    steps += int(steps * strength) < 1
    return steps, min(int(steps * strength), steps)


def _strength(takes: Mapping[str, Any], drawing: Drawing) -> float | None:
    if "strength" not in takes:
        return None
    return drawing.strength if drawing.strength is not None else float(takes["strength"])


def _adapters(model: Model, drawing: Drawing) -> Adapters:
    for one in drawing.loras:
        if one.name not in model.adapters:
            known = ", ".join(sorted(model.adapters)) or "none: launch the model with lora_modules"
            raise errors.BadRequest(f"There is no LoRA {quoted(one.name)} here; there is {known}.", "loras")
    return tuple(sorted((one.name, one.scale) for one in drawing.loras if one.scale))


def _control(model: Model, drawing: Drawing) -> Any:
    if drawing.control_image is None:
        if model.takes_control:
            raise errors.BadRequest(
                "This model was launched with a ControlNet: give it a control_image.", "control_image"
            )
        return None
    if not model.takes_control:
        raise errors.BadRequest("control_image is read by models launched with a ControlNet.", "control_image")
    return pictures.read_colours(drawing.control_image, model.max_pixels, "control_image")


def _arguments(model: Model, takes: Mapping[str, Any], drawing: Drawing) -> dict[str, Any]:
    """Numbers that steer; what was asked for and the pipeline does not know is refused, never dropped."""
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
    for name, (asked, fact) in named.items():
        value = asked if asked is not None else model.facts.get(fact)
        if value is None:
            continue
        if name in takes:
            arguments[name] = value
        elif asked:
            raise errors.BadRequest(f"{model.name} takes no {name}.", name)
    return arguments


def _label(model: Model, takes: Mapping[str, Any], drawing: Drawing, seed: int) -> dict[str, int]:
    """The class to draw, for models that know any; left out, one by the seed: the same picture every time."""
    asked = drawing.class_label
    if model.labels is None or "class_labels" not in takes:
        if asked is not None:
            raise errors.BadRequest(f"{model.name} draws from words, not classes: leave it out.", "class_label")
        return {}
    if asked is not None and asked >= model.labels:
        raise errors.BadRequest(
            f"There is no class {asked}: {model.name} knows those from 0 to {model.labels - 1}.", "class_label"
        )
    return {"class_labels": seed % model.labels if asked is None else asked}


def _seeds(drawing: Drawing) -> list[int]:
    if isinstance(drawing.seed, list):
        return drawing.seed
    first = drawing.seed if drawing.seed is not None else secrets.randbelow(2**32)
    return [(first + place) % (MOST_SEED + 1) for place in range(drawing.n)]
