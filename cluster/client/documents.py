"""The call and handles of models that read."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from cluster import errors
from cluster.client.http import Request, without_nones
from cluster.client.jobs import lasting
from cluster.client.model import AsyncModel, Model, ModelCalls
from cluster.client.results import ImageSource, file_of


class OcrCalls(ModelCalls):
    """The call of models that read."""

    model_type = "ocr"
    abilities = frozenset({"ocr"})

    @lasting
    def ocr(
        self,
        /,
        image: ImageSource | Sequence[ImageSource],
        output_format: str | None = None,
        pages: int | str | Sequence[int | str] | None = None,
        **options: object,
    ) -> Request:
        """The text of a picture or a document: `ocr("scan.pdf", pages="1-3", output_format="markdown")`.

        `image` is a path, bytes, an open file or a PIL image, or a list of these; `options` are other request fields
        such as `task`, `prompt`, `languages`, `features` and `dpi`. It returns the text, or the answer in another
        format, a PDF as its bytes; with `stream=True` an iterator of `Page`; with `background=True` a job.
        """
        fields = without_nones({"output_format": output_format, "pages": pages, **options})
        if output_format == "pdf":
            fields["response_format"] = "b64_json"
        sources = list(image) if isinstance(image, (list, tuple)) else [image]
        if not sources:
            raise errors.BadRequest("There is nothing to read: the list is empty.", "image")
        body = {"model": self.uid, "kwargs": orjson.dumps(fields).decode()}
        files = [("image", file_of(source)) for source in sources]
        return Request("POST", "/v1/images/ocr", body=body, files=files, streams=bool(options.get("stream")))


class OcrModel(OcrCalls, Model):
    pass


class AsyncOcrModel(OcrCalls, AsyncModel):
    pass
