"""How many pixels are in memory at once, and who waits."""

from __future__ import annotations

from deployments.llm.pixel_room import PixelRoom


def test_requests_enter_in_their_order_as_far_as_there_is_room() -> None:
    room = PixelRoom(10)
    entries = [room.ask(pixels) for pixels in (6, 4, 5, 1)]
    assert [entry.done() for entry in entries] == [True, True, False, False], "the last does not overtake"
    room.leave(entries[1])
    assert not entries[2].done()
    room.leave(entries[0])
    assert entries[2].done() and entries[3].done()


def test_one_without_pictures_waits_for_nobody() -> None:
    room = PixelRoom(10)
    entries = [room.ask(pixels) for pixels in (10, 10, 0)]
    assert entries[2].done()
    room.leave(entries[2])
    assert not entries[1].done()


def test_one_that_has_left_or_is_cancelled_takes_no_room() -> None:
    room = PixelRoom(10)
    first, second, third = room.ask(10), room.ask(10), room.ask(10)
    assert second.cancel() and not third.done()
    room.leave(second)
    room.leave(second)
    assert not third.done()
    room.leave(first)
    assert third.done()


def test_one_that_is_larger_than_the_room_has_it_to_itself() -> None:
    room = PixelRoom(10)
    small, large, next_one = room.ask(1), room.ask(11), room.ask(1)
    assert small.done() and not large.done()
    room.leave(small)
    assert large.done() and not next_one.done()
