"""The calls of an image model's handle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from cluster import errors
from cluster.client.http import Request, given
from cluster.client.jobs import lasting
from cluster.client.results import file_of


class ImageCalls:
    """What image models take, as far as each can do it; `options` are any other field of a request.

    A picture, also that of `control_image`, is given as a path, as bytes, as an open file, or as a PIL image.
    Returned are `Pictures`; with `stream=True` or `partial_images` above 0 an iterator of `Picture`, those first that
    are not final; with `background=True` a job.
    """

    uid: str

    @lasting
    def text_to_image(
        self,
        /,
        prompt: str,
        n: int = 1,
        size: str | None = None,
        response_format: str | None = None,
        **options: Any,
    ) -> Request:
        """Pictures of a prompt: `text_to_image("a lighthouse", size="512x512", seed=7, num_inference_steps=20)`."""
        fields = {"prompt": prompt, "n": n, "size": size, "response_format": response_format, **options}
        return _request("/v1/images/generations", {"model": self.uid, **fields})

    @lasting
    def image_to_image(
        self,
        /,
        image: Any,
        prompt: str,
        negative_prompt: str | None = None,
        n: int = 1,
        size: str | None = None,
        response_format: str | None = None,
        **options: Any,
    ) -> Request:
        """A picture redrawn by a prompt; `strength` is how much of it."""
        fields = {"prompt": prompt, "negative_prompt": negative_prompt, "n": n, "size": size, **options}
        fields = {"model": self.uid, "response_format": response_format, **fields}
        return _request("/v1/images/variations", fields, [("image", one) for one in _several(image)])

    @lasting
    def image_edit(
        self,
        /,
        images: Any,
        prompt: str,
        mask: Any = None,
        n: int = 1,
        size: str | None = None,
        response_format: str | None = None,
        **options: Any,
    ) -> Request:
        """One picture or several edited by a prompt; what of the mask is transparent, or else white, is repainted."""
        fields = {"prompt": prompt, "n": n, "size": size, "response_format": response_format, **options}
        files = [("image[]", one) for one in _several(images)]
        return _request("/v1/images/edits", {"model": self.uid, **fields}, [*files, *_named("mask", mask)])

    @lasting
    def inpainting(
        self,
        /,
        image: Any,
        mask_image: Any,
        prompt: str,
        negative_prompt: str | None = None,
        n: int = 1,
        size: str | None = None,
        response_format: str | None = None,
        **options: Any,
    ) -> Request:
        """A picture repainted where the mask is white."""
        fields = {"prompt": prompt, "negative_prompt": negative_prompt, "n": n, "size": size, **options}
        fields = {"model": self.uid, "response_format": response_format, **fields}
        return _request("/v1/images/inpainting", fields, [("image", image), ("mask_image", mask_image)])

    @lasting
    def variation(
        self,
        /,
        image: Any,
        n: int = 1,
        size: str | None = None,
        response_format: str | None = None,
        **options: Any,
    ) -> Request:
        """A picture drawn anew without a word."""
        fields = {"n": n, "size": size, "response_format": response_format, **options}
        return _request("/v1/images/variations", {"model": self.uid, **fields}, [("image", image)])


def _request(path: str, fields: Mapping[str, Any], files: Iterable[tuple[str, Any]] = ()) -> Request:
    asked = given(fields)
    if asked.get("partial_images"):
        asked["stream"] = True
    control = asked.pop("control_image", None)
    read = [(name, file_of(image)) for name, image in [*files, *_named("control_image", control)]]
    streams = bool(asked.get("stream"))
    return Request("POST", path, body=_flat(asked) if read else asked, files=read, streams=streams)


def _flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    """As a form can carry them: what is no text, number or switch goes into `kwargs`, which is JSON."""
    flat = {name: value for name, value in fields.items() if isinstance(value, (str, int, float))}
    nested = {name: value for name, value in fields.items() if name not in flat}
    return {**flat, "kwargs": orjson.dumps(nested).decode()} if nested else flat


def _several(images: Any) -> list[Any]:
    found = list(images) if isinstance(images, (list, tuple)) else [images]
    if not found:
        raise errors.BadRequest("There is no picture to start from: the list is empty.", "image")
    return found


def _named(name: str, image: Any) -> list[tuple[str, Any]]:
    return [] if image is None else [(name, image)]
