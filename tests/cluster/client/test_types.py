"""The types that the package gives to a user's own program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

SCRIPT = """
import asyncio
from collections.abc import Mapping
from typing import Any, assert_type

from cluster import AsyncClient, Client, LaunchSpec, errors
from cluster.client import AsyncRerankModel, EmbeddingModel, ImageModel, Pictures
from cluster.status import ModelStatus


def use(url: str) -> None:
    with Client(url, api_key="key") as client:
        uid = client.launch_model("bge-m3", "embedding", replica=2, timeout=60)
        assert_type(uid, str)
        assert_type(client.status(uid), ModelStatus)
        assert_type(client.submit(LaunchSpec(model_name="bge-m3")).generation, int)
        model: EmbeddingModel = client.get_model(uid)
        rows: list[Mapping[str, Any]] = model.create_embedding(["hello"], dimensions=64)["data"]
        assert_type(model.similarity("a", ["b"]), list[float])
        pictures: Pictures = ImageModel(client, "flux").text_to_image("a lighthouse", seed=7)
        pictures[0].save("lighthouse.png")
        try:
            client.terminate_model(uid)
        except errors.UnknownUid as error:
            print(error.message, rows)


async def use_async(url: str) -> None:
    async with AsyncClient(url) as client:
        assert_type(await client.launch_model("bge-reranker-v2-m3"), str)
        model: AsyncRerankModel = await client.get_model("bge-reranker-v2-m3")
        print((await model.rerank(["a"], "q", top_n=1))["results"])


asyncio.run(use_async("http://127.0.0.1:9997"))
"""


def check(folder: Path, **scripts: str) -> subprocess.CompletedProcess[str]:
    """The output of mypy for scripts that use the installed package."""
    for name, script in scripts.items():
        (folder / f"{name}.py").write_text(script)
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", os.devnull, *(f"{name}.py" for name in scripts)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_a_program_that_uses_the_client_is_checked_against_it(tmp_path: Path) -> None:
    wrong = SCRIPT.replace("timeout=60", 'timeout="60"').replace("await model.rerank", "model.rerank")
    done = check(tmp_path, good=SCRIPT, bad=wrong)
    errors = [
        (line.partition(":")[0], line.rpartition("[")[2]) for line in done.stdout.splitlines() if " error: " in line
    ]
    assert errors == [("bad.py", "arg-type]"), ("bad.py", "index]")], done.stdout + done.stderr
