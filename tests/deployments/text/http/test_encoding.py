"""How vectors are written: a client reads back what was computed, in the precision that it asked for."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import orjson
import pytest

from cluster import errors
from cluster.calls import Answer
from cluster.routes import ModelRoutes
from cluster.status import ModelState
from deployments.ingress.serving import Served
from deployments.text.http.encoding import Form
from deployments.vectors import Rows, quantized, unit

VECTORS = unit(np.random.default_rng(3).standard_normal((3, 16), dtype=np.float32))
TOKENS = Rows.of([VECTORS[:2], VECTORS[2:]])
SERVED = Served(ModelRoutes("m", ("embed",), (), ModelState.READY), Answer(VECTORS, 7), "worker:m:1:0-ab")


def read_back(rows: list[Any]) -> Any:
    return orjson.loads(orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY))


def test_by_default_vectors_are_numbers() -> None:
    form = Form.asked({})
    assert np.array_equal(np.array(read_back(form.rows(VECTORS)), np.float32), VECTORS)
    assert not form.is_bytes


@pytest.mark.parametrize(
    ("asked", "precision"),
    [
        ({"output_dtype": "int8"}, "int8"),
        ({"embedding_type": "ubinary"}, "ubinary"),
        ({"embedding_type": ["binary"]}, "binary"),
        ({"embed_dtype": "float32"}, "float"),
        ({"embed_dtype": "float16"}, "float16"),
        ({"embedding_dtype": "uint8"}, "uint8"),
    ],
)
def test_a_precision_has_each_clients_name(asked: dict[str, Any], precision: str) -> None:
    wanted = quantized(VECTORS, precision)
    assert np.array_equal(np.array(read_back(Form.asked(asked).rows(VECTORS)), wanted.dtype), wanted)
    encoded = read_back(Form.asked({**asked, "encoding_format": "base64"}).rows(VECTORS))
    assert np.array_equal([np.frombuffer(base64.b64decode(row), wanted.dtype) for row in encoded], wanted)
    told = Form.asked(asked, "application/octet-stream").response(VECTORS, SERVED)
    assert told.headers["x-dtype"] == str(wanted.dtype)
    assert told.headers["x-shape"] == ",".join(map(str, wanted.shape))
    assert np.array_equal(np.frombuffer(told.body, told.headers["x-dtype"]).reshape(wanted.shape), wanted)


def test_base64_is_a_precision_for_those_who_call_it_one() -> None:
    (row,) = Form.asked({"embedding_type": "base64"}).rows(VECTORS[:1])
    assert np.array_equal(np.frombuffer(base64.b64decode(row), "<f4"), VECTORS[0])


def test_several_precisions_are_told_by_name() -> None:
    rows = read_back(Form.asked({"embedding_type": ["float", "int8", "base64"]}).rows(VECTORS))
    assert [list(row) for row in rows] == [["float", "int8", "base64"]] * 3
    assert rows[1]["int8"] == quantized(VECTORS, "int8")[1].tolist()


def test_several_vectors_per_input_stay_together() -> None:
    rows = read_back(Form.asked({}).rows(TOKENS))
    assert [len(row) for row in rows] == [2, 1]
    assert np.array_equal(np.array(rows[0], np.float32), VECTORS[:2])
    encoded = Form.asked({"encoding_format": "base64"}).rows(TOKENS)
    assert np.array_equal(np.frombuffer(base64.b64decode(encoded[0]), "<f4").reshape(2, 16), VECTORS[:2])


def test_bytes_say_where_each_input_lies() -> None:
    told = Form.asked({"encoding_format": "bytes"}).response(TOKENS, SERVED)
    metadata = orjson.loads(told.headers["metadata"])
    assert metadata["usage"] == {"prompt_tokens": 7, "total_tokens": 7} and metadata["model"] == "m"
    for place, wanted in zip(metadata["data"], TOKENS, strict=True):
        found = np.frombuffer(told.body[place["start"] : place["end"]], place["embed_dtype"])
        assert np.array_equal(found.reshape(place["shape"]), wanted)
    assert "metadata" not in Form.asked({"encoding_format": "bytes_only"}).response(TOKENS, SERVED).headers


def test_metadata_that_no_proxy_would_let_through_is_left_out() -> None:
    told = Form.asked({"encoding_format": "bytes"}).response(np.ones((2048, 4), np.float32), SERVED)
    assert "metadata" not in told.headers and told.headers["x-shape"] == "2048,4"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"encoding_format": ["float"]}, "encoding_format"),
        ({"output_dtype": "int4"}, "output_dtype"),
        ({"output_dtype": 8}, "output_dtype"),
        ({"embedding_type": []}, "embedding_type"),
        ({"embedding_type": ["float", 5]}, "embedding_type"),
        ({"embedding_types": {}}, "embedding_types"),
        ({"embed_dtype": "fp8_e4m3"}, "embed_dtype"),
        ({"embedding_type": ["float", "int8"], "encoding_format": "bytes"}, "embedding_type"),
        ({"endianness": "big"}, "endianness"),
    ],
)
def test_a_form_that_there_is_not_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    with pytest.raises(errors.BadRequest) as raised:
        Form.asked(body)
    assert raised.value.param == param
