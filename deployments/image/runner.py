"""A loaded diffusion model, and the way of one picture through its pipeline in a fiber of the compute thread."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import numpy as np

from cluster import errors
from cluster.worker.family import Progress
from deployments.image import pictures
from deployments.image.cost import Cost, ObservedCall
from deployments.image.denoiser import as_request_error
from deployments.image.denoiser_queue import DenoiserCall, DenoiserQueue, DenoiserRequest
from deployments.image.encodings import Encodings
from deployments.image.fibers import ComputeThread
from deployments.image.loras import adapting
from deployments.image.pictures import Pixels
from deployments.image.previews import PreviewMap
from deployments.image.replacements import Forward, share_prompt_encoders, share_vae
from deployments.image.requests import DrawnPicture
from deployments.image.resolved_drawing import ResolvedDrawing
from deployments.image.samplers import scheduler_for
from deployments.image.saturation import Saturation
from deployments.image.tasks import call_arguments, own_pipeline

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
    from PIL.Image import Image
    from torch import Tensor

log = logging.getLogger("cluster.worker.worker")

#: Where on the way to a picture, from 0 to 1, its stages begin.
DENOISING, DECODING, WRITING = 0.03, 0.93, 0.98


class UntilFirstCall:
    """The progress of a picture that is given up as soon as its first call of the denoiser is recorded."""

    def __init__(self, calls: Sequence[DenoiserCall]) -> None:
        self._calls = calls

    def check(self) -> None:
        if self._calls:
            raise errors.RequestCancelled("The call has been recorded.")

    def tell(self, fraction: float, stage: str, step: int = 0, steps: int = 0) -> None:
        pass

    def show(self, preview: bytes) -> None:
        pass


class Runner:
    def __init__(
        self,
        pipe: DiffusionPipeline,
        *,
        about: Mapping[str, object],
        always: Sequence[str] = (),
        caches: Mapping[str, object],
        most_samples: int,
        samples_of: Callable[[int], int],
        compute: ComputeThread,
    ) -> None:
        """`about`: what every receipt says of the model. `always`: LoRAs that are part of it. `caches`: presets by
        name, for the denoiser. `samples_of`: how many samples of a picture of so many pixels a pass has memory for."""
        self.pipe = pipe
        self.compute = compute
        self.module = denoiser_of(pipe)
        # LoRAs are put in force on the denoiser and on the encoders apart: they work at the same time, on different
        # requests.
        slots = {slot for slot, part in pipe.components.items() if part is self.module}
        adapt = adapting(pipe, slots, always)
        self._adapt_encoders = adapting(pipe, set(pipe.components) - slots, always)
        self.queue = DenoiserQueue(
            self.module, Saturation(most_samples), compute, adapt=adapt, most_samples=most_samples
        )
        self.encodings = Encodings()
        self.previews = compute.run(PreviewMap.of, pipe)
        self.cost = Cost(1, (0.0, 1.0))
        self._samples_of = samples_of
        self._about = about
        self._caches = caches
        self._device = pipe._execution_device
        self._schedulers: dict[str | None, SchedulerMixin] = {}
        if getattr(pipe, "vae", None) is not None:
            share_vae(pipe.vae, compute)

    def draw(self, drawing: ResolvedDrawing, progress: Progress) -> DrawnPicture:
        pixels = self.paint(drawing, progress)
        progress.check()
        progress.tell(WRITING, "writing")
        return self._written(pixels, drawing)

    def paint(self, drawing: ResolvedDrawing, progress: Progress) -> Pixels:
        progress.check()
        most = self._samples_of(drawing.width * drawing.height)
        request = DenoiserRequest(progress, self.cost_of(drawing), drawing.run_steps, drawing.adapters, most)
        arguments = self._arguments(drawing, request)
        progress.tell(0.01, "encoding")
        is_cached = drawing.cache is not None
        with self.queue.admitted(request, alone=is_cached) as run, self._cache_enabled(drawing.cache):
            pixels = run(self._run, drawing, request, arguments)
        if not np.isfinite(pixels).all():
            raise errors.InferenceFailed(
                "The numbers overflowed on the way to the picture: launch with another torch_dtype."
            )
        return pixels

    def _scheduler(self, sampler: str | None) -> SchedulerMixin:
        """Made once and never run; each request gets a copy, which takes a fifth of the time of making one."""
        if sampler not in self._schedulers:
            self._schedulers[sampler] = scheduler_for(sampler, self.pipe.scheduler)
        return self._schedulers[sampler]

    def cost_of(self, drawing: ResolvedDrawing) -> float:
        return self.cost.of(drawing.width, drawing.height, drawing.run_steps)

    def first_call(self, drawing: ResolvedDrawing) -> ObservedCall:
        """The first call that this picture would make of the denoiser; the denoiser is not run."""
        with self.queue.recording() as calls, suppress(errors.RequestCancelled):
            self.paint(drawing, UntilFirstCall(calls))
        return ObservedCall(drawing.width * drawing.height, calls[0].args, calls[0].kwargs, calls[0].samples)

    def set_threads(self, threads: int) -> None:
        self.compute.set_threads(threads)

    # ------------------------------------------------------------------------------------------------ stages

    def _run(self, drawing: ResolvedDrawing, request: DenoiserRequest, arguments: Mapping[str, object]) -> Pixels:
        pipeline = self._own_pipeline(drawing)
        try:
            pixels: Pixels = pipeline(**arguments).images[0]
        except errors.ClusterError:
            raise
        # A pipeline can raise anything; here it is decided whose fault that is.
        except Exception as error:
            request_error = as_request_error(error)
            # What a pipeline refuses before its first step is the fault of the request.
            if isinstance(request_error, (ValueError, TypeError)) and not request.calls:
                raise errors.BadRequest(f"{type(pipeline).__name__} refuses this: {error}") from error
            raise request_error from error
        return pixels

    def _own_pipeline(self, drawing: ResolvedDrawing) -> DiffusionPipeline:
        scheduler = copy.deepcopy(self._scheduler(drawing.sampler))
        pipeline = own_pipeline(drawing.pipeline, self.pipe, scheduler, self._device)

        def remember(encode: Forward) -> Forward:
            context = (type(pipeline).__name__, drawing.adapters)
            return self.encodings.wrap(encode, context, lambda: self._adapt_encoders(drawing.adapters))

        share_prompt_encoders(pipeline, self.compute, remember)
        return pipeline

    def _arguments(self, drawing: ResolvedDrawing, request: DenoiserRequest) -> dict[str, object]:
        """Those that the pipeline takes of all that the request says."""
        import torch

        takes = call_arguments(drawing.pipeline)
        arguments: dict[str, object] = {
            "prompt": drawing.request.prompt,
            "num_inference_steps": drawing.steps,
            "width": drawing.width,
            "height": drawing.height,
            # On CPU whatever the device, so that a seed means the same picture everywhere.
            "generator": torch.Generator("cpu").manual_seed(drawing.seed),
            "output_type": "np",
            # Pictures get the size that was asked for, not the nearest that the model was trained on.
            "use_resolution_binning": False,
            "_auto_resize": False,
            "max_area": drawing.width * drawing.height,
            "callback_on_step_end": self._on_step(drawing, request),
            **_pictures_for(drawing, takes),
            **drawing.arguments,
        }
        if "class_labels" in takes:
            arguments["batch_size"] = 1
        return {name: value for name, value in arguments.items() if name in takes}

    def _on_step(self, drawing: ResolvedDrawing, request: DenoiserRequest) -> Callable[..., dict[str, Tensor]]:
        def on_step(
            pipeline: DiffusionPipeline, step: int, timestep: Tensor, tensors: Mapping[str, Tensor]
        ) -> dict[str, Tensor]:
            # Some samplers evaluate the denoiser twice at every step.
            count = request.steps = getattr(pipeline, "num_timesteps", drawing.run_steps)
            previewed = {round(count * (number + 1) / (drawing.previews + 1)) for number in range(drawing.previews)}
            request.finish(step + 1)
            is_last = request.step >= count
            request.progress.check()
            request.progress.tell(
                DENOISING + (DECODING - DENOISING) * request.step / count,
                "decoding" if is_last else "denoising",
                request.step,
                count,
            )
            if not is_last and request.step in previewed:
                self._show(pipeline, tensors["latents"], drawing, request.progress)
            return {}

        return on_step

    def _show(self, pipeline: DiffusionPipeline, latents: Tensor, drawing: ResolvedDrawing, progress: Progress) -> None:
        """A preview that cannot be made is left out: the picture itself must not fail for it."""
        if self.previews is None:
            return
        try:
            preview = self.previews.jpeg(pipeline, latents, drawing.height, drawing.width)
        # Latents of a model that we do not know may have any form.
        except Exception as error:
            log.warning("there is no preview: %s: %s", type(error).__name__, error)
            return
        if preview is not None:
            progress.show(preview)

    @contextmanager
    def _cache_enabled(self, name: str | None) -> Iterator[None]:
        """A cache keeps its state in the denoiser itself, so it is enabled for one request and removed after it."""
        if name is None:
            yield
            return
        self.module.enable_cache(self._caches[name])
        try:
            yield
        finally:
            self.module.disable_cache()

    def _written(self, pixels: Pixels, drawing: ResolvedDrawing) -> DrawnPicture:
        request = drawing.request
        image = pictures.from_pixels(pixels)
        receipt = {
            **self._about,
            "task": drawing.task,
            "pipeline": drawing.pipeline.__name__,
            "scheduler": type(self._scheduler(drawing.sampler)).__name__,
            "sampler_name": drawing.sampler,
            "prompt": request.prompt,
            "seed": drawing.seed,
            "width": image.width,
            "height": image.height,
            "num_inference_steps": drawing.steps,
            "loras": [{"name": name, "scale": scale} for name, scale in drawing.adapters],
            "cache": drawing.cache,
            **{name.replace("class_labels", "class_label"): value for name, value in drawing.arguments.items()},
        }
        if "guidance_scale" not in receipt and "guidance_scale" in call_arguments(drawing.pipeline):
            receipt["guidance_scale"] = call_arguments(drawing.pipeline)["guidance_scale"]
        data = pictures.written(image, request.output_format, request.output_compression, receipt)
        return DrawnPicture(data, request.output_format, image.width, image.height, drawing.seed, receipt)


def _pictures_for(drawing: ResolvedDrawing, takes: Mapping[str, object]) -> dict[str, Image | list[Image]]:
    """The pictures to start from, at the size of the one to make, under the names that the pipeline has for them."""
    size = (drawing.width, drawing.height)
    named: dict[str, Image | list[Image]] = {}
    if drawing.images:
        first = drawing.images[0] if drawing.images[0].size == size else drawing.images[0].resize(size)
        takes_several = len(drawing.images) > 1
        named["image"] = [first, *drawing.images[1:]] if takes_several else first
    if drawing.mask is not None:
        named["mask_image"] = drawing.mask.resize(size)
    if drawing.control is not None:
        named["control_image" if "control_image" in takes else "image"] = drawing.control.resize(size)
    return named


def denoiser_of(pipe: DiffusionPipeline) -> ModelMixin:
    for name in ("transformer", "unet", "prior"):
        module = getattr(pipe, name, None)
        if module is not None:
            return module
    raise errors.LoadFailed(f"{type(pipe).__name__} has no transformer and no unet; it cannot be served.")
