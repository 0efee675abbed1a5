"""A hundred nodes with eight cards each, and a thousand models, in a real browser."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from playwright.async_api import Page, expect

from cluster.cards import Card
from cluster.status import Claim, ModelStatus, Node
from tests.cluster.statuses import make_status, make_worker
from tests.make import GIB
from tests.page.looking import Eyes, line
from tests.page.test_page import Shown, serving

NODES, CARDS, MODELS = 100, 8, 1000
#: Frames that were drawn in a second of scrolling through all of the window, and the longest that one took.
SCROLLING = """async () => {
  const page = document.scrollingElement;
  const times = [];
  await new Promise((done) => {
    const began = performance.now();
    const step = (now) => {
      times.push(now);
      page.scrollTop = page.scrollHeight * Math.min(1, (now - began) / 1000);
      now - began < 1000 ? requestAnimationFrame(step) : done();
    };
    requestAnimationFrame(step);
  });
  const pauses = times.slice(1).map((time, place) => time - times[place]);
  return [times.length, Math.max(...pauses)];
}"""


#: Milliseconds until a screen is drawn.
OPENING = """async (screen) => {
  const began = performance.now();
  location.hash = `#/${screen}`;
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  return performance.now() - began;
}"""


class Many(Shown):
    """Each model has a replica on a card of a node; the last of them are told to be different."""

    def __init__(self) -> None:
        super().__init__(*(self.model(number) for number in range(MODELS)))

    @staticmethod
    def model(number: int, state: str = "READY", **fields: Any) -> ModelStatus:
        node = f"10.0.0.{number % NODES}"
        card = number // NODES % CARDS
        worker = make_worker(state="READY", node=node, cards=(card,), claim_bytes=GIB, card_bytes=20 * GIB)
        return make_status(f"model-{number:04}", state, workers=(worker,), created=1.0, **fields)

    async def nodes(self) -> list[tuple[Node, Claim, int]]:
        card = Card("H100 80GB", total_bytes=80 * GIB, used_bytes=30 * GIB)
        shared = replace(card, used_bytes=50 * GIB, foreign_bytes=8 * GIB, foreign="python (pid 7)")
        plain = Node("", "", 64, 512 * GIB, CARDS, 80 * GIB, cards=(card,) * (CARDS - 1) + (shared,))
        shares = tuple((number, 0.5 if number < 2 else 0.25) for number in range(CARDS))
        claim = Claim(memory_bytes=10 * GIB, cards=shares, card_bytes=200 * GIB)
        names = {"name": "gpu-{:03}", "ip": "10.0.0.{}", "id": "n{}"}
        own = [{field: name.format(number) for field, name in names.items()} for number in range(NODES)]
        return [(replace(plain, is_head=number == 0, **own[number]), claim, 10) for number in range(NODES)]


@asynccontextmanager
async def many(eyes: Eyes, home: Path) -> AsyncIterator[tuple[Page, str, Many]]:
    supervisor = Many()
    async with serving(home, supervisor) as url, eyes.tab() as page:
        yield page, url, supervisor


MEMORY = "JSHeapUsedSize"


async def memory_of(page: Page) -> int:
    """Of its scripts, and how many parts its document has."""
    session = await page.context.new_cdp_session(page)
    await session.send("Performance.enable")
    metrics = (await session.send("Performance.getMetrics"))["metrics"]
    return next(round(metric["value"] / 1e6) for metric in metrics if metric["name"] == MEMORY)


async def reported(page: Page, what: str) -> None:
    frames, longest = await page.evaluate(SCROLLING)
    parts = await page.evaluate("document.querySelectorAll('*').length")
    print(f"{what}: {frames} frames in a second of scrolling through all, the longest {longest:.0f} ms,", end=" ")
    print(f"{parts} elements, {await memory_of(page)} MB")
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_thousand_models_are_no_burden(eyes: Eyes, tmp_path: Path) -> None:
    async def scene() -> None:
        async with many(eyes, tmp_path) as (page, url, supervisor):
            await page.goto(f"{url}/ui/#/about")
            await expect(line(page)).to_have_text("Live")
            print(f"\n{MODELS} models {await page.evaluate(OPENING, 'models'):.0f} ms after they were chosen")
            models = page.locator("tbody tr:not([aria-hidden])")
            await expect(models.filter(has_text="model-0005")).to_be_visible()
            # Most of them are not in the document, and none that anybody could see is missing.
            assert 20 < await models.count() < 200
            began = time.monotonic()
            supervisor.show(Many.model(5, "FAILED", reason="why it failed"))
            await expect(models.nth(5)).to_contain_text("why it failed")
            print(f"a change {1000 * (time.monotonic() - began):.0f} ms after the supervisor knows")
            await reported(page, "models")
            await expect(models.filter(has_text="model-0999")).to_be_visible()
            await page.evaluate("scrollTo(0, document.body.scrollHeight / 2)")
            middle = "document.elementFromPoint(400, 500)?.closest('tr')?.textContent.startsWith('model-0')"
            await page.wait_for_function(middle)
            await page.get_by_label("Search the models").fill("FAILED model")
            await expect(models).to_have_count(1)
            await page.get_by_label("Search the models").fill("FAILED and nothing else")
            await expect(page.get_by_text("No model has these words")).to_be_visible()

    eyes.run(scene())


def test_who_has_how_much_of_each_card_of_a_hundred_nodes_is_seen(eyes: Eyes, tmp_path: Path) -> None:
    async def scene() -> None:
        async with many(eyes, tmp_path) as (page, url, supervisor):
            await page.goto(f"{url}/ui/#/about")
            await expect(line(page)).to_have_text("Live")
            print(f"\n{NODES} nodes {await page.evaluate(OPENING, 'nodes'):.0f} ms after they were chosen")
            nodes = page.get_by_role("region", name="gpu-")
            await expect(nodes).to_have_count(NODES)
            node = page.get_by_role("region", name="gpu-007")
            cards = node.get_by_role("img", name="Card")
            await expect(cards).to_have_count(CARDS)
            # Ten models are on eight cards.
            await expect(cards.first).to_have_text("model-0007model-0807")
            await expect(node.get_by_role("img", name="Card 0: 40 GiB of 80 GiB claimed · 30 GiB used")).to_be_visible()
            await expect(cards.last).to_have_attribute("aria-label", re.compile("8.0 GiB held by python .pid 7"))
            await expect(node.get_by_text("8.0 GiB held by python (pid 7)")).to_be_visible()
            supervisor.show(Many.model(7, "FAILED").model_copy(update={"workers": ()}))
            await expect(cards.first).to_have_text("model-0807")
            await reported(page, "nodes")
            await page.set_viewport_size({"width": 390, "height": 800})
            await reported(page, "nodes in a narrow window")

    eyes.run(scene())
