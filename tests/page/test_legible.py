"""Every screen and every tab of the page, and every state that they may be in: legible to all, whole in its window, and
reached with the keyboard alone."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Page, Route, expect

from cluster.keys import new_key
from tests.cluster.weights.test_removal import downloaded
from tests.page.looking import Eyes, line
from tests.page.staged import PLACES, SCREENS, UIDS, Staged, answered, shown, told, tried
from tests.page.test_page import AXE, serving
from tests.page.test_screens import Keeping
from tests.painted import filled

FAULTS = """(rules) => axe.run({resultTypes: ["violations"], ...(rules.length > 0 ? {runOnly: rules} : {})})
  .then((found) => found.violations.map((each) => `${each.id}: ${each.nodes.map((node) => node.html).slice(0, 3)}`))"""
#: Words that do not fit into what they are written in. Names in bars of memory are told in full beside them.
CUT = """() => [...document.querySelectorAll("header *, main *")].filter((it) => {
  const style = getComputedStyle(it);
  const hides = ["hidden", "clip"].includes(style.overflowX) || it.matches("button, .button, .state, label, th");
  return it.clientWidth > 0 && hides && it.scrollWidth > it.clientWidth + 1 && !it.closest(".segments, svg, .plot");
}).map((it) => `cut: ${it.outerHTML.slice(0, 150)}`)"""
WIDE = "document.documentElement.scrollWidth > innerWidth ? ['wider than its window'] : []"
#: From now on notes where in the document the focus goes, and where nobody sees that.
FOLLOWING = """() => {
  window.steps = [];
  window.hidden = [];
  if (window.isFollowed) return;
  window.isFollowed = true;
  addEventListener("focusin", ({target: it}) => {
    const box = it.getBoundingClientRect();
    const style = getComputedStyle(it);
    const isSeen = box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth && box.width > 0;
    const hasMark = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
    steps.push([...document.querySelectorAll("*")].indexOf(it));
    if (!isSeen || !hasMark) hidden.push(it.outerHTML.slice(0, 120));
  });
}"""
#: Where the keyboard goes until it leaves the document, in order and seen.
FOLLOWED = """() => {
  const end = steps.findIndex((at, place) => place > 0 && at <= steps[place - 1]);
  const isBack = end < 0 || steps[end] < steps[0];
  const missed = [...hidden, ...(isBack ? [] : [`back from ${steps[end - 1]} to ${steps[end]}`])];
  return steps.length > 0 ? missed : ["nothing has the focus"];
}"""
TABS_MOST = 18


async def faults_of(page: Page, where: str, *rules: str) -> list[str]:
    faults = [*await page.evaluate(WIDE), *await page.evaluate(CUT)]
    if AXE.exists():
        faults += await page.evaluate(FAULTS, list(rules))
    return [f"{where}: {fault}" for fault in faults]


async def with_axe(page: Page) -> None:
    if AXE.exists():
        # Through the debugger, which the policy does not bind.
        await page.evaluate(AXE.read_text() + "; undefined")


@asynccontextmanager
async def staged(eyes: Eyes, home: Path, width: int, scheme: str, language: str = "en-GB") -> AsyncIterator[Page]:
    downloaded(home, "c1", model_safetensors="weights")
    keys = (new_key("ann", ["list", "infer"], [UIDS["chat"]])[0], new_key("operators", ["admin"])[0])
    tab = eyes.tab(width=width, scheme=scheme, language=language)
    async with serving(home, Staged(keys)) as url, tab as page:
        await page.goto(f"{url}/ui/")
        await expect(page.locator("tbody tr").first).to_be_visible()
        await answered(page, "The moon pulls at the sea.", UIDS["chat"])
        await with_axe(page)
        yield page


#: All that axe knows is looked for once in each width; where only colours are others, at those.
WINDOWS = (
    (1280, "light", ()),
    (1280, "dark", ("color-contrast",)),
    (390, "dark", ()),
    (390, "light", ("color-contrast",)),
)


@pytest.mark.parametrize("language", ["en-GB", "zh-CN"])
def test_each_screen_is_legible_to_all_and_whole_in_its_window(eyes: Eyes, tmp_path: Path, language: str) -> None:
    file = tmp_path / "page.png"
    file.write_bytes(filled("white", (60, 40)))

    async def scene() -> None:
        faults: list[str] = []
        async with staged(eyes, tmp_path, 1280, "light", language) as page:
            for screen, places in PLACES.items():
                for place in (screen, *places):
                    await shown(page, place)
                    if place == "launch":
                        # The catalogue is long, and its rows are alike.
                        await page.locator("main [type=search]").fill("tiny")
                    if place.endswith("/try"):
                        await tried(page, file)
                        await expect(page.locator("main [role=status]").filter(has_text="…")).to_have_count(0)
                    # What is behind a screen is made of the same parts.
                    is_alike = not (place in SCREENS or place.endswith("/try"))
                    for width, scheme, rules in WINDOWS[::2] if is_alike or language != "en-GB" else WINDOWS:
                        await page.set_viewport_size({"width": width, "height": 800})
                        await page.emulate_media(color_scheme=scheme)
                        # The words of another language have the same colours and names.
                        asked = rules if language == "en-GB" else ("document-title",)
                        faults += await faults_of(page, f"{place} {width} {scheme}", *asked)
        assert "\n".join(faults) == ""

    eyes.run(scene(), within_s=300)


def test_each_state_of_each_screen_is_legible_to_all(eyes: Eyes, tmp_path: Path) -> None:
    key, text = new_key("ann", ["list"])
    faults: list[str] = []

    async def held(route: Route) -> None:
        """Answered never."""

    async def refused(route: Route) -> None:
        await route.fulfill(status=400, **told({"error": {"message": "It fits nowhere (a: 1 of 16 GiB free)."}}))

    async def walked(page: Page, state: str) -> None:
        for screen in SCREENS:
            await page.evaluate(f"location.hash = '#/{screen}'")
            busy = page.locator("main [aria-busy]")
            await expect(busy).to_have_count(0) if state != "loading" else await page.wait_for_timeout(30)
            if screen == "launch":
                await page.locator("main [type=search]").fill("nothing is called like this")
            faults.extend(await faults_of(page, f"{state} {screen}"))
            # Those that ask for something are in that state.
            if screen not in ("models", "nodes", "about", "requests"):
                marks = {"error": "main [role=alert]", "loading": "main [aria-busy]", "empty": "main"}
                await expect(page.locator(marks[state]).first).to_be_visible()

    async def scene() -> None:
        async with serving(tmp_path, Keeping(keys=(key,)), auth="on") as url, eyes.tab(width=390) as page:
            await page.goto(f"{url}/ui/")
            await expect(line(page)).to_have_text("Locked")
            await with_axe(page)
            faults.extend(await faults_of(page, "login"))
            await page.get_by_label("Key").fill(text)
            await page.keyboard.press("Enter")
            await expect(line(page)).to_have_text("Live")
            # Nothing is there, and it may not see everything.
            await walked(page, "empty")
            for state, way in (("error", refused), ("loading", held)):
                await page.route(re.compile("/v1/(?!changes|session|login|cluster)"), way)
                await walked(page, state)
                await page.unroute_all()
        assert "\n".join(faults) == ""

    eyes.run(scene())


def test_the_keyboard_leads_through_each_screen_in_its_order_and_shows_where_it_is(eyes: Eyes, tmp_path: Path) -> None:
    async def scene() -> None:
        faults: list[str] = []
        async with staged(eyes, tmp_path, 1280, "light") as page:
            for place in (*SCREENS, *PLACES["models"], PLACES["launch"][1], PLACES["registrations"][1]):
                await shown(page, place)
                # What is above the tabs of a model is the same in each.
                await page.evaluate(
                    "(document.querySelector('.tabs a:last-child') ?? document.querySelector('main')).focus()"
                )
                await page.evaluate(FOLLOWING)
                for _ in range(TABS_MOST):
                    await page.keyboard.press("Tab")
                faults += [f"{place}: {each}" for each in await page.evaluate(FOLLOWED)]
            # A question takes the keyboard, and Escape gives it back.
            await shown(page, "keys")
            await page.get_by_role("button", name="Revoke").first.focus()
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("dialog")).to_be_visible()
            assert await page.evaluate("document.activeElement.closest('dialog') !== null")
            await page.keyboard.press("Escape")
            await expect(page.get_by_role("dialog")).to_have_count(0)
            assert await page.evaluate("document.activeElement.textContent") == "Revoke"
            await page.keyboard.press("Control+k")
            await expect(page.get_by_role("dialog")).to_be_visible()
            await page.keyboard.press("Escape")
            await expect(page.get_by_role("dialog")).to_have_count(0)
        assert "\n".join(faults) == ""

    eyes.run(scene(), within_s=300)
