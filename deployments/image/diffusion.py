"""Diffusion models through diffusers: pictures from words, from pictures, and into parts of pictures."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ValidationError

from cluster import errors
from cluster.catalog.entry import Source
from cluster.value import JsonObject
from cluster.weights.memory import MemoryPlan
from cluster.worker.family import BatchHints, Example, Prepared, Progress, Prospect, Setup, Stepped, Unwatched
from deployments.abilities import TASKS
from deployments.image import loading, needs
from deployments.image.caches import PRESETS, presets_for
from deployments.image.cost import ObservedCall, counted
from deployments.image.facts import ImageFacts
from deployments.image.fibers import ComputeThread
from deployments.image.loras import names_in
from deployments.image.options import ImageOptions
from deployments.image.plan import ITEM_BYTES, most_pixels, plan, rungs
from deployments.image.requests import Drawing, DrawnPicture
from deployments.image.resolved_drawing import LoadedModel, ResolvedDrawing, resolved
from deployments.image.runner import Runner, denoiser_of
from deployments.image.sizes import sizes_of
from deployments.image.tasks import call_arguments, classes_for

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin

    from deployments.image.tasks import PipelineClass

log = logging.getLogger("cluster.worker.worker")

#: Requests under way at once; the others wait in the worker's queue.
AT_ONCE = 16
#: Most samples of one pass. With guidance, a picture has two.
SAMPLES_AT_ONCE = 2 * AT_ONCE
#: Size and steps of the example on CPU, where a picture of full size would take minutes.
EXAMPLE_SIDE = 256
EXAMPLE_STEPS = 2
#: How long a launch may measure passes of several samples.
MEASURE_S = 15.0
#: Side in pixels of the square that counts as one token, as in other services that count pictures in tokens.
TOKEN_SIDE = 16


class Diffusion(Stepped):
    engines: ClassVar[tuple[str, ...]] = ("diffusers",)
    abilities: ClassVar[tuple[str, ...]] = TASKS
    Options: ClassVar[type[BaseModel]] = ImageOptions
    #: Replaced by one of the right size once the model is loaded.
    example: Example = Example(["a lighthouse by the sea"], {}, "text2image")

    @classmethod
    def needed(cls, prospect: Prospect) -> Source:
        return needs.needed(prospect)

    @classmethod
    def plan(cls, prospect: Prospect) -> MemoryPlan:
        return plan(needs.case_of(prospect))

    @classmethod
    def smaller(cls, prospect: Prospect) -> Iterator[JsonObject]:
        return rungs(needs.case_of(prospect))

    def load(self, setup: Setup) -> ImageFacts:
        assert setup.fetch is not None
        setup.report(0.1)
        # In the thread that will compute, because a second thread that computes would get an OpenMP team of its own.
        compute = ComputeThread(setup.device)
        pipe, about = compute.run(loading.load, setup, setup.fetch)
        setup.report(0.7, "warming up")
        options: ImageOptions = setup.options
        # A model that was distilled on the way takes fewer steps than the catalogue says.
        facts = {**setup.entry.facts, **{name: about[name] for name in ("steps",) if name in about}}
        # With a ControlNet, the pipelines are others than those that the catalogue names.
        is_guided = getattr(pipe, "controlnet", None) is not None
        classes = classes_for(pipe, {} if is_guided else facts.get("pipelines", {}))
        shared = about.get("offload") != "model"
        always = about.get("always", ())
        side = int(facts.get("resolution") or _own_side(pipe))
        vae = getattr(pipe, "vae", None)
        sizes = sizes_of(vae.config if vae is not None else {}, type(vae).__name__, denoiser_of(pipe).config, side)
        self.runner = Runner(
            pipe,
            about=_receipt(setup, about),
            always=always,
            caches={name: PRESETS[name]() for name in presets_for(denoiser_or_none(pipe))},
            most_samples=SAMPLES_AT_ONCE,
            samples_of=lambda pixels: sizes.samples(
                pixels,
                most_pixels(options, side),
                ITEM_BYTES[str(about["dtype"])],
                on_card=setup.device != "cpu",
                in_tiles=options.vae_tiling,
            ),
            compute=compute,
        )
        self.set_threads(setup.threads)
        self._model = LoadedModel(
            name=setup.entry.name,
            classes=classes,
            scheduler=pipe.scheduler,
            multiple=_multiple(pipe),
            side=side,
            max_pixels=most_pixels(options, side),
            facts=facts,
            adapters=names_in(pipe) - set(always),
            usual_adapters=options.usual_adapters,
            caches=presets_for(self.runner.module),
            takes_control=is_guided,
            labels=getattr(self.runner.module.config, "num_class_embeds", None),
        )
        self._most_pictures = options.max_num_images
        # With whole parts offloaded, one part is on the device at a time: requests run one after the other.
        self.pace = BatchHints(parallel=AT_ONCE if shared else 1)
        self._default_cache = options.cache
        self.example = self._own_example(setup.device)
        self.largest = self._own_largest()
        measured = self._warm_up()
        setup.report(1.0)
        own = {
            "tasks": tuple(sorted(classes)),
            "resolution": side,
            "max_pixels": self._model.max_pixels,
            "steps": facts.get("steps") or _default_steps(classes),
            "samplers": "flow" if type(pipe.scheduler).__name__.startswith("FlowMatch") else "diffusion",
            "loras": tuple(sorted(self._model.adapters)),
            "caches": tuple(self._model.caches),
            "batching": measured,
        }
        return ImageFacts(**{**about, **own})

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
        values = resolved(self._model, ability, drawing.prompt, drawing)
        tokens = [math.ceil(value.width / TOKEN_SIDE) * math.ceil(value.height / TOKEN_SIDE) for value in values]
        return Prepared(values, tokens, costs=[self.runner.cost_of(value) for value in values])

    def stream(self, value: ResolvedDrawing, progress: Progress) -> DrawnPicture:
        return self.runner.draw(value, progress)

    def pack(self, outputs: list[Any], params: Mapping[str, Any]) -> Any:
        return outputs

    def set_threads(self, threads: int) -> None:
        self.runner.set_threads(threads)

    def unload(self) -> None:
        self.runner.compute.close()

    # ------------------------------------------------------------------------------------------- warming up

    def _own_example(self, device: str) -> Example:
        """A picture of the model's own size, or a small one where that would take long."""
        model = self._model
        task = next(task for task in TASKS if task in model.classes)
        is_free = device == "cpu" and "width" in call_arguments(model.classes[task])
        side = min(EXAMPLE_SIDE, math.isqrt(model.max_pixels)) if is_free else model.side
        return self._example_of(task, min(side, model.side))

    def _own_largest(self) -> Example:
        """A square of as many pixels as are allowed, where the model draws pictures of any size."""
        task = self.example.ability
        if "width" not in call_arguments(self._model.classes[task]):
            return self.example
        return self._example_of(task, math.isqrt(self._model.max_pixels))

    def _example_of(self, task: str, side: int) -> Example:
        model = self._model
        side = max(side // model.multiple, 1) * model.multiple
        params: JsonObject = {"width": side, "height": side, "seed": 0, "num_inference_steps": EXAMPLE_STEPS}
        if task != "text2image":
            params["images"] = (_grey(side),)
        if task == "inpainting":
            params["mask"] = _grey(side)
        if model.takes_control:
            params["control_image"] = _grey(side)
        return Example(self.example.items, params, task)

    def _warm_up(self) -> JsonObject:
        """Draws the example, counts its operations, and measures passes of several samples."""
        runner, denoiser = self.runner, self.runner.queue.denoiser
        drawing = self._resolved(self.example)
        with runner.queue.recording() as calls:
            runner.draw(drawing, Unwatched())
        if not calls:
            raise errors.LoadFailed("The example picture never called the denoiser.")
        samples = sum(call.samples for call in calls) / drawing.run_steps
        first, last = calls[0], calls[-1]
        # The first call, like those of the smaller pictures: the call without the prompt may be shorter than it.
        observed = ObservedCall(drawing.width * drawing.height, first.args, first.kwargs, first.samples)
        runner.cost = counted(runner.module, [observed, *self._smaller_calls(drawing)], samples)
        if self.pace.parallel > 1:
            runner.compute.run(denoiser.measure, last, MEASURE_S)
        started = time.perf_counter()
        runner.draw(drawing, Unwatched())
        seconds = time.perf_counter() - started
        cost = runner.cost_of(drawing)
        # A short example spends most of its time outside the denoiser, unlike a picture with all its steps.
        step_s = denoiser.saturation.seconds(last.shape, last.samples) or seconds / drawing.run_steps
        speed = max(cost / seconds, cost / drawing.run_steps / step_s)
        self.pace = BatchHints(parallel=self.pace.parallel, speed=speed)
        table = denoiser.saturation.table()
        log.info("one step is %.3g operations; seconds of a pass by samples: %s", cost / drawing.run_steps, table)
        return {
            "example": f"{drawing.width}x{drawing.height}",
            "operations_per_step": cost / drawing.run_steps,
            "seconds_by_samples": {str(count): round(taken, 4) for count, taken in (table[0] if table else {}).items()},
        }

    def _smaller_calls(self, drawing: ResolvedDrawing) -> list[ObservedCall]:
        """The denoiser's first calls for pictures smaller than the example, where the model can draw such."""
        if "width" not in call_arguments(drawing.pipeline):
            return []
        sides = [drawing.width * quarters // 4 for quarters in (3, 2)]
        smaller = [self._resolved(self._example_of(drawing.task, side)) for side in sides]
        by_width = {other.width: other for other in smaller if other.width < drawing.width}
        return [self.runner.first_call(other) for other in by_width.values()]

    def _resolved(self, example: Example) -> ResolvedDrawing:
        drawing: ResolvedDrawing = self.prepare(example.ability, example.items, example.params).values[0]
        return drawing


def denoiser_or_none(pipe: DiffusionPipeline) -> ModelMixin | None:
    return getattr(pipe, "transformer", None) or getattr(pipe, "unet", None)


def _prompt(items: Sequence[Any]) -> str:
    if len(items) != 1 or not isinstance(items[0], str):
        raise errors.InvalidBody("A request for pictures has one prompt.", "prompt")
    return items[0]


def _receipt(setup: Setup, about: JsonObject) -> JsonObject:
    """What it takes to load the same model again."""
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


def _multiple(pipe: DiffusionPipeline) -> int:
    """Both sides must be multiples of this: the scale of the VAE, and twice that for a transformer, which has patches
    of two by two latents."""
    scale = int(getattr(pipe, "vae_scale_factor", 1))
    if getattr(pipe, "vae", None) is None:
        return 1
    patches = getattr(pipe, "transformer", None) is not None
    return scale * 2 if patches else scale


def _own_side(pipe: DiffusionPipeline) -> int:
    scale = int(getattr(pipe, "vae_scale_factor", 8)) if getattr(pipe, "vae", None) is not None else 1
    size = getattr(pipe, "default_sample_size", None)
    if size is None:
        size = getattr(denoiser_of(pipe).config, "sample_size", None) or 64
    if isinstance(size, (list, tuple)):
        size = size[0]
    return int(size) * scale


def _default_steps(classes: Mapping[str, PipelineClass]) -> int:
    first = next(iter(classes.values()))
    return int(call_arguments(first).get("num_inference_steps") or 1)


def _grey(side: int) -> bytes:
    import io

    from PIL import Image

    target = io.BytesIO()
    Image.new("RGB", (side, side), "grey").save(target, "PNG")
    return target.getvalue()
