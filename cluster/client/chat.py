"""The calls and handles of language models."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from cluster.client.http import Request, without_nones
from cluster.client.jobs import lasting
from cluster.client.model import AsyncModel, Model, ModelCalls
from cluster.client.results import ImageSource, file_of
from cluster.value import JsonObject


class LanguageCalls(ModelCalls):
    model_type = "llm"
    abilities = frozenset({"chat", "generate"})

    @lasting
    def chat(
        self,
        /,
        messages: str | Sequence[JsonObject],
        max_tokens: int | None = None,
        temperature: float | None = None,
        stream: bool = False,
        images: ImageSource | Sequence[ImageSource] = (),
        **options: object,
    ) -> Request:
        """The answer to messages, or to one text, as OpenAI's chat completions have it.

        With `stream=True` an iterator of its chunks: closing it makes the model stop. `images` are shown with the last
        message, each a path, bytes, an open file or a PIL image. `options` are other fields such as `stop`, `seed`,
        `n`, `tools` and `response_format`.
        """
        listed = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        shown = list(images) if isinstance(images, (list, tuple)) else [images]
        if shown and listed:
            listed = [*listed[:-1], with_images(listed[-1], shown)]
        fields = {"messages": listed, "max_tokens": max_tokens, "temperature": temperature, **options}
        return self._request("/v1/chat/completions", fields, stream)

    @lasting
    def generate(
        self,
        /,
        prompt: str | Sequence[int],
        max_tokens: int | None = None,
        temperature: float | None = None,
        stream: bool = False,
        **options: object,
    ) -> Request:
        """How the model goes on with a prompt, in the same way."""
        fields = {"prompt": prompt, "max_tokens": max_tokens, "temperature": temperature, **options}
        return self._request("/v1/completions", fields, stream)

    def _request(self, path: str, fields: JsonObject, stream: bool) -> Request:
        body = {"model": self.uid, **without_nones(fields), **({"stream": True} if stream else {})}
        return Request("POST", path, body=body, streams=stream)


def with_images(message: JsonObject, images: Sequence[ImageSource]) -> JsonObject:
    """The message with pictures behind its text."""
    content = message.get("content") or []
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
    urls = ["data:image/*;base64," + base64.b64encode(file_of(image)).decode() for image in images]
    return {**message, "content": [*parts, *({"type": "image_url", "image_url": {"url": url}} for url in urls)]}


class LanguageModel(LanguageCalls, Model):
    pass


class AsyncLanguageModel(LanguageCalls, AsyncModel):
    pass
