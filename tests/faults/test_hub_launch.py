"""A language model launched by its name, from a hub of our own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import tiny_gguf
from tests.hub import Hub
from tests.live import LiveCluster

pytestmark = pytest.mark.ray


def test_a_language_model_is_launched_by_its_size_and_quantisation(
    breakable: LiveCluster, counting_hub: Hub, tmp_path: Path
) -> None:
    file = tiny_gguf.write(tmp_path / "m.gguf", "qwen3")
    counting_hub.add("unsloth/Qwen3-0.6B-GGUF", {"Qwen3-0.6B-Q4_K_M.gguf": file.read_bytes()})
    words = ("--model-name", "qwen3", "--size", "0_6", "--cache-gb", "0.01")
    refused = breakable.command("launch", *words, "--quantization", "Q4_K_X")
    assert refused.returncode != 0
    assert "qwen3 has no weights with quantization 'Q4_K_X'; there are huggingface ggufv2 0.6B" in refused.stderr
    done = breakable.command("launch", *words, "--quantization", "Q4_K_M")
    assert done.returncode == 0, done.stderr
    assert counting_hub.served["Qwen3-0.6B-Q4_K_M.gguf"] == file.stat().st_size
    row = breakable.get("/v1/models/qwen3").json()
    assert (row["model_size_in_billions"], row["quantization"], row["model_format"]) == ("0_6", "Q4_K_M", "ggufv2")
    assert row["model_engine"] == row["engine"] == "llamacpp"
    assert {"chat", "tools", "reasoning"} <= set(row["model_ability"]) and row["context_length"] == 512
    body = {"model": "unsloth/Qwen3-0.6B-GGUF", "prompt": "hello", "max_tokens": 3, "temperature": 0}
    assert breakable.post("/v1/completions", body).json()["usage"]["completion_tokens"] == 3
    assert breakable.post("/v1/completions", {**body, "model": "Qwen/Qwen3-8B"}).status_code == 404
    engines = json.loads(breakable.command("engine", "-n", "qwen3", "--json").stdout)
    assert {variant["model_format"] for variant in engines["llamacpp"]} == {"ggufv2"}
    assert {variant["model_size_in_billions"] for variant in engines["openvino"]} == {"0_6", "1_7", 4, 8, 14, 32}
    assert "awq" in {variant["model_format"] for variant in engines["vllm"]}
