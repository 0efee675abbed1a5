"""Language models as the pages, the command line and the client of Xinference launch and use them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from xinference_client import RESTfulClient

from tests.clients.test_language_clients import ANSWER, MESSAGES, QUESTION
from tests.clients.test_xinference_pages import by_client, curl
from tests.deployments.llm.checkpoints import save_language
from tests.documented import CLIENT, COMMANDS, LAUNCH, PAGES
from tests.live import LiveCluster
from tests.xinference_command import xinference

NAME = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def launched(live: LiveCluster, talker: str) -> Iterator[str]:
    """A second one, launched by Xinference's command. It needs no conversion: the first one was converted."""
    words = ["launch", "-n", NAME, "-t", "LLM", "-u", "cli-talker", "-en", "openvino", "-f", "ggufv2", "-q", "Q4_1"]
    how = ["--n-gpu", "none", "--enable-thinking", "--cache_gb", "0.1"]
    assert "Model uid: cli-talker" in xinference(live.url, *words, *how)
    yield "cli-talker"
    with live.client() as client:
        client.terminate_model("cli-talker")


@pytest.mark.documented(LAUNCH, "--enable-thinking")
@pytest.mark.documented(COMMANDS, "chat", "generate")
@pytest.mark.documented(PAGES, "launching: a language model by command and client")
def test_it_is_launched_and_asked_by_command(live: LiveCluster, launched: str) -> None:
    assert launched in xinference(live.url, "list").split()
    # Equal launches are one, whoever asks for them.
    program = f"print(json.dumps(client.launch_model(model_name={NAME!r}, model_type='LLM', model_engine='openvino', "
    program += "model_uid='cli-talker', model_format='ggufv2', quantization='Q4_1', n_gpu=None, cache_gb=0.1)))"
    assert by_client(live.url, program) == launched
    for how in ("true", "false"):
        printed = xinference(
            live.url, "chat", "--model-uid", launched, "--max_tokens", "24", "--stream", how, typed=f"{QUESTION}\n\n"
        )
        # It samples, so what it says is another text each time.
        assert len(printed.partition("Assistant: ")[2]) > len("User: ") + 5
    printed = xinference(
        live.url, "generate", "--model-uid", launched, "--max_tokens", "4", typed="The capital of France is\n\n"
    )
    assert "Completion: The capital of France is" in printed


@pytest.mark.documented(COMMANDS, "engine", "vllm-models")
@pytest.mark.documented(CLIENT, "vllm_models")
def test_engines_of_language_models_are_listed(live: LiveCluster, talker: str) -> None:
    rows = [line.split() for line in xinference(live.url, "engine", "-n", NAME).splitlines() if NAME in line]
    assert [NAME, "openvino", "ggufv2"] in [row[:3] for row in rows]
    by_engine = ("engine", "-n", NAME, "-en", "OpenVINO", "-f", "ggufv2", "-q", "Q4_1")
    assert "Q4_1" in xinference(live.url, *by_engine)
    client = RESTfulClient(live.url)
    supported = client.vllm_models()
    client.close()
    assert supported.keys() == {"chat", "generate"} and NAME not in supported["chat"], "GGUF is not for vllm"
    assert f"chat model families: {supported['chat']}" in xinference(live.url, "vllm-models")


@pytest.mark.documented(PAGES, "using: a chat, by command, curl and clients")
@pytest.mark.documented(PAGES, "client: a language model from launch to answer")
@pytest.mark.documented(CLIENT, "chat", "generate")
def test_a_chat_by_curl_and_by_clients(live: LiveCluster, talker: str) -> None:
    body = {"model": talker, "messages": MESSAGES, "temperature": 0}
    assert (
        curl("-X", "POST", f"{live.url}/v1/chat/completions", body=body)["choices"][0]["message"]["content"] == ANSWER
    )
    program = "model = client.get_model(sys.argv[2])\n"
    program += "said = model.chat(messages=[{'role': 'user', 'content': sys.argv[3]}], generate_config="
    program += "{'max_tokens': 32, 'temperature': 0})\n"
    program += "more = model.generate(prompt='The capital of France is', generate_config="
    program += "{'max_tokens': 3, 'temperature': 0})\n"
    program += "print(json.dumps([said['choices'][0]['message']['content'], more['choices'][0]['text']]))"
    said, more = by_client(live.url, program, talker, QUESTION)
    assert said == ANSWER and more.startswith(" Paris")
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="not used actually") as client:
        answer = client.chat.completions.create(
            model=talker, messages=[{"content": QUESTION, "role": "user"}], max_tokens=32, temperature=0
        )
    assert answer.choices[0].message.content == ANSWER


@pytest.mark.documented(LAUNCH, "--quantization-config")
def test_weights_are_packed_as_the_launch_says(live: LiveCluster, tmp_path: Path) -> None:
    words = ["launch", "-n", "my-llm", "-t", "LLM", "-u", "cli-packed", "-mp", str(save_language(tmp_path / "llm"))]
    how = ["-en", "transformers", "-f", "pytorch", "--n-gpu", "none", "--cache_gb", "0.01"]
    packing = ["--quantization-config", "load_in_4bit", "true", "--quantization-config", "bnb_4bit_quant_type", "nf4"]
    assert "Model uid: cli-packed" in xinference(live.url, *words, *how, *packing)
    client = RESTfulClient(live.url)
    try:
        assert client.describe_model("cli-packed")["dtype"] == "nf4"
        model = client.get_model("cli-packed")
        said = model.chat([{"role": "user", "content": "Tea"}], generate_config={"max_tokens": 5, "temperature": 0})
        assert said["usage"]["completion_tokens"] <= 5 and said["choices"][0]["finish_reason"] in ("length", "stop")
    finally:
        client.terminate_model("cli-packed")
        client.close()
