from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.weights.memory import PROCESS_BYTES
from deployments.text.engine_limits import CANDIDATES, MOST_PARALLEL
from deployments.text.plan import EncoderCase, EncoderSizes, host_plan

MB = 10**6
#: all-MiniLM-L6-v2.
SIZES = EncoderSizes(
    numbers=22_700_000, tables=11_700_000, hidden=384, intermediate=1536, heads=12, max_tokens=256,
    tokenizer_bytes=13 * MB,
)  # fmt: skip
CASE = EncoderCase("sentence-transformers", "torch", "float32", SIZES, is_converted=False, threads=2)


def peak_mb(case: EncoderCase = CASE, **changes: object) -> float:
    sizes = {name: changes.pop(name) for name in list(changes) if name in EncoderSizes.__dataclass_fields__}
    return host_plan(replace(case, sizes=replace(case.sizes, **sizes), **changes)).peak_bytes / MB


def test_a_plan_is_the_sum_of_its_parts() -> None:
    plan = host_plan(CASE)
    assert plan.peak_bytes == plan.parts[0].bytes + plan.activation_bytes + plan.fixed_bytes + plan.spare_bytes
    assert plan.fixed_bytes > PROCESS_BYTES and plan.parts[0].bytes == 4 * SIZES.numbers


@pytest.mark.parametrize(
    ("engine", "measured"),
    [
        pytest.param("torch", 470, id="torch"),
        pytest.param("torch_bf16", 419, id="torch_bf16"),
        pytest.param("onnx", 467, id="onnx"),
        pytest.param("onnx_int8", 416, id="onnx_int8"),
        pytest.param("openvino_bf16", 575, id="openvino_bf16"),
        pytest.param("openvino_int8", 587, id="openvino_int8"),
    ],
)
def test_what_each_engine_took_is_expected_and_at_most_a_tenth_more(engine: str, measured: float) -> None:
    """As measured by workers with two cores."""
    assert measured <= peak_mb(engine=engine) <= 1.1 * measured


def test_weights_count_in_the_format_in_which_they_are_computed() -> None:
    large = replace(CASE, sizes=replace(SIZES, numbers=10**9))
    exact, half = (host_plan(replace(large, engine=engine)).parts[0] for engine in ("torch", "torch_bf16"))
    assert (exact.bytes, exact.dtype, half.bytes, half.dtype) == (4 * 10**9, "float32", 2 * 10**9, "bfloat16")


def test_auto_may_turn_out_to_be_any_engine() -> None:
    assert peak_mb(engine="auto") == max(peak_mb(engine=engine) for engine in CANDIDATES)


def test_engines_other_than_torch_have_a_second_copy_of_a_small_model_for_all_cores() -> None:
    assert peak_mb(engine="onnx") - peak_mb(engine="onnx", threads=1) > 4 * SIZES.layers / MB
    large = {"numbers": 100_000_000, "engine": "onnx"}
    difference = peak_mb(**large) - peak_mb(**large, threads=1)
    assert difference < 4 * SIZES.layers / MB, "two batches, but one copy"


def test_a_long_text_is_a_batch_by_itself() -> None:
    assert peak_mb(max_tokens=8192) > peak_mb(max_tokens=512) + 200
    assert peak_mb(max_tokens=128) == peak_mb(max_tokens=512), "many short ones fill it too"


def test_engines_that_keep_all_scores_of_attention_take_the_square_of_a_long_text() -> None:
    grown = peak_mb(engine="onnx", max_tokens=4096) - peak_mb(engine="onnx", max_tokens=2048)
    assert grown > 2 * 2 * 12 * (4096**2 - 2048**2) * 4 / MB


def test_attention_to_near_tokens_only_takes_a_mask() -> None:
    assert peak_mb(max_tokens=8192, window=128) > peak_mb(max_tokens=8192) + 2 * 7 * 8192**2 / MB
    assert peak_mb(max_tokens=128, window=128) == peak_mb(max_tokens=128)


def test_a_row_over_the_vocabulary_for_each_token_counts() -> None:
    assert peak_mb(answer=2 * 30_000) > peak_mb() + 2 * 512 * 2 * 30_000 * 4 / MB


def test_more_cores_compute_more_batches_at_once_up_to_a_limit() -> None:
    assert peak_mb(threads=1) < peak_mb(threads=4) < peak_mb(threads=MOST_PARALLEL)
    # Its short texts would take one core too long, so that several share a batch.
    large = {"numbers": 500_000_000, "max_tokens": 8192}
    assert peak_mb(**large, threads=8) < peak_mb(**large, threads=1) + 4 * 8192 * 4 * (4 * 384 + 2 * 1536) / MB
