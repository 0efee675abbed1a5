"""A loaded diffusion model and the way one picture goes through it, as a strand of the thread that computes."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np

from cluster import errors
from cluster.worker.family import Progress
from deployments.image import pictures
from deployments.image.cores import Cores
from deployments.image.cost import Cost, Seen
from deployments.image.encodings import Encodings
from deployments.image.loras import adapting
from deployments.image.previews import Previews
from deployments.image.requests import Picture
from deployments.image.samplers import scheduler_for
from deployments.image.saturation import Saturation
from deployments.image.sketch import Sketch
from deployments.image.steps import Rider, Steps, as_request_error
from deployments.image.tasks import call_arguments, own_pipeline

log = logging.getLogger("cluster.worker.worker")

#: Where on the way to a picture its stages begin.
DENOISING, DECODING, WRITING = 0.03, 0.93, 0.98


class _Glance:
    """The course of a picture that is given up at its first call of the denoiser."""

    def __init__(self, calls: Sequence[Any]) -> None:
        self._calls = calls

    def check(self) -> None:
        if self._calls:
            raise errors.RequestCancelled("The call has been seen.")

    def tell(self, fraction: float, stage: str, step: int = 0, steps: int = 0) -> None:
        pass

    def show(self, preview: bytes) -> None:
        pass


class Studio:
    def __init__(
        self,
        pipe: Any,
        *,
        about: Mapping[str, Any],
        always: Sequence[str] = (),
        caches: Mapping[str, Any],
        most: int,
        cores: Cores,
    ) -> None:
        """`about`: what every receipt says of the model. `always`: LoRAs that are part of it. `caches`: presets by
        name, for the denoiser."""
        self.pipe = pipe
        self.denoiser = denoiser_of(pipe)
        # The denoiser and the encoders work at the same time, on different requests.
        runs = {slot for slot, part in pipe.components.items() if part is self.denoiser}
        adapt = adapting(pipe, runs, always)
        self.cores = cores
        self.steps = Steps(self.denoiser, Saturation(most), self.cores, adapt=adapt, most=most)
        self._adapt_encoders = adapting(pipe, set(pipe.components) - runs, always)
        self.encodings = Encodings()
        self.previews = self.cores.run(Previews.of, pipe)
        self.cost = Cost(1, (0.0, 1.0))
        self._about = about
        self._caches = caches
        self._device = pipe._execution_device
        self._decoding = threading.Lock()
        self._schedulers: dict[str | None, Any] = {}
        if getattr(pipe, "vae", None) is not None:
            self._share(pipe.vae)

    def draw(self, sketch: Sketch, course: Progress) -> Picture:
        pixels = self.paint(sketch, course)
        course.check()
        course.tell(WRITING, "writing")
        return self._written(pixels, sketch)

    def paint(self, sketch: Sketch, course: Progress) -> Any:
        """Rows of pixels of numbers from 0 to 1."""
        course.check()
        rider = Rider(course, self.cost_of(sketch), sketch.run_steps, sketch.adapters)
        arguments = self._arguments(sketch, rider, course)
        course.tell(0.01, "encoding")
        with self.steps.riding(rider, alone=sketch.cache is not None) as ride, self._cached(sketch.cache):
            pixels = ride(self._run, sketch, rider, arguments)
        if not np.isfinite(pixels).all():
            raise errors.InferenceFailed(
                "The numbers overflowed on the way to the picture: launch with another torch_dtype."
            )
        return pixels

    def _scheduler(self, sampler: str | None) -> Any:
        """Made once and never run: a copy costs a fifth of making one."""
        if sampler not in self._schedulers:
            self._schedulers[sampler] = scheduler_for(sampler, self.pipe.scheduler)
        return self._schedulers[sampler]

    def cost_of(self, sketch: Sketch) -> float:
        return self.cost.of(sketch.width, sketch.height, sketch.run_steps)

    def first_call(self, sketch: Sketch) -> Seen:
        """What the denoiser would be asked first for this picture; it is not run."""
        with self.steps.recording() as calls, suppress(errors.RequestCancelled):
            self.paint(sketch, _Glance(calls))
        return Seen(sketch.width * sketch.height, calls[0].args, calls[0].kwargs, calls[0].samples)

    # ------------------------------------------------------------------------------------------------ stages

    def _run(self, sketch: Sketch, rider: Rider, arguments: Mapping[str, Any]) -> Any:
        pipeline = self._own_pipeline(sketch)
        try:
            return pipeline(**arguments).images[0]
        except errors.ClusterError:
            raise
        except Exception as error:
            known = as_request_error(error)
            # What a pipeline refuses before its first step was asked for wrongly.
            if isinstance(known, (ValueError, TypeError)) and not rider.calls:
                raise errors.BadRequest(f"{type(pipeline).__name__} refuses this: {error}") from error
            raise known from error

    def _own_pipeline(self, sketch: Sketch) -> Any:
        scheduler = copy.deepcopy(self._scheduler(sketch.sampler))
        pipeline = own_pipeline(sketch.pipeline, self.pipe, scheduler, self._device)
        if hasattr(pipeline, "encode_prompt"):
            encode = self.encodings.wrap(
                pipeline.encode_prompt,
                (type(pipeline).__name__, sketch.adapters),
                lambda: self._adapt_encoders(sketch.adapters),
            )
            pipeline.encode_prompt = partial(self.cores.run, encode)
        return pipeline

    def _arguments(self, sketch: Sketch, rider: Rider, course: Progress) -> dict[str, Any]:
        import torch

        takes = call_arguments(sketch.pipeline)
        given: dict[str, Any] = {
            "prompt": sketch.drawing.prompt,
            "num_inference_steps": sketch.steps,
            "width": sketch.width,
            "height": sketch.height,
            # On CPU whatever the device, so that a seed means the same picture everywhere.
            "generator": torch.Generator("cpu").manual_seed(sketch.seed),
            "output_type": "np",
            # Sizes are kept as asked, not moved to the nearest that the model was trained on.
            "use_resolution_binning": False,
            "_auto_resize": False,
            "max_area": sketch.width * sketch.height,
            "callback_on_step_end": self._on_step(sketch, rider, course),
            **self._shown(sketch, takes),
            **sketch.arguments,
        }
        if "class_labels" in takes:
            given["batch_size"] = 1
        return {name: value for name, value in given.items() if name in takes}

    def _shown(self, sketch: Sketch, takes: Mapping[str, Any]) -> dict[str, Any]:
        """The pictures to start from, at the size of the one to make."""
        size = (sketch.width, sketch.height)
        shown: dict[str, Any] = {}
        if sketch.images:
            first = sketch.images[0] if sketch.images[0].size == size else sketch.images[0].resize(size)
            takes_several = len(sketch.images) > 1
            shown["image"] = [first, *sketch.images[1:]] if takes_several else first
        if sketch.mask is not None:
            shown["mask_image"] = sketch.mask.resize(size)
        if sketch.control is not None:
            shown["control_image" if "control_image" in takes else "image"] = sketch.control.resize(size)
        return shown

    def _on_step(self, sketch: Sketch, rider: Rider, course: Progress) -> Callable[..., dict[str, Any]]:
        def on_step(pipeline: Any, step: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
            # Some samplers look twice at every step.
            count = rider.steps = getattr(pipeline, "num_timesteps", sketch.run_steps)
            due = {round(count * (place + 1) / (sketch.previews + 1)) for place in range(sketch.previews)}
            rider.reach(step + 1)
            is_last = rider.step >= count
            course.check()
            course.tell(
                DENOISING + (DECODING - DENOISING) * rider.step / count,
                "decoding" if is_last else "denoising",
                rider.step,
                count,
            )
            if not is_last and rider.step in due:
                self._show(pipeline, kwargs["latents"], sketch, course)
            return {}

        return on_step

    def _show(self, pipeline: Any, latents: Any, sketch: Sketch, course: Progress) -> None:
        """A picture is worth more than the look at it on the way: that may fail."""
        if self.previews is None:
            return
        try:
            preview = self.previews.jpeg(pipeline, latents, sketch.height, sketch.width)
        except Exception as error:
            log.warning("there is no preview: %s: %s", type(error).__name__, error)
            return
        if preview is not None:
            course.show(preview)

    @contextmanager
    def _cached(self, name: str | None) -> Iterator[None]:
        """What a cache keeps lies in the denoiser itself, so it is made for one request and gone after it."""
        if name is None:
            yield
            return
        self.denoiser.enable_cache(self._caches[name])
        try:
            yield
        finally:
            self.denoiser.disable_cache()

    def _share(self, vae: Any) -> None:
        """Pipelines move their decoder between number formats as they need; one that several share stays as it is."""
        import torch

        place = vae.to
        # Half precision overflows in some decoders, which their own pipelines avoid by moving them back and forth.
        if vae.dtype is torch.float16 and getattr(vae.config, "force_upcast", False):
            place(torch.float32)
        vae.to = lambda *args, **kwargs: _placed_only(vae, place, args, kwargs)
        for name in ("encode", "decode"):
            if hasattr(vae, name):
                setattr(vae, name, self._one_at_a_time(getattr(vae, name), vae))

    def _one_at_a_time(self, work: Callable[..., Any], vae: Any) -> Callable[..., Any]:
        def alone(first: Any, *args: Any, **kwargs: Any) -> Any:
            with self._decoding:
                return work(first.to(vae.dtype), *args, **kwargs)

        return partial(self.cores.run, alone)

    def _written(self, pixels: Any, sketch: Sketch) -> Picture:
        drawing = sketch.drawing
        image = pictures.from_pixels(pixels)
        receipt = {
            **self._about,
            "task": sketch.task,
            "pipeline": sketch.pipeline.__name__,
            "scheduler": type(self._scheduler(sketch.sampler)).__name__,
            "sampler_name": sketch.sampler,
            "prompt": drawing.prompt,
            "seed": sketch.seed,
            "width": image.width,
            "height": image.height,
            "num_inference_steps": sketch.steps,
            "loras": [{"name": name, "scale": scale} for name, scale in sketch.adapters],
            "cache": sketch.cache,
            **{name.replace("class_labels", "class_label"): value for name, value in sketch.arguments.items()},
        }
        if "guidance_scale" not in receipt and "guidance_scale" in call_arguments(sketch.pipeline):
            receipt["guidance_scale"] = call_arguments(sketch.pipeline)["guidance_scale"]
        data = pictures.written(image, drawing.output_format, drawing.output_compression, receipt)
        return Picture(data, drawing.output_format, image.width, image.height, sketch.seed, receipt)


def _placed_only(vae: Any, place: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Another device is for whoever offloads; another number format is for nobody."""
    import torch

    devices = [one for one in (*args, *kwargs.values()) if isinstance(one, (str, int, torch.device))]
    return place(devices[0]) if devices else vae


def denoiser_of(pipe: Any) -> Any:
    for name in ("transformer", "unet", "prior"):
        found = getattr(pipe, name, None)
        if found is not None:
            return found
    raise errors.LoadFailed(f"{type(pipe).__name__} has no transformer and no unet; it cannot be served.")
