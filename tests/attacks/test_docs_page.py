"""The page of the routes in a real browser: it shows them all, asks for a key, and loads nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.keys import new_key
from tests.attacks.browser import browser, opened_page
from tests.attacks.standing_in import StandIn, run, served, settings
from tests.live import free_port

SHOWN = "document.querySelectorAll('details.route').length"
OPENED = "(document.querySelector('details.route').open = true, '')"
INSIDE = "document.querySelector('details.route').innerText"


@pytest.fixture(autouse=True, scope="module")
def _needs_a_browser() -> None:
    browser()


def test_the_page_shows_every_route_and_stays_on_this_machine(tmp_path: Path) -> None:
    async def scene() -> None:
        async with served(settings(tmp_path, port=free_port()), StandIn()) as url, opened_page(f"{url}/docs") as page:
            assert await page.until(SHOWN) > 80
            await page.value(OPENED)
            assert "The answer (200)" in str(await page.until(INSIDE))
            assert page.complaints == []
            assert {address.split("/")[2] for address in page.requests if "//" in address} == {url.split("/")[2]}

    run(scene())


def test_the_page_asks_for_a_key_and_shows_the_routes_with_it(tmp_path: Path) -> None:
    key, text = new_key("reader", ["list"])

    async def scene() -> None:
        place = settings(tmp_path, port=free_port(), auth="on")
        async with served(place, StandIn(keys=(key,))) as url, opened_page(f"{url}/docs") as page:
            assert await page.until("!document.getElementById('key-form').hidden")
            assert await page.value(SHOWN) == 0
            await page.value(
                f"document.getElementById('key').value = {text!r}; document.querySelector('#key-form button').click()"
            )
            assert await page.until(SHOWN) > 80
            assert page.complaints == []

    run(scene())
