"""Every screen and every tab of the page with text that means harm in all that it shows: it stays text, breaks no
policy and fits its window."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from playwright.async_api import Page, Route, expect

from cluster.cards import Card
from cluster.catalog.entry import Entry, Source
from cluster.keys import Key, new_key
from cluster.status import Claim, Event, EventQuery, ModelStatus, Node, ScaleStatus
from tests.cluster.statuses import make_status, make_worker
from tests.cluster.weights.test_removal import downloaded
from tests.live import ROOT
from tests.page.looking import HOSTILE, Eyes, line
from tests.page.test_page import serving
from tests.page.test_screens import Keeping
from tests.painted import filled

SOURCES = ROOT / "page" / "src"
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


def keys_of(file: str, name: str) -> list[str]:
    """Of a table of the page."""
    match = re.search(rf"const {name}\b[^=]*= [{{\[](.*?)[}}\]]", (SOURCES / file).read_text(), re.DOTALL)
    assert match is not None, f"{file} has no {name}"
    return [field or word for field, word in re.findall(r"^\s*(\w+)(?=:)|\"(\w+)\"", match[1], re.MULTILINE)]


ABILITIES = keys_of("try/try.tsx", "BY_ABILITY")
TABS = keys_of("screens/model.tsx", "TABS")
#: The screens of the page, and the places behind each that are looked at as well.
PLACES: dict[str, tuple[str, ...]] = {
    "models": (
        *(f"models/{quote(f'{ability} {UID}', safe='')}/try" for ability in ABILITIES),
        *(f"models/{quote(f'embed {UID}', safe='')}/{tab}" for tab in TABS),
        f"models/{quote('gone ' + UID, safe='')}",
    ),
    "launch": ("launch/rerank", f"launch/rerank/{quote(UID, safe='')}", f"launch/rerank/{quote('no ' + UID, safe='')}"),
    "requests": (),
    "nodes": (),
    "weights": (),
    "registrations": ("registrations/new/rerank", f"registrations/new/rerank/{quote(UID, safe='')}"),
    "events": (f"events/{quote(UID, safe='')}",),
    "keys": (),
    "about": (),
}
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
    assert list(PLACES) == keys_of("app.tsx", "SCREENS")
    assert set(ANSWERS) == set(ABILITIES)
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
        super().__init__(*(self._model(f"{ability} {UID}", ability, fields) for ability in ABILITIES), keys=(key,))
        entry = Entry(name=UID, type="rerank", family="cross-encoder", sources=(self._source(text),), builtin=False)
        facts = {"needs": text}
        more = {"description": text, "licence": text, "languages": (text,), "facts": facts, "weight_bytes": 1}
        self.entries["rerank", UID] = entry.model_copy(update=more)

    @staticmethod
    def _source(text: str) -> Source:
        return Source(hub="huggingface", id="a/b", format=text, quantizations=(text,), revision=text)

    @staticmethod
    def _model(uid: str, ability: str, fields: dict[str, Any]) -> ModelStatus:
        state = "DEGRADED" if ability == "embed" else "READY"
        status = make_status(uid, state, reason=NASTY + BROKEN, stage=NASTY, **fields)
        entry = status.wanted.entry.model_copy(update={"name": "ce-tiny", "type": "rerank"})
        abilities = (ability, "inpainting") if ability == "text2image" else (ability,)
        return status.model_copy(
            update={"wanted": status.wanted.model_copy(update={"entry": entry, "abilities": abilities})}
        )

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


def streamed(*events: dict[str, Any]) -> dict[str, Any]:
    """As an engine would stream them; JSON lets half a letter through."""
    return {"content_type": "text/event-stream", "body": "".join(f"data: {json.dumps(event)}\n\n" for event in events)}


def told(body: Any) -> dict[str, Any]:
    return {"content_type": "application/json", "body": json.dumps(body)}


SAID = f"answered {NASTY}{HALF}"
PICTURE = base64.b64encode(filled("red", (8, 8))).decode()
LINE = {"text": SAID, "polygon": [[1, 1], [50, 1], [50, 9], [1, 9]], "score": 0.5}
READ = {"page": 1, "width": 60, "height": 40, "blocks": [{"lines": [LINE]}], "text": SAID}
DRAWN = {
    "type": "image_generation.completed",
    "b64_json": PICTURE,
    "output_format": SAID,
    "receipt": {SAID: SAID, "seed": 1},
}
#: What models answer to what is tried, by ability.
ANSWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "embed": ("/v1/embeddings", told({"data": [{"embedding": [0.1, 0.2]}], "usage": {"total_tokens": 1}})),
    "rerank": ("/v1/rerank", told({"results": [{"index": 0, "relevance_score": 0.5}]})),
    "classify": ("/classify", told({"data": [[{"label": SAID, "score": 0.5}]]})),
    "chat": ("/v1/chat/completions", streamed({"choices": [{"delta": {"content": SAID}}]})),
    "text2image": ("/v1/images/generations", streamed(DRAWN)),
    "ocr": ("/v1/images/ocr", streamed({"page": READ, "pages": 1})),
}
REQUEST = {
    "id": UID,
    "model": UID,
    "type": NASTY,
    "state": "running",
    "stage": SAID,
    "step": 0,
    "steps": 0,
    "progress": 0.5,
}
JOB = {
    "object": "job",
    "id": f"job {UID}",
    "model": f"{UID}{HALF}",
    "created_at": 1,
    "progress": 0.5,
    "stage": SAID,
    "eta_s": 1,
}
RUNG = {"changes": {SAID: SAID}, "claim_bytes": 1, "card_bytes": 0, "fits": True}
PARTS = {"components": [{"component": SAID, "dtype": SAID, "bytes": 1}], "activation_bytes": 1, "fixed_bytes": 1}
PLAN = {
    "fits": False,
    "reason": SAID,
    "nodes": [SAID],
    "claim_bytes": 2,
    "card_bytes": 0,
    "room_bytes": 1,
    "ladder": [RUNG],
}
CHANGE = {"uid": UID, "change": "update", "before": {SAID: SAID}, "after": {SAID: SAID}, "fields": [SAID]}
#: What the stand-in could not say, or not as badly.
SCREENS_ANSWERS: dict[str, dict[str, Any]] = {
    "/v1/requests": told({"requests": [REQUEST | {"eta_s": 1, "age_s": 1, "previews": 0, "key": SAID, "mine": True}]}),
    "/v1/images/jobs": told({"data": [JOB | {"status": "failed", "error": {"message": SAID}}, JOB | {"id": "job"}]}),
    "/v1/plan": told(PLAN | {"plan": PARTS | {"spare_bytes": 1, "peak_bytes": 3, "advice": SAID}}),
    "/v1/models/apply": told({"changes": [CHANGE]}),
}


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


async def opened(page: Page, place: str) -> None:
    await page.evaluate(f"location.hash = {json.dumps('#/' + place)}")
    await expect(page.locator("main [aria-busy]")).to_have_count(0)
    # What is folded up is on the screen as well.
    await page.evaluate("document.querySelectorAll('details').forEach((it) => (it.open = true))")


async def tried(page: Page, file: Path) -> None:
    """Harm in every field of the first form of a playground, and then it is sent."""
    begin = page.locator("main form button.primary").first
    form = begin.locator("xpath=ancestor::form")
    for box in await page.locator("main textarea, main input:not([type])").all():
        await box.fill(NASTY if await box.get_attribute("name") != "size" else "")
    for picker in await form.locator("input[type=file]").all():
        await picker.set_input_files(file)
    await begin.click()


def test_whatever_is_written_anywhere_stays_text_on_every_screen(eyes: Eyes, tmp_path: Path) -> None:
    file = tmp_path / f"{HOSTILE.replace('/', '')}.png"
    file.write_bytes(filled("red", (8, 8)))

    async def scene() -> None:
        faults: list[str] = []
        async with malign(eyes, tmp_path) as (page, _):
            for path, answer in {**SCREENS_ANSWERS, **dict(ANSWERS.values())}.items():
                await page.route(f"**{path}", answering(answer))
            for screen, places in PLACES.items():
                for place in (screen, *places):
                    await opened(page, place)
                    await expect(page.locator("main")).to_contain_text(MARK) if screen != "about" else None
                    if place.endswith("/try"):
                        await tried(page, file)
                        # Texts that are compared are shown again; all others are answered with some.
                        again = place.startswith(("models/embed", "models/rerank"))
                        shown = page.locator("main li" if again else "main").filter(
                            has_text=MARK if again else "answered"
                        )
                        await expect(shown.first).to_be_visible()
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
            await opened(page, PLACES["models"][0])
            await page.get_by_role("button", name="Terminate").click()
            await page.get_by_role("dialog").locator("button.danger").click()
            await expect(page.locator(".banner")).to_contain_text(MARK)
            faults += await faults_of(page, "banner")
        assert "\n".join(faults) == ""

    eyes.run(scene(), within_s=120)


def answering(answer: dict[str, Any]) -> Callable[[Route], Awaitable[None]]:
    async def answered(route: Route) -> None:
        await route.fulfill(**answer)

    return answered


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
                await opened(page, screen)
                await expect(page.get_by_role("alert").first).to_contain_text("answered")
                faults += await faults_of(page, screen)
            for ability in ABILITIES:
                place = f"models/{quote(f'{ability} {UID}', safe='')}/try"
                await opened(page, place)
                await tried(page, Path(__file__))
                await expect(page.locator("main").get_by_role("alert").first).to_contain_text("answered")
                faults += await faults_of(page, place)
        assert "\n".join(faults) == ""

    eyes.run(scene(), within_s=60)
