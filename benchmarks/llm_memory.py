"""Whether memory stays flat: what a language model's worker holds over thousands of answers of many lengths, of which
some follow a JSON schema.

    python -m benchmarks.llm_memory [--answers 2000] [--callers 16] [--forms 20]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.llm import MODEL, WORDS
from tests.live import LiveCluster

STRETCHES = 8


def body_of(number: int, forms: int) -> dict[str, Any]:
    """Every fourth answer follows one of the forms."""
    dice = random.Random(number)
    words = " ".join(dice.choices(WORDS, k=dice.randint(3, 300)))
    body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": words}]}
    body |= {"max_tokens": dice.randint(1, 48), "seed": number, "temperature": dice.choice([0, 1])}
    if forms and number % 4 == 0:
        names = [f"{word}_{dice.randrange(forms)}" for word in ("city", "people")]
        properties = {name: {"type": "integer"} for name in names}
        schema = {"type": "object", "properties": properties, "required": names, "additionalProperties": False}
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "form", "schema": schema}}
    return body


async def answered(url: str, numbers: range, callers: int, forms: int) -> int:
    """How many failed."""
    left, failed = iter(numbers), 0

    async def call(client: httpx.AsyncClient) -> None:
        nonlocal failed
        for number in left:
            answer = await client.post(f"{url}/v1/chat/completions", json=body_of(number, forms))
            failed += not answer.is_success

    async with httpx.AsyncClient(timeout=300) as client:
        await asyncio.gather(*(call(client) for _ in range(callers)))
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=2000)
    parser.add_argument("--callers", type=int, default=16)
    parser.add_argument("--forms", type=int, default=20)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cluster = LiveCluster(Path(folder), CLUSTER_LOG_LEVEL="WARNING")
        cluster.up()
        try:
            with cluster.client() as client:
                client.launch_model(MODEL, "llm", model_uid=MODEL)
            worker = psutil.Process(cluster.worker_pids(MODEL)[0])
            asyncio.run(answered(cluster.url, range(-2 * wanted.callers, 0), wanted.callers, wanted.forms))
            print("| answers | worker, MB | all processes, MB | failed |\n|---|---|---|---|")
            print(row(0, worker, cluster, 0))
            step = wanted.answers // STRETCHES
            started = time.monotonic()
            for begin in range(0, step * STRETCHES, step):
                numbers = range(begin, begin + step)
                failed = asyncio.run(answered(cluster.url, numbers, wanted.callers, wanted.forms))
                print(row(begin + step, worker, cluster, failed), flush=True)
            print(f"{step * STRETCHES} answers in {time.monotonic() - started:.0f} s")
        finally:
            cluster.down()


def row(answers: int, worker: psutil.Process, cluster: LiveCluster, failed: int) -> str:
    own = worker.memory_full_info().uss
    everything = sum(process.memory_full_info().uss for process in cluster.processes())
    return f"| {answers} | {own / 1e6:.0f} | {everything / 1e6:.0f} | {failed} |"


if __name__ == "__main__":
    main()
