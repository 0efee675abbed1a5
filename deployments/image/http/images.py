"""Image routes under OpenAI's and Xinference's names, which differ in the paths and not in what they ask."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Literal

import orjson
from fastapi import APIRouter, Request, Response

from cluster import errors
from cluster.calls import View
from cluster.routes import ModelRoutes
from cluster.value import JsonObject
from deployments.abilities import TASKS
from deployments.image.facts import ImageFacts
from deployments.image.http import forms, masks
from deployments.image.http.forms import ImageBody, ImageFields
from deployments.image.http.schemas import PictureBody, PicturesAnswer
from deployments.image.requests import Drawing, DrawnPicture, Task
from deployments.ingress.bodies import Json
from deployments.ingress.dialects import Services
from deployments.ingress.errors import as_cluster_error, error_body
from deployments.ingress.events import Events
from deployments.ingress.jobs import JobRow
from deployments.ingress.media import MediaReader
from deployments.ingress.openapi import EVENTS, described
from deployments.ingress.progress import views
from deployments.ingress.serving import lane_of, owner_of

#: Pixels of a picture that count as one token: the patches that most models draw in.
PATCH = 16 * 16
#: Characters of a text that count as one token: models have several encoders, each with a count of its own.
LETTERS = 4

#: What the events of a stream are called.
Subject = Literal["image_generation", "image_edit"]
DrawingRoute = Callable[[Request], Coroutine[None, None, Response]]


@dataclass(frozen=True)
class ImageOrder:
    """A request for pictures, checked as far as that is possible without the model."""

    model: ModelRoutes
    task: Task
    drawing: Drawing
    ask: ImageFields
    subject: Subject
    #: Pixels of all pictures that came with it.
    input_pixels: int = 0
    base_url: str = ""

    def usage(self, drawn: Sequence[DrawnPicture], *, with_input: bool = True) -> JsonObject:
        """`with_input`: the input is counted in one answer only, also when a request has several."""
        text = -(-len(self.drawing.prompt) // LETTERS) if with_input else 0
        image = self.input_pixels // PATCH if with_input else 0
        output = sum(picture.width * picture.height // PATCH for picture in drawn)
        return {
            "input_tokens": text + image,
            "input_tokens_details": {"text_tokens": text, "image_tokens": image},
            "output_tokens": output,
            "output_tokens_details": {"text_tokens": 0, "image_tokens": output},
            "total_tokens": text + image + output,
        }

    def about(self, drawn: Sequence[DrawnPicture]) -> JsonObject:
        """What an answer says of all its pictures."""
        size = f"{drawn[0].width}x{drawn[0].height}" if drawn else self.ask.size or "auto"
        background = "transparent" if self.ask.background == "transparent" else "opaque"
        format = self.drawing.output_format
        return {"background": background, "output_format": format, "quality": self.ask.level, "size": size}


class Images:
    def __init__(self, services: Services) -> None:
        self.serving = services.serving
        self._progress = services.progress
        self._files = services.files
        self._background = services.jobs
        self._reader = forms.reader(MediaReader(services.settings), services.settings)

    # ------------------------------------------------------------------------------------------ what is asked

    async def read(self, request: Request) -> tuple[ImageFields, JsonObject, ImageBody]:
        brought = await ImageBody.of(self._reader, request)
        ask, options = forms.ask_of(brought.fields), forms.options_of(brought.fields)
        if brought.files.get("control_image"):
            options["control_image"] = brought.file("control_image")
        if not ask.stream and not ask.in_background:
            options.pop("partial_images", None)
        return ask, options, brought

    async def order(
        self, request: Request, task: Task, ask: ImageFields, options: JsonObject, subject: Subject
    ) -> ImageOrder:
        model = self.choose(request, ask.model, task)
        facts = model.facts.opened(ImageFacts)
        steps = forms.steps_of(ask, facts.steps if facts else None)
        if steps is not None:
            options = {"num_inference_steps": steps, **options}
        drawing = forms.drawing_of(options)
        if ask.background == "transparent" and not (facts and facts.transparent):
            raise errors.BadRequest(
                f"Model {model.uid} draws no transparent background; leave out background, or ask for opaque.",
                "background",
            )
        if ask.stream and ask.in_background:
            raise errors.BadRequest("A background job cannot stream; leave out stream or background.", "stream")
        pixels = await forms.check_pictures(input_pictures(drawing), self.serving.settings)
        await self._progress.name(request, model, ask.request_id, streams=ask.stream)
        return ImageOrder(model, task, drawing, ask, subject, pixels, self._files.address_for(request))

    def choose(self, request: Request, name: str | None, task: Task) -> ModelRoutes:
        """The model of that name; without a name, the first that can."""
        if name is not None:
            # Several models may have this name; look for one that can.
            with contextlib.suppress(errors.BadRequest):
                chosen = self.serving.find(request, name, task)
                if can(chosen, task):
                    return chosen
            chosen = self.serving.find(request, name)
            _refuse_unable(chosen, task)
            return chosen
        able = [model for model in self.serving.dispatcher.table.able(request.state.key, TASKS) if can(model, task)]
        if not able:
            raise errors.BadRequest(f"The request names no model, and none that runs can {task}.", "model")
        return next((model for model in able if model.workers), able[0])

    # ---------------------------------------------------------------------------------------- what is answered

    async def answer(self, request: Request, order: ImageOrder) -> Response:
        if order.ask.in_background:
            return await self._later(request, order)
        if order.ask.stream:
            request.state.model = order.model.uid
            return await Events.of(self._events(request, order))
        drawn = await self.draw(request, order)
        return Json(await asyncio.to_thread(self._body, order, drawn))

    async def draw(self, request: Request, order: ImageOrder) -> list[DrawnPicture]:
        drawing = order.drawing
        served = await self.serving.ask(
            request, order.model.uid, order.task, [drawing.prompt], drawing.params(), alone=True
        )
        drawn: list[DrawnPicture] = served.answer.outputs
        return drawn

    async def _later(self, request: Request, order: ImageOrder) -> Response:
        request.state.model = order.model.uid
        lane = lane_of(request)

        async def work(owner: str) -> JsonObject:
            drawing, timeout_s = order.drawing, self.serving.settings.job_timeout_s
            answer, _ = await self.serving.dispatcher.ask(
                order.model, order.task, [drawing.prompt], drawing.params(), owner + lane, timeout_s, True
            )
            return await asyncio.to_thread(self._body, order, answer.outputs)

        record = await self._background.begin("image.job", request.state.key, order.model, work)
        return Json(record.to_json(), 202)

    def _body(self, order: ImageOrder, drawn: Sequence[DrawnPicture]) -> JsonObject:
        data = [{**self._as_json(order, picture), "revised_prompt": None} for picture in drawn]
        return {"created": int(time.time()), **order.about(drawn), "data": data, "usage": order.usage(drawn)}

    def _as_json(self, order: ImageOrder, picture: DrawnPicture) -> JsonObject:
        as_url = order.ask.response_format == "url"
        return {
            "b64_json": None if as_url else as_base64(picture.data),
            "url": self._files.keep(picture.data, picture.format, order.base_url) if as_url else None,
            "seed": picture.seed,
            "receipt": picture.receipt,
        }

    # -------------------------------------------------------------------------------------------------- streams

    async def _events(self, request: Request, order: ImageOrder) -> AsyncGenerator[bytes]:
        answer = asyncio.ensure_future(self.draw(request, order))
        sent, sent_at = 0, time.monotonic()
        beat_s = self.serving.settings.keep_alive_s
        has_begun = False

        def watch(version: int, wait_s: float) -> Awaitable[View | None]:
            return self._progress.watch(order.model, owner_of(request), version, wait_s)

        try:
            async with contextlib.aclosing(views(answer, watch, beat_s)) as changes:
                async for view in changes:
                    previews = view.previews[: order.drawing.partial_images] if view is not None else ()
                    for index in range(sent, len(previews)):
                        yield self._partial(order, previews[index], index)
                    if len(previews) > sent:
                        sent, sent_at, has_begun = len(previews), time.monotonic(), True
                    elif time.monotonic() - sent_at >= beat_s:
                        sent_at, has_begun = time.monotonic(), True
                        yield b": still at work\n\n"
            for index, picture in enumerate(await answer):
                yield await asyncio.to_thread(self._completed, order, picture, not index)
                has_begun = True
        # Once the answer has begun, its status is out.
        except Exception as error:
            if not has_begun:
                raise
            yield _event("error", error_body(as_cluster_error(error)))
        finally:
            answer.cancel()

    def _partial(self, order: ImageOrder, preview: bytes, index: int) -> bytes:
        format = "png" if preview.startswith(b"\x89PNG") else "jpeg" if preview.startswith(b"\xff\xd8") else "webp"
        content = {"b64_json": as_base64(preview), "created_at": int(time.time()), "partial_image_index": index}
        return _event(f"{order.subject}.partial_image", {**order.about(()), **content, "output_format": format})

    def _completed(self, order: ImageOrder, picture: DrawnPicture, is_first: bool) -> bytes:
        usage = order.usage([picture], with_input=is_first)
        content = {**order.about([picture]), "created_at": int(time.time()), "usage": usage}
        return _event(f"{order.subject}.completed", {**content, **self._as_json(order, picture)})


def _draws(title: str) -> Callable[[DrawingRoute], DrawingRoute]:
    """All routes that draw take the same body and answer alike."""
    return described(title, PicturesAnswer, body=PictureBody, takes_form=True, media_types=(EVENTS,), later=JobRow)


def router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["images"])
    images = services.shared(Images)
    settings = services.settings

    async def answered(
        request: Request, task: Task, ask: ImageFields, options: JsonObject, subject: Subject
    ) -> Response:
        return await images.answer(request, await images.order(request, task, ask, options, subject))

    @routes.post("/v1/images/generations")
    @_draws("Draw pictures from a text")
    async def generations(request: Request) -> Response:
        ask, options, brought = await images.read(request)
        _needs_prompt(options)
        for name in ("images", "mask"):
            if brought.files.get(name):
                raise errors.InvalidBody(f"{name} is for /v1/images/edits; this route draws from a text.", name)
        return await answered(request, "text2image", ask, options, "image_generation")

    @routes.post("/v1/images/edits")
    @_draws("Change pictures")
    async def edits(request: Request) -> Response:
        """With a mask, what is transparent in it is drawn anew, or what is white where nothing is transparent."""
        ask, options, brought = await images.read(request)
        _needs_prompt(options)
        options["images"] = _pictures_of(brought)
        mask = brought.file("mask")
        if mask is None:
            return await answered(request, "image2image", ask, options, "image_edit")
        options["mask"] = await _mask(masks.edit_mask, mask, "mask")
        return await answered(request, "inpainting", ask, options, "image_edit")

    @routes.post("/v1/images/variations")
    @_draws("Draw variations of pictures")
    async def variations(request: Request) -> Response:
        """OpenAI's have no prompt, Xinference's do."""
        ask, options, brought = await images.read(request)
        options["images"] = _pictures_of(brought)
        return await answered(request, "image2image", ask, options, "image_edit")

    @routes.post("/v1/images/inpainting")
    @_draws("Draw a part of a picture anew")
    async def inpainting(request: Request) -> Response:
        """What is white in the mask is drawn anew."""
        ask, options, brought = await images.read(request)
        _needs_prompt(options)
        options["images"] = _pictures_of(brought)
        mask = brought.file("mask")
        if mask is None:
            raise errors.InvalidBody("mask_image is missing: a picture that is white where to redraw.", "mask_image")
        options["mask"] = await _mask(masks.plain_mask, mask, "mask_image")
        return await answered(request, "inpainting", ask, options, "image_edit")

    async def _mask(make: Callable[[bytes, int, str], bytes], given: bytes, param: str) -> bytes:
        await forms.check_pictures([(param, given)], settings)
        return await asyncio.to_thread(make, given, settings.max_image_pixels, param)

    return routes


def _needs_prompt(options: JsonObject) -> None:
    if not isinstance(options.get("prompt"), str) or not options["prompt"]:
        raise errors.InvalidBody("prompt must be a text, and is missing or empty.", "prompt")


def _pictures_of(brought: ImageBody) -> tuple[bytes, ...]:
    images = tuple(brought.files.get("images", ()))
    if not images:
        raise errors.InvalidBody("At least one image file is required.", "image")
    return images


def input_pictures(drawing: Drawing) -> list[tuple[str, bytes]]:
    """The pictures that came with a request, by the names of their fields."""
    pictures = [("image", data) for data in drawing.images]
    pictures += [("mask", drawing.mask)] if drawing.mask is not None else []
    return pictures + ([("control_image", drawing.control_image)] if drawing.control_image is not None else [])


def can(model: ModelRoutes, task: str) -> bool:
    """Of all that its family can, a model says what it does itself once it is loaded."""
    facts = model.facts.opened(ImageFacts)
    return task in model.abilities and (facts is None or task in facts.tasks)


def _refuse_unable(model: ModelRoutes, task: Task) -> None:
    if can(model, task):
        return
    if task == "inpainting" and can(model, "image2image"):
        raise errors.BadRequest(
            f"Model {model.uid} takes no mask: it changes pictures as a whole; leave the mask out.", "mask"
        )
    tasks = ", ".join(ability for ability in TASKS if can(model, ability)) or "none of the tasks for images"
    raise errors.BadRequest(f"Model {model.uid} cannot {task}; it can {tasks}.", "model")


def as_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _event(name: str, content: JsonObject) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps({"type": name, **content}))
