"""Servers of language models that others made, each with the weights of one GGUF file and 16 answers at once."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx

from benchmarks.rivals.server import Environment, process
from tests.live import free_port

HERE = Path(__file__).parent
UID = "benchmark-llm"
LAUNCH_S = 300.0


class LanguageServer(NamedTuple):
    url: str
    #: What requests name it by.
    model: str
    pid: int
    #: Whether requests may ask it to go on behind the end of an answer. The weights of the others know no end.
    takes_ignore_eos: bool = True


@contextmanager
def xinference(file: Path, environments: Path, slots: int) -> Iterator[LanguageServer]:
    """With its engine llama.cpp. By default it would write two answers at once on two cores."""
    environment = Environment(environments / "xinference-llm", HERE / "xinference-llm.txt", with_torch=True)
    environment.install()
    port, metrics_port = free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    program = environment.python.parent / "xinference-local"
    command = [str(program), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--metrics-exporter-port", str(metrics_port), "--log-level", "warning"]
    with tempfile.TemporaryDirectory() as home:
        variables = {
            "XINFERENCE_HOME": home,
            "XINFERENCE_ENABLE_VIRTUAL_ENV": "0",
            "XINFERENCE_AUTH_ADVANCED": "0",
            "HF_HUB_OFFLINE": "1",
            "PATH": f"{program.parent}:/usr/bin:/bin",
        }
        log = Path(home) / "log.txt"
        with process(command, url, "/v1/models", variables, log, Path(home)) as started:
            _launch_in_xinference(url, file, slots)
            yield LanguageServer(url, UID, started.pid)


def _launch_in_xinference(url: str, file: Path, slots: int) -> None:
    spec = {"model_format": "ggufv2", "model_size_in_billions": "0_135", "quantization": "own"}
    entry = {
        "version": 2,
        "model_name": UID,
        "model_family": UID,
        "model_lang": ["en"],
        "model_ability": ["generate", "chat"],
        "context_length": 8192,
        "chat_template": "{% for message in messages %}{{ message['content'] }}{% endfor %}",
        "stop_token_ids": [],
        "stop": [],
        "model_specs": [{**spec, "model_file_name_template": file.name, "model_uri": f"file://{file}"}],
    }
    launch = {"model_uid": UID, "model_name": UID, "model_type": "LLM", "model_engine": "llama.cpp", **spec}
    launch |= {"n_gpu": None, "n_parallel": slots, "n_ctx": 4608 * slots}
    with httpx.Client(base_url=url, timeout=LAUNCH_S) as client:
        register = {"model": json.dumps(entry), "persist": False}
        for path, body in (("/v1/model_registrations/LLM", register), ("/v1/models", launch)):
            answer = client.post(path, json=body)
            if answer.status_code != 200:
                raise RuntimeError(f"{path}: {answer.text[:500]}")


@contextmanager
def transformers(file: Path, threads: int) -> Iterator[LanguageServer]:
    """`transformers serve` of our own environment with its continuous batching, in fp32."""
    with tempfile.TemporaryDirectory() as folder:
        _save_without_an_end(file, folder)
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = [str(Path(sys.executable).parent / "transformers"), "serve", folder, "--continuous-batching"]
        command += ["--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
        variables = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}
        with process(command, url, "/health", variables, Path(folder) / "log.txt", Path(folder)) as started:
            yield LanguageServer(url, folder, started.pid, takes_ignore_eos=False)


@contextmanager
def vllm(file: Path, python: Path, threads: int) -> Iterator[LanguageServer]:
    """vLLM's build for CPUs, in an environment that has it."""
    with tempfile.TemporaryDirectory() as folder:
        _save_without_an_end(file, folder)
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", folder, "--dtype", "bfloat16"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--max-num-seqs", "16", "--max-model-len", "8192"]
        variables = {
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_KVCACHE_SPACE": "2",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(threads),
        }
        with process(command, url, "/health", variables, Path(folder) / "log.txt", Path(folder)) as started:
            yield LanguageServer(url, folder, started.pid)


def _save_without_an_end(file: Path, folder: str) -> None:
    """The same weights as safetensors. No token ends an answer, so that all have the length that is measured."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    # It has been unpacked, and would not be saved as what it was packed like.
    model.hf_quantizer, model.is_quantized = None, False
    del model.config.quantization_config
    model.float()
    model.config.eos_token_id, model.generation_config = None, GenerationConfig()
    model.save_pretrained(folder)
