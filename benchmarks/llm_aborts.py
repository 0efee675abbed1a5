"""Callers of a language model who leave at any moment, beside others who stay: do those get what they would get alone,
is anything left of the aborted answers, and how soon does the model stop?

python -m benchmarks.llm_aborts [--aborts 200] [--url http://127.0.0.1:9997 --model UID]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from benchmarks.llm import MODEL, WORDS, cpu_seconds
from cluster import Client
from tests.live import LiveCluster

#: Of what stays, and of what is aborted if nobody leaves.
TOKENS, MANY = 24, 400
STAYING, LEAVING = 3, 6
#: After the caller has left: what the model computes is counted from then on, and for so long.
STOPPED_S, WATCHED_S = 0.05, 0.4


class Caller:
    """By hand, since a client library would take the server's cores."""

    def __init__(self, url: str, model: str) -> None:
        self._place = urlsplit(url)
        self._model = model

    async def open(self, prompt: str, tokens: int, stream: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        fields = {"model": self._model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": stream}
        body = json.dumps({**fields, "ignore_eos": True}).encode()
        reader, writer = await asyncio.open_connection(self._place.hostname, self._place.port)
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {self._place.netloc}\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        return reader, writer

    async def text(self, prompt: str) -> str:
        reader, writer = await self.open(prompt, TOKENS, False)
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 200"), answer[:500]
        return str(json.loads(answer.partition(b"\r\n\r\n")[2])["choices"][0]["text"])

    async def leave(self, after_s: float) -> None:
        """At any moment: before the first piece, amid them, or before a whole answer."""
        prompt = f"{random.choice(WORDS)} {random.random()}"
        _, writer = await self.open(prompt, MANY, random.random() < 0.6)
        await asyncio.sleep(after_s)
        writer.transport.abort()


async def aborts(caller: Caller, count: int) -> None:
    prompts = [f"The story of the {word} begins when" for word in WORDS[:8]]
    alone = [await caller.text(prompt) for prompt in prompts]
    left = count
    same = other = 0

    async def stay() -> None:
        nonlocal same, other
        while left > 0:
            number = random.randrange(len(prompts))
            if await caller.text(prompts[number]) == alone[number]:
                same += 1
            else:
                other += 1

    async def go() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await caller.leave(random.random())

    await asyncio.gather(*(stay() for _ in range(STAYING)), *(go() for _ in range(LEAVING)))
    print(f"{count} aborts; answers beside them: {same} as alone, {other} others")
    started = time.monotonic()
    await asyncio.gather(*(caller.text(prompt) for prompt in prompts * 2))
    print(
        f"16 answers at once afterwards: {time.monotonic() - started:.1f} s; they would wait if slots were left taken"
    )


async def idle_after(caller: Caller, worker: psutil.Process, stream: bool) -> tuple[float, float]:
    """Core-seconds while it answers, and once it has been left for a moment; of as much time."""
    reader, writer = await caller.open(f"{random.random()}", 3000, stream)
    if stream:
        await reader.readuntil(b"data: ")
    await asyncio.sleep(0.3)
    before = cpu_seconds([worker])
    await asyncio.sleep(WATCHED_S)
    busy = cpu_seconds([worker]) - before
    writer.transport.abort()
    await asyncio.sleep(STOPPED_S)
    before = cpu_seconds([worker])
    await asyncio.sleep(WATCHED_S)
    return busy, cpu_seconds([worker]) - before


async def measure(url: str, model: str, count: int) -> None:
    caller = Caller(url, model)
    with Client(url) as client:
        (pid,) = [worker.pid for worker in client.status(model).workers]
    worker = psutil.Process(pid)
    await caller.text("warm")
    before = worker.memory_full_info().uss
    await aborts(caller, count)
    print(f"memory: {before / 1e6:.0f} MB before, {worker.memory_full_info().uss / 1e6:.0f} MB after")
    for stream in (True, False):
        rows = [await idle_after(caller, worker, stream) for _ in range(8)]
        busy, idle = (sorted(column)[len(rows) // 2] for column in zip(*rows, strict=True))
        what = "a stream" if stream else "a whole answer"
        print(f"{what}: {busy:.2f} core-s in {WATCHED_S} s, {idle:.2f} from {STOPPED_S * 1000:.0f} ms after it is left")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aborts", type=int, default=200)
    parser.add_argument("--url", default="", help="of a cluster that serves the model already")
    parser.add_argument("--model", default=MODEL)
    wanted = parser.parse_args()
    with ExitStack() as stack:
        url = wanted.url
        if not url:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llm")))
            cluster = LiveCluster(folder / "home", CLUSTER_LOG_LEVEL="WARNING")
            stack.callback(cluster.down)
            cluster.up()
            with cluster.client() as client:
                client.launch_model(MODEL, "llm", model_uid=MODEL)
            url = cluster.url
        asyncio.run(measure(url, wanted.model, wanted.aborts))


if __name__ == "__main__":
    main()
