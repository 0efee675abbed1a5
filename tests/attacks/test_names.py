"""A name of any length is refused at once, in a short sentence."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx

from cluster.launch import LaunchSpec
from deployments.image.http import forms
from deployments.image.options import ImageOptions
from deployments.ingress.body_reader import NESTED
from deployments.ocr.http import body
from deployments.ocr.requests import Reading
from tests.attacks.standing_in import StandIn, every_call, opened, run, settings

LONG = "x" * 50_000
#: The fields of other routes. Launches, pictures and pages have tests in their own modules.
FIELDS = (
    *("input", "inputs", "texts", "query", "documents", "items", "ability", "params", "messages", "document"),
    *("encoding_format", "truncate", "modality", "task", "prompt_name", "input_type", "embedding_types", "kwargs"),
    *("long_documents", "truncation_direction", "output_dtype", "text_1", "text_2", "ids", "name", "scopes", "models"),
    *("replica", "block_duration", "sampler_name", "override_settings", "script_name", "init_images", "id", "pages"),
    *("sd_model_checkpoint", "alwayson_scripts", "endianness", "embed_dtype", "return_text", "normalize", "raw_scores"),
)
#: The longest answer. A refusal contains its sentence twice, and may list what there is instead.
MOST_BYTES = 8000


def test_no_field_comes_back_whole_and_none_takes_long(tmp_path: Path) -> None:
    drawing = (*forms.ImageFields.model_fields, *forms.OPTIONS, *forms.ALIASES, *forms.FILES, *NESTED)
    more = {
        "/v1/models": (*LaunchSpec.model_fields, *ImageOptions.model_fields),
        "/v1/images/generations": drawing,
        "/v1/images/edits": drawing,
        "/v1/images/ocr": (*body.OcrFields.model_fields, *Reading.model_fields, *body.ALIASES, *body.FILES, *NESTED),
    }
    plain: dict[str, Any] = {"input": "a", "inputs": "a", "query": "a", "documents": ["a"], "items": ["a"]}
    plain |= {"model": "m", "prompt": "a", "model_name": "echo", "model_uid": "m"}

    async def test() -> None:
        place = settings(tmp_path)
        long, slow, tried = [], [], 0
        async with opened(place, StandIn({"m": None})) as app:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url=place.url) as client:
                for method, path in every_call(app, uid="m", type="embedding"):
                    if method != "POST":
                        continue
                    for name in ("model", *FIELDS, *more.get(path, ()), LONG):
                        began = time.perf_counter()
                        answer = await client.post(path, json={**plain, name: LONG})
                        seconds = time.perf_counter() - began
                        tried += 1
                        if len(answer.content) > MOST_BYTES:
                            long.append((path, name[:50], answer.text[:200]))
                        if seconds > 1.0:
                            slow.append((path, name[:50], round(seconds, 1)))
                        assert answer.status_code != 500, (path, name[:50], answer.text[:300])
        assert tried > 1000
        assert not long and not slow, (long, slow)

    run(test())
