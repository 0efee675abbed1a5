"""How vectors leave: as numbers, as base64 or as raw bytes, at the precision that was asked for."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import Response

from cluster import errors
from cluster.names import quoted
from cluster.value import JsonObject
from deployments.ingress.serving import Served
from deployments.text.http.fields import first, name_of
from deployments.vectors import PRECISIONS, Rows, quantized

#: What clients call the precision: Voyage, Jina, Cohere, Infinity, vLLM.
NAMES = ("output_dtype", "embedding_type", "embedding_types", "embedding_dtype", "embed_dtype")
#: Their words for one; base64 is Jina's and Cohere's for floats in base64.
WORDS = {**{precision: precision for precision in PRECISIONS}, "float32": "float", "base64": "float"}
#: The longest header that proxies let through is 8 KB and more; vLLM's metadata is left out when it has no room.
METADATA_BYTES = 6000


@dataclass(frozen=True, slots=True)
class Form:
    """What a caller wants vectors to look like."""

    #: Precisions, in the caller's words.
    kinds: tuple[str, ...] = ("float",)
    #: `float` (which is numbers), `base64`, `bytes`, or `bytes_only` without vLLM's metadata.
    encoding: str = "float"
    #: Whether the precisions came as a list, which has each answered under its name.
    is_list: bool = False

    @classmethod
    def asked(cls, body: JsonObject, accept: str = "") -> Form:
        encoding = first(body, str, "encoding_format") or "float"
        if encoding not in ("float", "base64", "bytes", "bytes_only"):
            raise errors.InvalidBody("encoding_format takes float, base64 or bytes.", "encoding_format")
        if "application/octet-stream" in accept:
            encoding = "bytes_only"
        if first(body, str, "endianness") == "big":
            raise errors.BadRequest("Vectors are sent little-endian; endianness big is not supported.", "endianness")
        name = name_of(body, *NAMES)
        value = "float" if name is None else body[name]
        kinds = value if isinstance(value, list) else [value]
        for kind in kinds:
            if not isinstance(kind, str) or kind not in WORDS:
                raise errors.InvalidBody(f"{name} takes {', '.join(WORDS)}, not {quoted(kind)}.", name)
        if not kinds or ("bytes" in encoding and len(set(kinds)) > 1):
            raise errors.InvalidBody(f"{name} takes one precision, and several where vectors are JSON.", name)
        return cls(tuple(dict.fromkeys(kinds)), encoding, isinstance(value, list))

    @property
    def is_bytes(self) -> bool:
        return self.encoding in ("bytes", "bytes_only")

    def written(self, vectors: Any, kind: str) -> list[Any]:
        """One element per input, for JSON."""
        array = _at(vectors, WORDS[kind])
        if kind == "base64" or self.encoding == "base64":
            return [base64.b64encode(row).decode() for row in array]
        return list(array)

    def rows(self, vectors: Any) -> list[Any]:
        """The same at every precision that was asked for: plain when it is one, by name when it is a list of them."""
        if not self.is_list or len(self.kinds) == 1:
            return self.written(vectors, self.kinds[0])
        by_kind = [self.written(vectors, kind) for kind in self.kinds]
        return [dict(zip(self.kinds, row, strict=True)) for row in zip(*by_kind, strict=True)]

    def response(self, vectors: Any, served: Served) -> Response:
        """All vectors as bytes, with their shape and type beside them."""
        array = _at(vectors, WORDS[self.kinds[0]])
        flat = array.values if isinstance(array, Rows) else array
        headers = {"x-shape": ",".join(map(str, flat.shape)), "x-dtype": str(flat.dtype), **served.headers}
        if self.encoding == "bytes" and (metadata := _metadata(array, served)) and len(metadata) <= METADATA_BYTES:
            headers["metadata"] = metadata
        return Response(flat.tobytes(), media_type="application/octet-stream", headers=headers)


def _at(vectors: Any, precision: str) -> Any:
    if isinstance(vectors, Rows):
        return Rows(quantized(vectors.values, precision), vectors.offsets)
    return quantized(vectors, precision)


def _metadata(array: Any, served: Served) -> str:
    """Where each input's vectors lie, as vLLM's clients read it."""
    rows, start = [], 0
    for index, row in enumerate(array):
        common = {"index": index, "embed_dtype": str(row.dtype), "endianness": "little"}
        rows.append({**common, "start": start, "end": start + row.nbytes, "shape": row.shape})
        start += row.nbytes
    metadata = {"id": served.id("embd"), "created": int(time.time()), "model": served.model.uid, "data": rows}
    return orjson.dumps({**metadata, "usage": served.usage}).decode()
