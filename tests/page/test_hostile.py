"""Every screen and every tab of the page with text that means harm in all that it shows: it stays text, breaks no
policy and fits its window."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from playwright.async_api import Page, Route, expect

from cluster.cards import Card
from cluster.catalog.entry import Entry, Source
from cluster.keys import Key, new_key
from cluster.status import Claim, Event, EventQuery, ModelStatus, Node, ScaleStatus
from tests.cluster.statuses import make_worker
from tests.cluster.weights.test_removal import downloaded
from tests.page.looking import HOSTILE, Eyes, line
from tests.page.staged import ABILITIES, SCREENS, TABS, Staged, answered, answers, places, shown, told, tried
from tests.page.test_page import serving
from tests.page.test_screens import Keeping
from tests.painted import filled

#: What can be seen of each text.
MARK = "onerror=alert(1)"
#: Colours of a terminal, places that turn the writing around or are seen by nobody, a tag of each kind, what templates
#: and addresses would run, the byte that ends a string in C, and ten thousand letters without a space.
NASTY = (
    f"{HOSTILE}</textarea></pre></title></svg><svg onload=alert(3)>javascript:alert(4)<a href='javascript:alert(5)'>"
    f"\u2066\u200b\ufeff\u200d\x1b[31mred\x1b]0;title\x07\x1b[0m${{7*7}}<%= 7 %>\x00{'x' * 10_000}"
)
#: As Python holds a byte in the name of a file that is no letter, and half of a letter as JSON lets it through.
BROKEN, HALF = "\udcff", "\ud83d"
#: A name of a model is a part of an address.
UID = f"{HOSTILE}{'u' * 100}"


UIDS = {ability: f"{ability} {UID}" for ability in ABILITIES}
PLACES = places(UIDS, UID)
#: Buttons that ask before they do something, and what they ask about.
ASKING = {"weights": "Delete", "registrations": "Unregister", "keys": "Revoke"}
#: Whatever a text could have become.
HARM = """() => {
  const picture = /^(blob:|data:image\\/(png|jpeg|webp);)/;
  const own = (url) => !url || picture.test(url) || new URL(url).origin === location.origin;
  return [...document.querySelectorAll("head script, body *")].filter((it) =>
    (it.matches("script") && it.src !== new URL("page.js", document.baseURI).href)
    || it.matches("iframe, object, embed, frame, math, form[action], base:not([href]), meta[http-equiv]")
    || it.getAttributeNames().some((name) => name.startsWith("on") || name === "srcdoc")
    || !own(it.href?.baseVal ?? it.href) || !own(it.src)
  ).map((it) => it.outerHTML.slice(0, 200));
}"""
#: Parts that make the document wider than its window.
WIDE = """() => document.documentElement.scrollWidth <= innerWidth ? [] :
  ["the document", ...[...document.querySelectorAll("body *")]
    .filter((it) => it.getBoundingClientRect().right > innerWidth + 1 || it.scrollWidth > innerWidth)
    .filter((it) => !it.parentElement.closest(".scroll, pre, nav"))
    .map((it) => `${it.tagName} ${it.className} ${it.textContent.slice(0, 30)}`)].slice(0, 6)"""
VIOLATIONS = (
    """addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective}`))"""
)


def test_every_screen_of_the_page_is_walked() -> None:
    assert list(PLACES) == SCREENS
    assert list(answers("")) == ABILITIES
    assert {"try", "replicas", "logs", "events", "code", "edit"} <= set(TABS)


class Malign(Keeping):
    """Has harm in all that it says."""

    def __init__(self, key: Key) -> None:
        text = NASTY + BROKEN
        worker = make_worker(
            stage=text, progress=0.4, node=text, reason=text, done_bytes=1, total_bytes=3, cards=(0, 1)
        )
        lost = make_worker(1, "FAILED", reason=text, node=text)
        scale = ScaleStatus(min=0, max=4, target_queue_s=1.0, why=text)
        fields: dict[str, Any] = {"workers": (worker, lost), "scale": scale, "log_tail": (text,)}
        super().__init__(*(self._model(ability, fields) for ability in ABILITIES), keys=(key,))
        entry = Entry(name=UID, type="rerank", family="cross-encoder", sources=(self._source(text),), builtin=False)
        facts = {"needs": text}
        more = {"description": text, "licence": text, "languages": (text,), "facts": facts, "weight_bytes": 1}
        self.entries["rerank", UID] = entry.model_copy(update=more)

    @staticmethod
    def _source(text: str) -> Source:
        return Source(hub="huggingface", id="a/b", format=text, quantizations=(text,), revision=text)

    @staticmethod
    def _model(ability: str, fields: dict[str, Any]) -> ModelStatus:
        state = "DEGRADED" if ability == "embed" else "READY"
        return Staged.model(UIDS[ability], ability, state=state, reason=NASTY + BROKEN, stage=NASTY, **fields)

    async def nodes(self) -> list[tuple[Node, Claim, int]]:
        text = NASTY + BROKEN
        card = Card(text, text, 2**34, 2**33, foreign_bytes=2**30, foreign=text)
        node = Node("n0", text, 8, 2**34, 2, 2**34, name=text, version=text, room_reason=text, cards=(card, card))
        return [(node, Claim(memory_bytes=2**33, card_bytes=2**33), 1)]

    async def events(self, uid: str) -> list[Event]:
        return [Event(ts=1.0, level="ERROR", uid=uid, text=NASTY + BROKEN)]

    async def recent_events(self, query: EventQuery) -> list[Event]:
        return [Event(ts=1.0, level="ERROR", uid=uid, text=NASTY + BROKEN, id=1) for uid in (UID, "", f"embed {UID}")]

    async def logs(self, uid: str, lines: int) -> list[str]:
        return [NASTY + BROKEN, f"ValueError: {NASTY}"] * 20

    async def all_keys(self) -> list[Key]:
        return list(self.keys[:1])

    async def create_key(self, name: str, scopes: Iterable[str], models: Iterable[str] | None) -> tuple[Key, str]:
        return self.keys[0], NASTY

    async def terminate(self, uid: str) -> None:
        del self.statuses[uid]
        self.news += 1


SAID = f"answered {NASTY}{HALF}"


@asynccontextmanager
async def malign(eyes: Eyes, home: Path) -> AsyncIterator[tuple[Page, str]]:
    """A page as wide as a telephone's, logged in."""
    key, text = new_key(NASTY, ["admin"])
    for name in (f"{HOSTILE} {BROKEN}", "b"):
        folder = downloaded(home, "c1", model_safetensors="weights").folder
        folder.rename(folder.with_name("models--a--" + name.replace("/", "-")))
    async with serving(home, Malign(key), auth="on") as url, eyes.tab(width=390) as page:
        await page.add_init_script(VIOLATIONS)
        await page.goto(f"{url}/ui/")
        await page.get_by_label("Key").fill(f"ck-{NASTY[:900]}")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_be_visible()
        await page.get_by_label("Key").fill(text)
        await page.keyboard.press("Enter")
        await expect(line(page)).to_have_text("Live")
        yield page, url


async def faults_of(page: Page, place: str) -> list[str]:
    found = [*await page.evaluate(HARM), *await page.evaluate(WIDE)]
    return [f"{place[:40]}…{place[-12:]}: {fault}" for fault in found]


def test_whatever_is_written_anywhere_stays_text_on_every_screen(eyes: Eyes, tmp_path: Path) -> None:
    file = tmp_path / f"{HOSTILE.replace('/', '')}.png"
    file.write_bytes(filled("red", (8, 8)))

    async def scene() -> None:
        faults: list[str] = []
        async with malign(eyes, tmp_path) as (page, _):
            await answered(page, SAID, UID + HALF)
            for screen, places in PLACES.items():
                for place in (screen, *places):
                    await shown(page, place)
                    await expect(page.locator("main")).to_contain_text(MARK) if screen != "about" else None
                    if place.endswith("/try"):
                        await tried(page, file, NASTY)
                        # Texts that are compared are shown again; all others are answered with some.
                        again = place.startswith(("models/embed", "models/rerank"))
                        what = page.locator("main li" if again else "main").filter(
                            has_text=MARK if again else "answered"
                        )
                        await expect(what.first).to_be_visible()
                        await page.evaluate("document.querySelectorAll('details').forEach((it) => (it.open = true))")
                    if place in ASKING:
                        await page.locator("main tbody").get_by_role("button", name=ASKING[place]).first.click()
                        await expect(page.get_by_role("dialog")).to_contain_text(MARK)
                    faults += await faults_of(page, place)
                    await page.keyboard.press("Escape")
            await page.keyboard.press("Control+k")
            await expect(page.get_by_role("dialog")).to_contain_text(MARK)
            faults += await faults_of(page, "palette")
            await page.keyboard.press("Escape")
            await shown(page, PLACES["models"][0])
            await page.get_by_role("button", name="Terminate").click()
            await page.get_by_role("dialog").locator("button.danger").click()
            await expect(page.locator(".banner")).to_contain_text(MARK)
            faults += await faults_of(page, "banner")
        assert "\n".join(faults) == ""

    eyes.run(scene(), within_s=300)


def test_whatever_the_server_complains_of_stays_text_on_every_screen(eyes: Eyes, tmp_path: Path) -> None:
    """Every question of every screen is answered with an error."""
    refusal = told({"error": {"message": SAID, "code": NASTY, "param": NASTY}})
    #: They ask for nothing by themselves.
    quiet = {"models", "nodes", "about"}

    async def refused(route: Route) -> None:
        known = ("/v1/changes", "/v1/session", "/v1/login", "/v1/cluster/version")
        if any(path in route.request.url for path in known):
            return await route.continue_()
        await route.fulfill(status=400, **refusal)

    async def scene() -> None:
        faults: list[str] = []
        async with malign(eyes, tmp_path) as (page, _):
            await page.route("**/v1/**", refused)
            await page.route("**/classify", refused)
            for screen in PLACES:
                if screen in quiet:
                    continue
                await shown(page, screen)
                await expect(page.get_by_role("alert").first).to_contain_text("answered")
                faults += await faults_of(page, screen)
            for ability in ABILITIES:
                place = f"models/{quote(UIDS[ability], safe='')}/try"
                await shown(page, place)
                await tried(page, Path(__file__), NASTY)
                await expect(page.locator("main").get_by_role("alert").first).to_contain_text("answered")
                faults += await faults_of(page, place)
        assert "\n".join(faults) == ""

    eyes.run(scene(), within_s=300)
