"""What a rerank request ranks: a query and documents, each a text, a picture, or both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from cluster import errors
from cluster.names import quoted
from cluster.value import JsonObject
from deployments.text.http.fields import first, flag

KINDS = ("text", "image")


@dataclass(frozen=True)
class Ranking:
    """As models are asked: a text, or an object with `image` and with or without `text`. Whatever else an object holds
    stays here, since it may be anything that JSON can hold."""

    query: Any
    documents: list[Any]
    #: The documents as they came.
    sent: list[Any]
    #: Documents that came as texts are addresses of pictures, or pictures.
    are_pictures: bool

    @property
    def texts(self) -> list[str]:
        """Of the documents. A picture without a text is shown as it came."""
        return [item if isinstance(item, str) else item.get("text", item["image"]) for item in self.documents]

    def returned(self, place: int) -> JsonObject:
        """The document as an object."""
        sent = self.sent[place]
        return sent if isinstance(sent, dict) else {"image" if self.are_pictures else "text": sent}


def ranking_in(body: JsonObject) -> Ranking:
    name = "texts" if "texts" in body else "documents"
    sent = body.get(name)
    if not isinstance(sent, list) or not sent:
        raise errors.InvalidBody(f"{name} must be a list of at least one document.", name)
    query_type, doc_type = _kind(body, "query_type"), _kind(body, "doc_type")
    query = _item(body.get("query"), "query", "query", query_type)
    documents = [_item(value, f"{name} {place}", name, doc_type) for place, value in enumerate(sent)]
    if flag(body.get("return_documents"), "return_documents"):
        try:
            orjson.dumps(sent)
        except orjson.JSONEncodeError:
            # It reads 1024 levels and writes 254.
            raise errors.InvalidBody(f"{name} are nested too deeply to be returned.", name) from None
    return Ranking(query, documents, sent, doc_type == "image")


def _kind(body: JsonObject, name: str) -> str:
    """What a bare text stands for, as clients of jina-reranker-m0 say it."""
    kind = first(body, str, name) or "text"
    if kind not in KINDS:
        raise errors.InvalidBody(f"{name} takes {' or '.join(KINDS)}, not {quoted(kind)}.", name)
    return kind


def _item(value: object, where: str, param: str, kind: str) -> Any:
    if isinstance(value, str):
        return {"image": value} if kind == "image" else value
    if not isinstance(value, dict):
        raise errors.InvalidBody(f"{where} must be a text or an object with `text`, `image` or both.", param)
    if value.get("video") is not None:
        raise errors.BadRequest(
            f"{where} has a video, and only texts and pictures are ranked: send frames of it.", param
        )
    # A text may be empty, a picture cannot: then there is none.
    held = {name: value[name] for name in KINDS if value.get(name) is not None and (name, value[name]) != ("image", "")}
    if not held or not all(isinstance(part, str) for part in held.values()):
        raise errors.InvalidBody(f"{where} must be a text or an object whose `text` or `image` is one.", param)
    return held if "image" in held else held["text"]
