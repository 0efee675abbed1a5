from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from cluster import errors
from deployments.ocr.room import USUAL_PIXELS, PageRoom, most_unpacked
from tests.deployments.ocr.test_sharing import Wanted


def test_pages_together_have_no_more_pixels_than_there_is_room_for() -> None:
    room, most, now, lock = PageRoom(10), [0], [0], threading.Lock()

    def read(pixels: int) -> None:
        with room.taken(pixels, Wanted()):
            with lock:
                now[0] += pixels
                most[0] = max(most[0], now[0])
            threading.Event().wait(0.002)
            with lock:
                now[0] -= pixels

    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(read, pixels) for pixels in (4, 6, 10, 1, 1, 9, 5, 5) * 4]:
            done.result(20)
    assert most[0] == 10 and now[0] == 0


def test_a_page_that_is_larger_than_the_room_goes_alone() -> None:
    room = PageRoom(10)
    with room.taken(30, Wanted()), ThreadPoolExecutor(1) as threads:
        nobody = Wanted()
        later = threads.submit(lambda: room.taken(1, nobody).__enter__())
        threading.Event().wait(0.01)
        assert not later.done()
        nobody.is_wanted = False
        with pytest.raises(errors.RequestCancelled):
            later.result(5)
    with room.taken(10, Wanted()):
        pass


def test_small_pages_do_not_overtake_a_large_one() -> None:
    room, order = PageRoom(10), []

    def read(name: str, pixels: int) -> None:
        with room.taken(pixels, Wanted()):
            order.append(name)

    with ThreadPoolExecutor(2) as threads:
        with room.taken(6, Wanted()):
            large = threads.submit(read, "large", 8)
            while not room._waiting:
                threading.Event().wait(0.001)
            small = threads.submit(read, "small", 1)
            threading.Event().wait(0.01)
            assert not order
        large.result(5)
        small.result(5)
    assert order == ["large", "small"]


@pytest.mark.parametrize(
    ("max_pixels", "pages", "pixels"),
    [
        pytest.param(60_000_000, 4, 60_000_000, id="one of the largest"),
        pytest.param(60_000_000, 16, 16 * USUAL_PIXELS, id="many of usual size"),
        pytest.param(1_000_000, 4, 4_000_000, id="many that are all small"),
    ],
)
def test_room_is_made_for_the_largest_page_or_for_many_usual_ones(max_pixels: int, pages: int, pixels: int) -> None:
    assert most_unpacked(max_pixels, pages) == pixels
