"""The calls and handles of models that draw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import orjson

from cluster import errors
from cluster.client.http import Request, without_nones
from cluster.client.jobs import lasting
from cluster.client.model import AsyncModel, Model, ModelCalls
from cluster.client.results import ImageSource, file_of


class ImageCalls(ModelCalls):
    """The calls of models that draw; a model answers those that it is able to. `options` are other request fields.

    Every picture, `control_image` too, is a path, bytes, an open file or a PIL image. A call returns `Pictures`; with
    `stream=True` or `partial_images` above 0 an iterator of `Picture`, the previews before the final ones; with
    `background=True` a job.
    """

    model_type = "image"
    abilities = frozenset({"text2image", "image2image", "inpainting"})

    @lasting
    def text_to_image(
        self,
        /,
        prompt: str,
        n: int = 1,
        size: str | None = None,
        response_format: str | None = None,
        **options: object,
    ) -> Request:
        """Pictures of a prompt: `text_to_image("a lighthouse", size="512x512", seed=7, num_inference_steps=20)`."""
        fields = {"prompt": prompt, "n": n, "size": size, "response_format": response_format, **options}
        return self._draws("/v1/images/generations", fields)

    @lasting
    def image_to_image(
        self,
        /,
        image: ImageSource | Sequence[ImageSource],
        prompt: str,
        negative_prompt: str | None = None,
        n: int = 1,
        size: str | None = None,
        response_format: str | None = None,
        **options: object,
    ) -> Request:
        """A picture redrawn by a prompt; `strength` says how much of it."""
        fields = {"prompt": prompt, "n": n, "size": size, "response_format": response_format, **options}
        files = [("image", source) for source in _several(image)]
        return self._draws("/v1/images/variations", {"negative_prompt": negative_prompt, **fields}, files)

    @lasting
    def image_edit(
        self,
        /,
        images: ImageSource | Sequence[ImageSource],
        prompt: str,
        mask: ImageSource | None = None,
        n: int = 1,
        size: str | None = None,
        response_format: str | None = None,
        **options: object,
    ) -> Request:
        """One picture or several edited by a prompt, where the mask is transparent or, if it is opaque, white."""
        fields = {"prompt": prompt, "n": n, "size": size, "response_format": response_format, **options}
        files = [("image[]", source) for source in _several(images)]
        return self._draws("/v1/images/edits", fields, [*files, *_named("mask", mask)])

    @lasting
    def inpainting(
        self,
        /,
        image: ImageSource,
        mask_image: ImageSource,
        prompt: str,
        negative_prompt: str | None = None,
        n: int = 1,
        size: str | None = None,
        response_format: str | None = None,
        **options: object,
    ) -> Request:
        """A picture repainted where the mask is white."""
        fields = {"prompt": prompt, "n": n, "size": size, "response_format": response_format, **options}
        files = [("image", image), ("mask_image", mask_image)]
        return self._draws("/v1/images/inpainting", {"negative_prompt": negative_prompt, **fields}, files)

    @lasting
    def variation(
        self,
        /,
        image: ImageSource,
        n: int = 1,
        size: str | None = None,
        response_format: str | None = None,
        **options: object,
    ) -> Request:
        """A picture drawn anew without a prompt."""
        fields = {"n": n, "size": size, "response_format": response_format, **options}
        return self._draws("/v1/images/variations", fields, [("image", image)])

    def _draws(
        self, path: str, fields: Mapping[str, object], images: Iterable[tuple[str, ImageSource]] = ()
    ) -> Request:
        body = without_nones({"model": self.uid, **fields})
        if body.get("partial_images"):
            body["stream"] = True
        control = body.pop("control_image", None)
        files = [(name, file_of(image)) for name, image in [*images, *_named("control_image", control)]]
        streams = bool(body.get("stream"))
        return Request("POST", path, body=_flat(body) if files else body, files=files, streams=streams)


class ImageModel(ImageCalls, Model):
    pass


class AsyncImageModel(ImageCalls, AsyncModel):
    pass


def _flat(fields: Mapping[str, object]) -> dict[str, object]:
    """As a form can carry them: text, numbers and switches as they are, the rest as JSON in `kwargs`."""
    flat = {name: value for name, value in fields.items() if isinstance(value, (str, int, float))}
    nested = {name: value for name, value in fields.items() if name not in flat}
    return {**flat, "kwargs": orjson.dumps(nested).decode()} if nested else {**flat}


def _several(images: ImageSource | Sequence[ImageSource]) -> list[ImageSource]:
    sources = list(images) if isinstance(images, (list, tuple)) else [images]
    if not sources:
        raise errors.BadRequest("There is no picture to start from: the list is empty.", "image")
    return sources


def _named(name: str, image: object) -> list[tuple[str, object]]:
    return [] if image is None else [(name, image)]
