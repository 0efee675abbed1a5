"""Launches with environment variables: none may make a worker run a program or send a token elsewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cluster import environment, errors
from cluster.catalog.catalog import Catalog
from cluster.launch import LaunchSpec
from cluster.settings import Settings
from deployments import resolve
from deployments.conversions import environment_with
from deployments.ocr.http import renderers

#: Each variable, and what it would do if it were accepted.
WEAPONS = {
    "PYTHONWARNINGS": "imports any module in every Python that starts",
    "BROWSER": "names a program that such a module runs",
    "PYTHONPATH": "imports a caller's files",
    "PYTHONSTARTUP": "runs a file",
    "LD_PRELOAD": "loads a library into every child",
    "LD_LIBRARY_PATH": "the same",
    "OMP_TOOL_LIBRARIES": "loads a library into every OpenMP program",
    "NCCL_NET_PLUGIN": "loads a library",
    "VLLM_PLUGINS": "imports a module",
    "TORCH_EXTENSIONS_DIR": "compiled code is loaded from there",
    "TORCHINDUCTOR_CACHE_DIR": "the same",
    "HF_ENDPOINT": "sends the operator's token to another host",
    "hf_endpoint": "the same, where case is ignored",
    "HTTPS_PROXY": "sends every request through another host",
    "SSL_CERT_FILE": "trusts another host",
    "HF_HOME": "loads code that was put into a cache",
    "HF_TOKEN": "reads what the caller's account may",
    "CLUSTER_REMOTE_CODE": "lets repositories run code",
    "CLUSTER_ALLOW_PICKLE": "lets pickles run code",
    "RAY_AUTH_TOKEN": "replaces Ray's own",
    "CUDA_VISIBLE_DEVICES": "takes a card that belongs to another model",
    "PATH": "finds other programs",
    "HOME": "finds other settings",
}


@pytest.mark.parametrize("name", WEAPONS)
def test_a_variable_that_does_harm_is_refused_at_the_door(name: str) -> None:
    with pytest.raises(errors.BadOption) as refusal:
        resolve(LaunchSpec(model_name="ce-tiny", envs={name: "x"}), Catalog.builtin(), Settings(home="/nowhere"))
    assert refusal.value.param == "envs" and name in refusal.value.message


def test_what_launches_set_in_practice_is_taken() -> None:
    envs = {"OMP_NUM_THREADS": "4", "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "VLLM_USE_V1": "1"}
    spec = LaunchSpec(model_name="all-MiniLM-L6-v2", envs=envs)
    assert resolve(spec, Catalog.builtin(), Settings(home="/nowhere")).spec.envs == envs


@pytest.fixture
def trapped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Starts a process with these variables, from which every plain Python process would write this file."""
    sprung = tmp_path / "sprung"
    (tmp_path / "trap.py").write_text(f"open({str(sprung)!r}, 'w').close()\nclass Category(Warning): pass\n")
    monkeypatch.setenv("PYTHONWARNINGS", "ignore::trap.Category")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return sprung


def test_the_trap_of_these_tests_is_sprung_by_a_plain_child(trapped: Path) -> None:
    subprocess.run([sys.executable, "-c", ""], check=True)
    assert trapped.exists()


def test_engines_are_tried_without_what_the_worker_was_given(trapped: Path) -> None:
    program = "import os, deployments; print([n for n in os.environ if 'TOKEN' in n or n == 'PYTHONWARNINGS'])"
    command = [*environment.ISOLATED, "-c", program]
    done = subprocess.run(command, env=environment_with(2), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]" and not trapped.exists()


def test_pages_are_drawn_without_what_the_ingress_was_given(trapped: Path) -> None:
    child = renderers._Child(10**9, 10**9)
    try:
        variables = Path(f"/proc/{child._started().pid}/environ").read_bytes()
        assert b"hf_secret" not in variables and b"PYTHONWARNINGS" not in variables
    finally:
        child.end()
    assert not trapped.exists()
