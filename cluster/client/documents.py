"""The calls of a handle of a model that reads."""

from __future__ import annotations

from typing import Any

import orjson

from cluster import errors
from cluster.client.http import Request, given
from cluster.client.jobs import lasting
from cluster.client.results import file_of


class OcrCalls:
    """What models take that read."""

    uid: str

    @lasting
    def ocr(
        self,
        /,
        image: Any,
        output_format: str | None = None,
        pages: Any = None,
        **options: Any,
    ) -> Request:
        """The text of a picture or a document: `ocr("scan.pdf", pages="1-3", output_format="markdown")`.

        `image` is a path, bytes, an open file or a PIL image, or a list of such; `options` are any other field of a
        request, such as `task`, `prompt`, `languages`, `features` and `dpi`. Returned is the text, or what
        another format holds, of a PDF its bytes; with `stream=True` an iterator of `Page`; with `background=True` a
        job.
        """
        fields = given({"output_format": output_format, "pages": pages, **options})
        if output_format == "pdf":
            fields["response_format"] = "b64_json"
        files = list(image) if isinstance(image, (list, tuple)) else [image]
        if not files:
            raise errors.BadRequest("There is nothing to read: the list is empty.", "image")
        body = {"model": self.uid, "kwargs": orjson.dumps(fields).decode()}
        read = [("image", file_of(file)) for file in files]
        return Request("POST", "/v1/images/ocr", body=body, files=read, streams=bool(options.get("stream")))
