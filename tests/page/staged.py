"""A cluster that is only played, with something on every screen and in every tab: what is tried is answered too."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from playwright.async_api import Page, Route, expect

from cluster.cards import Card
from cluster.catalog.entry import Entry, Source
from cluster.keys import Key
from cluster.status import Claim, Event, ModelStatus, Node, ScaleStatus
from tests.cluster.statuses import make_status, make_worker
from tests.live import ROOT
from tests.make import GIB
from tests.page.test_screens import Keeping
from tests.painted import filled

SOURCES = ROOT / "page" / "src"


def keys_of(file: str, name: str) -> list[str]:
    """Of a table of the page."""
    match = re.search(rf"const {name}\b[^=]*= [{{\[](.*?)[}}\]]", (SOURCES / file).read_text(), re.DOTALL)
    assert match is not None, f"{file} has no {name}"
    return [field or word for field, word in re.findall(r"^\s*(\w+)(?=:)|\"(\w+)\"", match[1], re.MULTILINE)]


SCREENS = keys_of("app.tsx", "SCREENS")
ABILITIES = keys_of("try/try.tsx", "BY_ABILITY")
TABS = keys_of("screens/model.tsx", "TABS")


def places(uids: dict[str, str], registered: str) -> dict[str, tuple[str, ...]]:
    """By screen, what is behind it; `uids` are the models by their abilities."""
    first, *_ = (quote(uid, safe="") for uid in uids.values())
    name = quote(registered, safe="")
    return {
        "models": (
            *(f"models/{quote(uid, safe='')}/try" for uid in uids.values()),
            *(f"models/{first}/{tab}" for tab in TABS if tab != "try"),
            f"models/gone%20{first}",
        ),
        "launch": ("launch/rerank", f"launch/rerank/{name}", f"launch/rerank/no%20{name}"),
        "requests": (),
        "nodes": (),
        "weights": (),
        "registrations": ("registrations/new/rerank", f"registrations/new/rerank/{name}"),
        "events": (f"events/{first}",),
        "keys": (),
        "about": (),
    }


def streamed(*events: dict[str, Any]) -> dict[str, Any]:
    """As engines stream them; JSON lets half a letter through."""
    return {"content_type": "text/event-stream", "body": "".join(f"data: {json.dumps(event)}\n\n" for event in events)}


def told(body: Any) -> dict[str, Any]:
    return {"content_type": "application/json", "body": json.dumps(body)}


PICTURE = base64.b64encode(filled("steelblue", (64, 48))).decode()


def answers(said: str, *, picture: str = PICTURE) -> dict[str, tuple[str, dict[str, Any]]]:
    """What models answer to what is tried, by ability."""
    line = {"text": said, "polygon": [[8, 8], [520, 8], [520, 40], [8, 40]], "score": 0.5}
    read = {"page": 1, "width": 600, "height": 400, "blocks": [{"lines": [line]}], "text": said}
    drawn = {"type": "image_generation.completed", "b64_json": picture, "output_format": said}
    vectors = [{"embedding": [0.1 * number, 0.2, 0.3 - 0.1 * number]} for number in range(5)]
    ranked = [{"index": index, "relevance_score": 0.9 - 0.3 * place} for place, index in enumerate((1, 0, 2))]
    labels = [{"label": said, "score": 0.8}, {"label": "other", "score": 0.2}]
    return {
        "embed": ("/v1/embeddings", told({"data": vectors, "usage": {"total_tokens": 1}})),
        "rerank": ("/v1/rerank", told({"results": ranked})),
        "classify": ("/classify", told({"data": [labels, labels[::-1]]})),
        "chat": ("/v1/chat/completions", streamed({"choices": [{"delta": {"content": said}}]})),
        "text2image": ("/v1/images/generations", streamed(drawn | {"receipt": {said: said, "seed": 1}})),
        "ocr": ("/v1/images/ocr", streamed({"page": read, "pages": 1})),
    }


def screens_answers(said: str, uid: str) -> dict[str, dict[str, Any]]:
    """What the stand-in could not say by itself."""
    times = {"eta_s": 4, "age_s": 65, "previews": 0, "mine": True}
    steps = {"state": "running", "stage": said, "step": 12, "steps": 0, "progress": 0.43}
    request = {"id": f"request of {uid}", "model": uid, "type": "image", "key": said, **steps, **times}
    job = {"object": "job", "id": f"job of {uid}", "model": uid, "created_at": 1, "progress": 0.5, "stage": said}
    failed = {"id": "another", "status": "failed", "error": {"message": said}}
    rung = {"changes": {"torch_dtype": said}, "claim_bytes": GIB, "card_bytes": 0, "fits": True}
    part = {"component": said, "dtype": "bfloat16", "bytes": 2 * GIB}
    parts = {"components": [part], "activation_bytes": GIB, "fixed_bytes": GIB, "spare_bytes": 0, "peak_bytes": 4 * GIB}
    plan = {"fits": False, "reason": said, "nodes": [], "claim_bytes": 4 * GIB, "card_bytes": 0, "room_bytes": GIB}
    change = {"uid": uid, "change": "update", "before": {said: 1}, "after": {said: 2}, "fields": [said]}
    return {
        "/v1/requests": told({"requests": [request]}),
        "/v1/images/jobs": told({"data": [job | {"status": "in_progress", "eta_s": 4}, job | failed]}),
        "/v1/plan": told(plan | {"ladder": [rung], "plan": parts | {"advice": said}}),
        "/v1/models/apply": told({"changes": [change]}),
    }


async def answered(page: Page, said: str, uid: str) -> None:
    for path, answer in {**screens_answers(said, uid), **dict(answers(said).values())}.items():
        await page.route(f"**{path}", _answering(answer))


def _answering(answer: dict[str, Any]) -> Callable[[Route], Awaitable[None]]:
    async def fulfil(route: Route) -> None:
        await route.fulfill(**answer)

    return fulfil


UIDS = dict(zip(ABILITIES, (f"my-{ability}-model" for ability in ABILITIES), strict=True))
NAME = "my-reranker"
PLACES = places(UIDS, NAME)


class Staged(Keeping):
    def __init__(self, keys: tuple[Key, ...] = ()) -> None:
        ready = make_worker(state="READY", node="10.0.0.1", cards=(0,), claim_bytes=GIB, card_bytes=18 * GIB, pid=4711)
        loading = make_worker(stage="downloading", progress=0.41, done_bytes=9 * GIB, total_bytes=23 * GIB)
        scale = ScaleStatus(min=0, max=4, target_queue_s=1.0, why="Scaled from 1 to 2: requests waited 3.0 s")
        reason = "big fits on no node (gpu-a: 6.1 of 24 GiB free; gpu-b: draining)."
        serving = [self.model(uid, ability, workers=(ready,), scale=scale) for ability, uid in UIDS.items()]
        super().__init__(
            *serving,
            make_status("loading-one", workers=(loading,)),
            make_status("big", "FAILED", reason=reason),
            make_status("resting", "ASLEEP"),
            keys=keys,
        )
        source = Source(hub="huggingface", id="a/b")
        entry = Entry(name=NAME, type="rerank", family="cross-encoder", sources=(source,), builtin=False)
        self.entries["rerank", NAME] = entry.model_copy(update={"description": "Ranks what we sell."})
        self.happen("Launch model", "Worker is READY after 4.4 s", uid=UIDS["embed"])
        self.happen(reason, uid="big", level="ERROR")

    @staticmethod
    def model(uid: str, ability: str, **fields: Any) -> ModelStatus:
        """A model of that ability; where it is edited, it is a reranker."""
        status = make_status(uid, fields.pop("state", "READY"), **fields)
        entry = status.wanted.entry.model_copy(update={"name": "ce-tiny", "type": "rerank"})
        abilities = (ability, "inpainting") if ability == "text2image" else (ability,)
        wanted = status.wanted.model_copy(update={"entry": entry, "abilities": abilities})
        return status.model_copy(update={"wanted": wanted})

    async def nodes(self) -> list[tuple[Node, Claim, int]]:
        full = Card("NVIDIA L4", "GPU-1", 24 * GIB, 22 * GIB, foreign_bytes=2 * GIB, foreign="python (pid 7)")
        free = Card("NVIDIA L4", "GPU-2", 24 * GIB, GIB // 2)
        plain = Node("n1", "10.0.0.1", 64, 256 * GIB, 2, 24 * GIB, True, name="gpu-a", cards=(full, free))
        claim = Claim(memory_bytes=6 * GIB, cards=((0, 0.8), (1, 0.0)), card_bytes=18 * GIB)
        closed = Node("n2", "10.0.0.2", 8, 16 * GIB, name="cpu-b", cordoned=True, room_reason="chrome holds 9.1 GiB")
        return [(plain, claim, 6), (closed, Claim(memory_bytes=15 * GIB), 1)]

    async def events(self, uid: str) -> list[Event]:
        return [event for event in reversed(self.store.events(uid))]

    async def all_keys(self) -> list[Key]:
        return [key for key in self.keys if not key.of]


async def shown(page: Page, place: str) -> None:
    """Whole, and with all that is folded up."""
    await page.evaluate(f"location.hash = {json.dumps('#/' + place)}")
    await expect(page.locator("main [aria-busy]")).to_have_count(0)
    await page.evaluate("document.querySelectorAll('details').forEach((it) => (it.open = true))")


async def tried(page: Page, file: Path, text: str | None = None) -> None:
    """The first form of a playground is sent, with that text in each of its fields."""
    begin = page.locator("main form button.primary").first
    form = begin.locator("xpath=ancestor::form")
    for box in await page.locator("main textarea, main input:not([type])").all():
        name = await box.get_attribute("name")
        if text is not None or name == "message":
            await box.fill((text or "Why is the sky blue?") if name != "size" else "")
    for picker in await form.locator("input[type=file]").all():
        await picker.set_input_files(file)
    await begin.click()
