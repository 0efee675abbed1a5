"""How soon the page shows something, how soon it shows a change, and what open pages cost the server.

    python -m benchmarks.page [--times 10] [--tabs 50]

A real cluster and a real browser. A change is a model that is launched asleep: from the server's answer that it is,
until its row is drawn. Open pages are the streams that they read: as many browsers would take the cores that are
measured.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import aiohttp
import psutil
from playwright.async_api import Page

from tests.live import LiveCluster
from tests.page.looking import Eyes, opened

#: In the page: milliseconds of the frame in which an element with this text has been drawn.
DRAWN = """
name => new Promise(drawn => {
  const look = () => {
    const isThere = [...document.querySelectorAll("th a")].some(link => link.textContent === name);
    isThere ? requestAnimationFrame(() => drawn(performance.now())) : setTimeout(look, 1);
  };
  look();
})
"""
FIRST_BYTE = "() => performance.getEntriesByType('navigation')[0].responseStart"
PATIENCE_S = 120.0
#: Streams are read for so long, and as long without them.
WATCHED_S = 20.0


async def first_view_ms(eyes: Eyes, live: LiveCluster) -> float:
    """With nothing kept of an earlier visit."""
    async with eyes.tab() as page:
        await page.goto(f"{live.url}/ui/")
        drawn = await page.evaluate(DRAWN, "first")
        return float(drawn - await page.evaluate(FIRST_BYTE))


async def change_ms(page: Page, live: LiveCluster, name: str) -> float:
    """Between the server's answer that a model is wanted, which follows its being written down, and its row."""
    seen = asyncio.ensure_future(page.evaluate(DRAWN, name))
    await asyncio.sleep(0.2)
    body = {"model_name": "echo", "model_type": "echo", "model_uid": name, "asleep": True}
    async with aiohttp.ClientSession() as client:
        async with client.post(f"{live.url}/v1/models?wait_ready=false", json=body) as answer:
            answer.raise_for_status()
            known = time.perf_counter()
    await seen
    return (time.perf_counter() - known) * 1000


def ingress_of(live: LiveCluster) -> psutil.Process:
    """The process that listens."""
    listening = (each for each in psutil.net_connections("tcp") if each.status == "LISTEN")
    return psutil.Process(next(each.pid for each in listening if each.laddr[1:] == (live.port,)))


async def used(process: psutil.Process) -> float:
    """Of a core."""
    before = sum(process.cpu_times()[:2])
    await asyncio.sleep(WATCHED_S)
    return (sum(process.cpu_times()[:2]) - before) / WATCHED_S


async def streams_cost(live: LiveCluster, tabs: int) -> tuple[float, float, float]:
    """Of a core: with no page open, with so many, and with so many while a model changes each second."""
    process = ingress_of(live)
    alone = await used(process)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:

        async def read() -> None:
            async with client.get(f"{live.url}/v1/changes", timeout=aiohttp.ClientTimeout(None)) as answer:
                async for _ in answer.content.iter_any():
                    continue

        async def change() -> None:
            for turn in range(10**6):
                word = "wake" if turn % 2 else "sleep"
                async with client.post(f"{live.url}/v1/models/first/{word}") as answer:
                    await answer.read()
                await asyncio.sleep(1)

        reading = [asyncio.ensure_future(read()) for _ in range(tabs)]
        await asyncio.sleep(2)
        still = await used(process)
        changing = asyncio.ensure_future(change())
        lively = await used(process)
        for task in (*reading, changing):
            task.cancel()
        await asyncio.gather(*reading, changing, return_exceptions=True)
    return alone, still, lively


async def measured(eyes: Eyes, live: LiveCluster, times: int, tabs: int) -> None:
    await first_view_ms(eyes, live)
    views = [await first_view_ms(eyes, live) for _ in range(times)]
    async with eyes.tab() as page:
        await opened(page, live)
        changes = [await change_ms(page, live, f"m{number}") for number in range(times)]
    print("| | p50 | longest |\n|---|---|---|")
    print(f"| first view, ms from the first byte | {statistics.median(views):.0f} | {max(views):.0f} |")
    print(f"| a change, ms from the server's answer | {statistics.median(changes):.0f} | {max(changes):.0f} |")
    alone, still, lively = await streams_cost(live, tabs)
    print(
        f"\nThe ingress: {alone:.1%} of a core, {still:.1%} with {tabs} pages open, {lively:.1%} while a model falls "
        "asleep or wakes each second."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--tabs", type=int, default=50)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        live = LiveCluster(Path(folder), CLUSTER_LOG_LEVEL="WARNING")
        eyes = Eyes()
        try:
            live.up()
            with live.client() as client:
                client.launch_model("echo", model_uid="first")
            eyes.run(measured(eyes, live, asked.times, asked.tabs), PATIENCE_S + 3 * WATCHED_S)
        finally:
            eyes.close()
            live.down()


if __name__ == "__main__":
    main()
