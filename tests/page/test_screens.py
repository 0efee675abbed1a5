"""Weights, registrations, events and bounds of replicas in a real browser, with a stand-in for the supervisor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from playwright.async_api import Page, expect

from cluster import errors
from cluster.catalog.entry import Entry
from cluster.control.sqlite_store import SqliteStore
from cluster.keys import new_key
from cluster.status import Event, EventQuery, ModelStatus, ScaleStatus
from tests.cluster.statuses import make_status
from tests.cluster.weights.test_removal import downloaded
from tests.page.looking import HOSTILE, Eyes, row
from tests.page.test_page import AXE, FAULTS, Shown, serving


class Keeping(Shown):
    """Keeps registrations and events as the supervisor does, and scales what it shows."""

    def __init__(self, *statuses: ModelStatus, **fields: Any) -> None:
        super().__init__(*statuses, **fields)
        self.entries: dict[tuple[str, str], Entry] = {}
        self.store = SqliteStore()

    def happen(self, *texts: str, uid: str = "", level: Any = "INFO") -> None:
        self.store.add_events([Event(ts=1.0, level=level, uid=uid, text=text) for text in texts])
        self.news += 1

    async def recent_events(self, query: EventQuery) -> list[Event]:
        return self.store.recent_events(query)

    async def registered(self) -> list[Entry]:
        return list(self.entries.values())

    async def register(self, entry: Entry) -> None:
        self.entries[entry.type, entry.name] = entry

    async def unregister(self, type: str, name: str) -> None:
        del self.entries[type, name]

    async def scale(self, uid: str, replica: int | None, bounds: dict[str, Any] | None = None) -> ModelStatus:
        assert bounds is not None
        least, most = bounds["min_replica"], bounds["max_replica"]
        if least > most:
            raise errors.BadOption(f"{uid}: min_replica {least} is above max_replica {most}", "min_replica")
        self.show(make_status(uid, "READY", scale=ScaleStatus(min=least, max=most, target_queue_s=1.0, why=HOSTILE)))
        return self.statuses[uid]


def using(uid: str, id: str) -> ModelStatus:
    """A model that is launched with these weights."""
    status = make_status(uid, "READY")
    source = status.wanted.source.model_copy(update={"hub": "huggingface", "id": id})
    return status.model_copy(update={"wanted": status.wanted.model_copy(update={"source": source})})


def hostile_weights(home: Path) -> None:
    folder = downloaded(home, "c2", model_safetensors="other weights").folder
    folder.rename(folder.with_name("models--" + HOSTILE.replace("/", "--")))


async def legible(page: Page) -> None:
    """Nothing became markup, and nothing is hard to read."""
    assert await page.locator("main img, main script, main iframe").count() == 0
    if AXE.exists():
        # Through the debugger, which the policy does not bind.
        await page.evaluate(AXE.read_text() + "; undefined")
        assert await page.evaluate(FAULTS) == []


def test_weights_are_listed_with_who_uses_them_and_deleted_unless_they_are_used(eyes: Eyes, tmp_path: Path) -> None:
    hostile_weights(tmp_path)
    downloaded(tmp_path, "c1", model_safetensors="weights")

    async def scene() -> None:
        async with serving(tmp_path, Keeping(using("m", "a/b"))) as url, eyes.tab() as page:
            await page.goto(f"{url}/ui/#/weights")
            used, unused = (page.get_by_role("row").filter(has_text=text) for text in ("a/b", HOSTILE))
            await expect(used).to_contain_text("7 B")
            await expect(used.get_by_role("link", name="m", exact=True)).to_be_visible()
            await expect(page.get_by_text("20 B on all disks")).to_be_visible()
            await legible(page)
            await used.get_by_role("button").click()
            box = page.get_by_role("dialog")
            await box.get_by_role("button", name="Delete").click()
            await expect(box.get_by_role("alert")).to_contain_text("m is launched with these weights")
            await page.keyboard.press("Escape")
            await unused.get_by_role("button").click()
            await expect(box).to_contain_text(HOSTILE)
            await box.get_by_role("button", name="Delete").click()
            await expect(unused).to_have_count(0)
            await expect(used).to_be_visible()

    eyes.run(scene())


def test_weights_that_a_key_may_not_delete_stay_and_the_server_says_why(eyes: Eyes, tmp_path: Path) -> None:
    key, text = new_key("ann", ["list"])
    downloaded(tmp_path, "c1", model_safetensors="weights")

    async def scene() -> None:
        async with serving(tmp_path, Keeping(keys=(key,)), auth="on") as url, eyes.tab() as page:
            await page.goto(f"{url}/ui/#/weights")
            await page.get_by_label("Key").fill(text)
            await page.keyboard.press("Enter")
            await page.get_by_role("button", name="Delete").click()
            box = page.get_by_role("dialog")
            await box.get_by_role("button", name="Delete").click()
            await expect(box).to_contain_text("lacks the scope launch")
            await box.get_by_role("button", name="Leave it").click()
            await expect(page.get_by_role("row").filter(has_text="a/b")).to_be_visible()

    eyes.run(scene())


def test_a_model_is_registered_with_the_keyboard_changed_and_forgotten(eyes: Eyes, tmp_path: Path) -> None:
    async def scene() -> None:
        supervisor = Keeping()
        async with serving(tmp_path, supervisor) as url, eyes.tab() as page:
            await page.goto(f"{url}/ui/#/registrations")
            await expect(page.get_by_text("No model was registered")).to_be_visible()
            await page.keyboard.press("Control+k")
            await page.keyboard.type("register")
            await page.keyboard.press("Enter")
            await page.get_by_label("Type").select_option("rerank")
            text = page.get_by_label("Registration", exact=True)
            await text.fill('{\n  "model_name": "mine",\n  "max_tokens": "many",\n  "model_id": "a/b"\n}')
            await page.get_by_role("button", name="Register").click()
            await expect(page.get_by_role("alert")).to_contain_text("max_tokens takes a whole number")
            await expect(page.get_by_text("Line 3")).to_be_visible()
            chosen = "(box => box.value.slice(box.selectionStart, box.selectionEnd))(document.activeElement)"
            assert await page.evaluate(chosen) == '"max_tokens": "many",'
            await page.keyboard.type('"max_tokens": 256,')
            await page.keyboard.press("Tab")
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("heading", name="Registrations")).to_be_visible()
            await expect(row(page, "mine")).to_contain_text("rerank")
            assert supervisor.entries["rerank", "mine"].max_tokens == 256
            await legible(page)
            await page.get_by_role("link", name="Edit mine").click()
            await expect(page.get_by_label("Begin with")).to_have_value("mine")
            await text.fill((await text.input_value()).replace("256", "128"))
            await page.get_by_role("button", name="Register").click()
            await expect(row(page, "mine")).to_be_visible()
            assert supervisor.entries["rerank", "mine"].max_tokens == 128
            await page.get_by_role("link", name="Launch mine").click()
            await expect(page.get_by_role("heading", name="Launch mine")).to_be_visible()
            await page.go_back()
            await page.get_by_role("button", name="Unregister mine").click()
            await page.get_by_role("dialog").get_by_role("button", name="Unregister").click()
            await expect(page.get_by_text("No model was registered")).to_be_visible()
            assert supervisor.entries == {}

    eyes.run(scene())


def test_a_built_in_model_is_a_beginning_and_keeps_its_own_name(eyes: Eyes, tmp_path: Path) -> None:
    async def scene() -> None:
        supervisor = Keeping()
        async with serving(tmp_path, supervisor) as url, eyes.tab() as page:
            await page.goto(f"{url}/ui/#/registrations/new/embedding/bge-m3")
            text = page.get_by_label("Registration", exact=True)
            await text.fill((await text.input_value()).replace("my-bge-m3", "bge-m3"))
            await page.get_by_role("button", name="Register").click()
            await expect(page.get_by_role("alert")).to_contain_text("is a built-in embedding model")
            await text.fill((await text.input_value()).replace('"bge-m3"', '"other-m3"', 1))
            await page.get_by_role("button", name="Register").click()
            await expect(row(page, "other-m3")).to_be_visible()
            assert supervisor.entries["embedding", "other-m3"].sources

    eyes.run(scene())


def test_what_people_wrote_of_a_registered_model_stays_text(eyes: Eyes, tmp_path: Path) -> None:
    async def scene() -> None:
        supervisor = Keeping()
        async with serving(tmp_path, supervisor) as url, eyes.tab() as page:
            await page.goto(f"{url}/ui/#/registrations/new/rerank/ce-tiny")
            text = page.get_by_label("Registration", exact=True)
            source = '{ hub = "huggingface", id = "a/b" }'
            described = f'[[model]]\nname = "mine"\ndescription = """{HOSTILE[:-1]}"""\nsources = [{source}]'
            await text.fill(described)
            await page.get_by_role("button", name="Register").click()
            await expect(row(page, "mine")).to_contain_text(HOSTILE[:20])
            await legible(page)

    eyes.run(scene())


def test_events_of_all_come_live_and_are_filtered_by_level_and_model(eyes: Eyes, tmp_path: Path) -> None:
    async def scene() -> None:
        supervisor = Keeping(make_status("m", "READY"), make_status("n", "READY"))
        supervisor.happen("Launch model", uid="m")
        supervisor.happen(HOSTILE, level="WARNING")
        supervisor.happen("It failed", uid=HOSTILE, level="ERROR")
        async with serving(tmp_path, supervisor) as url, eyes.tab() as page:
            await page.goto(f"{url}/ui/#/events")
            events = page.locator("tbody tr")
            await expect(events).to_have_count(3)
            await expect(events.first).to_contain_text("It failed")
            await legible(page)
            supervisor.happen("It is ready", uid="m")
            supervisor.show(make_status("m", "READY", restarts=1))
            await expect(events.first).to_contain_text("It is ready")
            await page.get_by_label("Level").select_option("ERROR")
            await expect(events).to_have_count(1)
            await page.get_by_label("Level").select_option("INFO")
            await page.get_by_label("Model").select_option("m")
            await expect(events).to_have_count(2)
            assert page.url.endswith("#/events/m")
            # One that is gone has no screen of its own.
            await page.get_by_label("Model").select_option("")
            await page.get_by_role("link", name=HOSTILE).click()
            await expect(events).to_have_count(1)
            await expect(page.get_by_label("Model")).to_have_value(HOSTILE)
            await page.goto(f"{url}/ui/#/events/m")
            await page.get_by_role("link", name="m", exact=True).first.click()
            await expect(page.get_by_role("heading", name="m", exact=True)).to_be_visible()

    eyes.run(scene())


def test_older_events_come_page_by_page(eyes: Eyes, tmp_path: Path) -> None:
    async def scene() -> None:
        supervisor = Keeping()
        for part in range(3):
            supervisor.happen(*(f"event {number}" for number in range(70)), uid=f"m{part}")
        async with serving(tmp_path, supervisor) as url, eyes.tab() as page:
            await page.goto(f"{url}/ui/#/events")
            events, older = page.locator("tbody tr"), page.get_by_role("button", name="Older ones")
            await expect(events).to_have_count(100)
            await older.click()
            await expect(events).to_have_count(200)
            await older.click()
            await expect(events).to_have_count(210)
            await expect(older).to_have_count(0)
            await expect(events.last).to_contain_text("event 0")

    eyes.run(scene())


def test_bounds_of_replicas_are_shown_with_their_reason_and_set(eyes: Eyes, tmp_path: Path) -> None:
    scale = ScaleStatus(min=0, max=4, target_queue_s=1.0, why="Scaled from 1 to 2: requests waited 3.0 s")
    supervisor = Keeping(make_status("m", "READY", replica=2, scale=scale), make_status("fixed", "READY", replica=3))

    async def scene() -> None:
        async with serving(tmp_path, supervisor) as url, eyes.tab() as page:
            await page.goto(f"{url}/ui/")
            await expect(row(page, "m").get_by_title("requests waited 3.0 s")).to_have_text("2 of 0–4")
            await expect(row(page, "fixed")).to_contain_text("3/3")
            await page.get_by_role("link", name="m", exact=True).click()
            await expect(page.get_by_title("requests waited 3.0 s")).to_have_text("2 of 0–4")
            await page.get_by_text("Follow the load").click()
            await expect(page.get_by_label("At least")).to_have_value("0")
            await page.get_by_label("At least").fill("5")
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("alert")).to_contain_text("min_replica 5 is above max_replica 4")
            await page.get_by_label("At most").fill("6")
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("group", name="Replicas")).to_contain_text("1 of 5–6")
            await expect(page.get_by_label("At least")).to_have_value("5")
            await expect(page.locator("details")).to_contain_text(HOSTILE)
            await legible(page)

    eyes.run(scene())
