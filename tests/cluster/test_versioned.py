from __future__ import annotations

import asyncio
import threading

from cluster.versioned import Versioned

LONG_S = 30.0


def test_a_version_not_seen_is_answered_at_once() -> None:
    board = Versioned("first", 5)
    assert asyncio.run(board.newer(4, LONG_S)) == (5, "first")
    board.post("second")
    assert asyncio.run(board.newer(5, LONG_S)) == (6, "second")


def test_a_version_of_another_board_is_answered_at_once() -> None:
    """A reader that knows a later version than this board ever had must be talking to a new board."""
    assert asyncio.run(Versioned("new", 1).newer(900, LONG_S)) == (1, "new")


def test_after_the_time_out_the_value_is_told_whatever_it_is() -> None:
    assert asyncio.run(Versioned("same", 3).newer(3, 0.0)) == (3, "same")
    assert asyncio.run(Versioned("same", 3).newer(3, 0.01)) == (3, "same")


def test_a_post_wakes_every_waiter() -> None:
    async def watch() -> list[tuple[int, str]]:
        board = Versioned("old")
        waiting = [asyncio.create_task(board.newer(0, LONG_S)) for _ in range(20)]
        await asyncio.sleep(0)
        board.post("new")
        return await asyncio.gather(*waiting)

    assert asyncio.run(watch()) == [(1, "new")] * 20


def test_a_post_wakes_the_waiters_of_every_loop() -> None:
    board, found = Versioned("old"), []
    waiting = threading.Barrier(5)

    async def watch() -> None:
        task = asyncio.create_task(board.newer(0, LONG_S))
        await asyncio.sleep(0)
        waiting.wait()
        found.append(await task)

    threads = [threading.Thread(target=lambda: asyncio.run(watch())) for _ in range(4)]
    for thread in threads:
        thread.start()
    waiting.wait()
    board.post("new")
    for thread in threads:
        thread.join(LONG_S)
    assert found == [(1, "new")] * 4


def test_a_waiter_whose_loop_is_gone_does_not_stop_the_others() -> None:
    board = Versioned("old")
    gone = asyncio.new_event_loop()
    forgotten = gone.create_task(board.newer(0, LONG_S))
    gone.run_until_complete(asyncio.sleep(0))
    forgotten.cancel()  # it never runs again, so it cannot notice this itself
    gone.close()

    async def watch() -> tuple[int, str]:
        waiting = asyncio.create_task(board.newer(0, LONG_S))
        await asyncio.sleep(0)
        board.post("new")
        return await waiting

    assert asyncio.run(watch()) == (1, "new")


def test_whoever_stops_waiting_is_forgotten() -> None:
    async def watch() -> None:
        board = Versioned("old")
        waiting = asyncio.create_task(board.newer(0, LONG_S))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await board.newer(0, 0.0)
        assert board._waiters == []

    asyncio.run(watch())


def test_amendments_from_many_threads_are_all_kept() -> None:
    board = Versioned(0)

    def count() -> None:
        for _ in range(500):
            board.amend(lambda value: value + 1)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (board.value, board.version) == (2000, 2000)


def test_a_reader_that_follows_ends_with_the_last_value() -> None:
    """Values in between may be missed; the last one may not."""
    board = Versioned(0)

    async def follow() -> int:
        seen, value = -1, 0
        while value < 300:
            seen, value = await board.newer(seen, LONG_S)
        return value

    poster = threading.Thread(target=lambda: [board.post(n) for n in range(301)])  # type: ignore[func-returns-value]
    poster.start()
    assert asyncio.run(follow()) == 300
    poster.join()
