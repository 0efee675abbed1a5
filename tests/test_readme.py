"""What the README shows is run here, so that it stays true."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from tests.live import ROOT, LiveCluster
from tests.pipelines import saved

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
SHELL = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines() if line]
#: What needs weights from a hub, or a GPU.
ELSEWHERE = [line[2:] for kind, text in BLOCKS if kind == "console" for line in text.splitlines() if line[:2] == "$ "]
PYTHON = [text for kind, text in BLOCKS if kind == "python"]


@pytest.mark.ray
def test_every_command_of_the_readme_works(live: LiveCluster, embedder: str, tmp_path: Path) -> None:
    with live.client() as client:
        client.launch_model(model_name="ce-tiny", model_type="rerank")
    (tmp_path / "models.yaml").write_text(next(text for kind, text in BLOCKS if kind == "yaml"))
    seen = set()
    for line in SHELL:
        words = shlex.split(line)
        if words[0] in ("make", "source"):
            continue  # this very environment was made by the one and is what the other switches to
        if words[0] == "curl":
            line = line.replace("http://127.0.0.1:9997", live.url)
            answer = json.loads(subprocess.run(line, shell=True, capture_output=True, check=True, timeout=30).stdout)
            assert answer["results"][0]["index"] == 1
            continue
        assert words[0] == "cluster", line
        done = subprocess.run(
            live.command_line(*words[1:]),
            env=live.environment,
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
        )
        # `diff` says with 1 that there is something to do.
        assert done.returncode == (1 if words[1] == "diff" else 0), f"{line}\n{done.stdout}\n{done.stderr}"
        seen.add(words[1])
    assert {"launch", "list", "apply", "keys", "scale"} <= seen
    with live.client() as client:
        for key in client.list_keys():
            client.revoke_key(key["id"])


@pytest.mark.ray
def test_the_python_of_the_readme_runs(live: LiveCluster, capsys: pytest.CaptureFixture[str]) -> None:
    with live.client() as client:
        client.launch_model(model_name="ce-tiny", model_type="rerank")
    exec(PYTHON[0].replace("http://127.0.0.1:9997", live.url), {})
    assert capsys.readouterr().out == "2 1\n"


@pytest.fixture(scope="module")
def flux(live: LiveCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A tiny model of the kind and under the uid of the large one that the README speaks of."""
    folder = saved("flux", tmp_path_factory.mktemp("models") / "flux")
    with live.client() as client:
        yield client.launch_model("tiny-flux", "image", model_uid="flux", model_path=str(folder))
        client.terminate_model("flux")


@pytest.mark.ray
def test_a_scan_is_read_as_the_readme_says(live: LiveCluster, tmp_path: Path) -> None:
    page = Image.new("RGB", (800, 300), "white")
    ImageDraw.Draw(page).text((40, 100), "The moon pulls the sea", fill="black", font_size=48)
    page.save(tmp_path / "scan.pdf")
    lines = [shlex.split(line) for line in ELSEWHERE if " ocr" in line]
    assert [words[1] for words in lines] == ["launch", "ocr"]
    for words in lines:
        done = subprocess.run(
            live.command_line(*words[1:]),
            env=live.environment,
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
    with live.client() as client:
        text = client.get_model("ppocr-v6").ocr(tmp_path / "scan.searchable.pdf")
        client.terminate_model("ppocr-v6")
    assert "moon pulls" in str(text)


@pytest.mark.ray
def test_pictures_are_drawn_as_the_readme_says(
    live: LiveCluster, flux: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for line in ELSEWHERE:
        words = shlex.split(line)
        if words[1] == "launch" and "image" in words:
            # What it asks for is there; whether it fits depends on the machine.
            words = [*words, "--dry-run"]
            assert live.command(*words[1:]).returncode in (0, 4), line
        if words[1] == "generate":
            done = live.command(*words[1:-1], str(tmp_path / words[-1]))
            assert done.returncode == 0, done.stderr
            assert Image.open(tmp_path / words[-1]).size == (512, 512)
    exec(PYTHON[1].replace("http://127.0.0.1:9997", live.url), {})
    assert capsys.readouterr().out == "iVBORw0K\n"


def test_every_file_the_readme_names_is_there() -> None:
    for name in re.findall(r"`((?:cluster|deployments|benchmarks|tests)/[\w/.]+)`", README):
        assert (ROOT / name).exists(), name
