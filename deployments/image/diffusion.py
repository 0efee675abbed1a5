"""Diffusion models through diffusers: pictures from words, from pictures, and into parts of pictures."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, ClassVar

from pydantic import BaseModel, ValidationError

from cluster import errors
from cluster.worker.family import BatchHints, Example, Prepared, Progress, Setup, Stepped, Unwatched
from deployments.abilities import TASKS
from deployments.image import loading
from deployments.image.caches import PRESETS, presets_for
from deployments.image.cores import Cores
from deployments.image.cost import Seen, counted
from deployments.image.loras import names_in
from deployments.image.options import ImageOptions
from deployments.image.requests import Drawing, Picture
from deployments.image.sketch import Model, Sketch, sketches
from deployments.image.studio import Studio
from deployments.image.tasks import call_arguments, classes_for

log = logging.getLogger("cluster.worker.worker")

#: Pictures of a model that says nothing: as many pixels as the largest that such models are trained on, twice.
USUAL_PIXELS = 2 * 1024 * 1024
#: Requests under way at once; the others wait in line.
AT_ONCE = 16
#: What one pass takes along at most: guidance makes two samples of a picture.
SAMPLES_AT_ONCE = 2 * AT_ONCE
#: What the example may cost on CPU, where a picture of full size would take minutes.
EXAMPLE_SIDE = 256
EXAMPLE_STEPS = 2
#: How long a launch may measure what passes of several samples take.
MEASURE_S = 15.0
#: One such token is a square of so many pixels on a side, as services that count pictures in tokens have it.
TOKEN_SIDE = 16


class Diffusion(Stepped):
    engines: ClassVar[tuple[str, ...]] = ("diffusers",)
    abilities: ClassVar[tuple[str, ...]] = TASKS
    Options: ClassVar[type[BaseModel]] = ImageOptions
    #: Made anew for the size of the loaded model.
    example: Example = Example(["a lighthouse by the sea"], {}, "text2image")

    def load(self, setup: Setup) -> Mapping[str, Any]:
        assert setup.fetch is not None
        setup.report(0.1)
        # In the thread that will compute: what another computes leaves it with a team of threads for all cores.
        cores = Cores(setup.device)
        pipe, about = cores.run(loading.load, setup, setup.fetch)
        setup.report(0.7, "warming up")
        options: ImageOptions = setup.options
        facts = setup.entry.facts
        # A ControlNet makes it another pipeline than the catalogue names.
        is_guided = getattr(pipe, "controlnet", None) is not None
        classes = classes_for(pipe, {} if is_guided else facts.get("pipelines", {}))
        shared = about.get("offload") != "model"
        always = about.get("always", ())
        self.studio = Studio(
            pipe,
            about=_receipt(setup, about),
            always=always,
            caches={name: PRESETS[name]() for name in presets_for(denoiser_or_none(pipe))},
            most=SAMPLES_AT_ONCE,
            cores=cores,
        )
        self.set_threads(setup.threads)
        side = int(facts.get("resolution") or _own_side(pipe))
        self._model = Model(
            name=setup.entry.name,
            classes=classes,
            scheduler=pipe.scheduler,
            multiple=_multiple(pipe),
            side=side,
            max_pixels=options.max_pixels or max(USUAL_PIXELS, 2 * side * side),
            facts=facts,
            adapters=names_in(pipe) - set(always),
            caches=presets_for(self.studio.denoiser),
            takes_control=is_guided,
            labels=getattr(self.studio.denoiser.config, "num_class_embeds", None),
        )
        self._most_pictures = options.max_num_images
        # Parts that take turns on the device cannot work for two requests at once.
        self.pace = BatchHints(parallel=AT_ONCE if shared else 1)
        self._default_cache = options.cache
        self.example = self._own_example(setup.device)
        measured = self._warm_up()
        setup.report(1.0)
        return {
            **about,
            "tasks": sorted(classes),
            "resolution": side,
            "max_pixels": self._model.max_pixels,
            "steps": facts.get("steps") or _default_steps(classes),
            "samplers": "flow" if type(pipe.scheduler).__name__.startswith("FlowMatch") else "diffusion",
            "loras": sorted(self._model.adapters),
            "caches": list(self._model.caches),
            "batching": measured,
        }

    def prepare(self, ability: str, items: Sequence[Any], params: Mapping[str, Any]) -> Prepared:
        try:
            drawing = Drawing.model_validate({**params, "prompt": _prompt(items)})
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, problem["loc"]))
            raise errors.InvalidBody(f"{where}: {problem['msg']}", where or None) from None
        if drawing.n > self._most_pictures:
            raise errors.BadRequest(f"{drawing.n} pictures are asked for, {self._most_pictures} are allowed.", "n")
        if drawing.cache is None and self._default_cache:
            drawing = drawing.model_copy(update={"cache": self._default_cache})
        values = sketches(self._model, ability, drawing.prompt, drawing)
        tokens = [math.ceil(one.width / TOKEN_SIDE) * math.ceil(one.height / TOKEN_SIDE) for one in values]
        return Prepared(values, tokens, costs=[self.studio.cost_of(one) for one in values])

    def stream(self, value: Sketch, course: Progress) -> Picture:
        return self.studio.draw(value, course)

    def pack(self, outputs: list[Any], params: Mapping[str, Any]) -> Any:
        return outputs

    def set_threads(self, threads: int) -> None:
        self.studio.steps.set_threads(threads)

    # ------------------------------------------------------------------------------------------- warming up

    def _own_example(self, device: str) -> Example:
        """A picture of the model's own, small where it would take long."""
        model = self._model
        task = next(task for task in TASKS if task in model.classes)
        is_free = device == "cpu" and "width" in call_arguments(model.classes[task])
        return self._example_of(task, min(model.side, EXAMPLE_SIDE) if is_free else model.side)

    def _example_of(self, task: str, side: int) -> Example:
        model = self._model
        side = max(side // model.multiple, 1) * model.multiple
        params: dict[str, Any] = {"width": side, "height": side, "seed": 0, "num_inference_steps": EXAMPLE_STEPS}
        if task != "text2image":
            params["images"] = (_grey(side),)
        if task == "inpainting":
            params["mask"] = _grey(side)
        if model.takes_control:
            params["control_image"] = _grey(side)
        return Example(self.example.items, params, task)

    def _warm_up(self) -> dict[str, Any]:
        """Draws the example, counts its operations, and measures what passes of several samples take."""
        studio = self.studio
        sketch = self._sketch_of(self.example)
        with studio.steps.recording() as calls:
            studio.draw(sketch, Unwatched())
        if not calls:
            raise errors.LoadFailed("The example picture never called the denoiser.")
        samples = sum(call.samples for call in calls) / sketch.run_steps
        last = calls[-1]
        # The first call, as of the smaller ones: with and without the prompt may be calls of different lengths.
        seen = Seen(sketch.width * sketch.height, calls[0].args, calls[0].kwargs, calls[0].samples)
        studio.cost = counted(studio.denoiser, [seen, *self._smaller_ones(sketch)], samples)
        if self.pace.parallel > 1:
            studio.cores.run(studio.steps.measure, last, MEASURE_S)
        started = time.perf_counter()
        studio.draw(sketch, Unwatched())
        seconds = time.perf_counter() - started
        cost = studio.cost_of(sketch)
        # A short example spends most of its time beside the denoiser, which a picture of full length does not.
        step_s = studio.steps.saturation.seconds(studio.steps.shape_of(last), last.samples)
        step_s = step_s or seconds / sketch.run_steps
        self.pace = BatchHints(parallel=self.pace.parallel, speed=max(cost / seconds, cost / sketch.run_steps / step_s))
        table = studio.steps.saturation.table()
        log.info("one step is %.3g operations; passes of so many samples take %s", cost / sketch.run_steps, table)
        return {
            "example": f"{sketch.width}x{sketch.height}",
            "operations_per_step": cost / sketch.run_steps,
            "seconds_by_samples": {str(count): round(taken, 4) for count, taken in (table[0] if table else {}).items()},
        }

    def _smaller_ones(self, sketch: Sketch) -> list[Seen]:
        """What the denoiser would be asked for pictures of less than the example's size, where it can draw such."""
        if "width" not in call_arguments(sketch.pipeline):
            return []
        sides = [sketch.width * quarters // 4 for quarters in (3, 2)]
        smaller = [self._sketch_of(self._example_of(sketch.task, side)) for side in sides]
        distinct = {one.width: one for one in smaller if one.width < sketch.width}
        return [self.studio.first_call(one) for one in distinct.values()]

    def _sketch_of(self, example: Example) -> Sketch:
        found: Sketch = self.prepare(example.ability, example.items, example.params).values[0]
        return found


def denoiser_or_none(pipe: Any) -> Any:
    return getattr(pipe, "transformer", None) or getattr(pipe, "unet", None)


def _prompt(items: Sequence[Any]) -> str:
    if len(items) != 1 or not isinstance(items[0], str):
        raise errors.InvalidBody("A request for pictures has one prompt.", "prompt")
    return items[0]


def _receipt(setup: Setup, about: Mapping[str, Any]) -> dict[str, Any]:
    """What it takes to have the same model again."""
    return {
        "model": setup.entry.name,
        "source": setup.source.id if setup.source.hub != "local" else setup.folder.name,
        "revision": setup.source.revision,
        "quantization": {
            slot: part["quantization"] for slot, part in about["components"].items() if part["quantization"] != "none"
        },
        "dtype": about.get("dtype"),
        "versions": {name: version(name) for name in ("diffusers", "torch", "transformers", "model-cluster")},
    }


def _multiple(pipe: Any) -> int:
    """What both sides must be multiples of: the decoder's scale, and the patches of a transformer."""
    scale = int(getattr(pipe, "vae_scale_factor", 1))
    if getattr(pipe, "vae", None) is None:
        return 1
    patches = getattr(pipe, "transformer", None) is not None
    return scale * 2 if patches else scale


def _own_side(pipe: Any) -> int:
    scale = int(getattr(pipe, "vae_scale_factor", 8)) if getattr(pipe, "vae", None) is not None else 1
    size = getattr(pipe, "default_sample_size", None)
    if size is None:
        config = denoiser_or_none(pipe).config
        size = getattr(config, "sample_size", None) or 64
    if isinstance(size, (list, tuple)):
        size = size[0]
    return int(size) * scale


def _default_steps(classes: Mapping[str, Any]) -> int:
    first = next(iter(classes.values()))
    return int(call_arguments(first).get("num_inference_steps") or 1)


def _grey(side: int) -> bytes:
    import io

    from PIL import Image

    target = io.BytesIO()
    Image.new("RGB", (side, side), "grey").save(target, "PNG")
    return target.getvalue()
