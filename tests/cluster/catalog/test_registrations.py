from __future__ import annotations

import json

from cluster.catalog.registrations import parse_registration


def test_a_model_that_reads_is_a_document_model_unless_it_says_otherwise() -> None:
    text = json.dumps({"model_name": "mine", "model_uri": "file:///m"})
    assert parse_registration("ocr", text, family="ppocr").family == "transformers-ocr"
    assert parse_registration("ocr", text[:-1] + ', "family": "ppocr"}', family="ppocr").family == "ppocr"
    assert parse_registration("toy", text, family="toy").family == "toy"
