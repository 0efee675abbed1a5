from __future__ import annotations

import heapq
import random
from collections import Counter
from contextlib import ExitStack

import pytest

from deployments.ingress.affinity import (
    LENGTHS,
    MOST_ABOVE,
    MOST_LOAD,
    beginning_of_messages,
    beginning_of_prompt,
    preferred,
)
from deployments.ingress.routing import RouteTable
from tests.deployments.ingress.test_routing import model, table

SESSIONS = 200
TURNS = 8
ANSWER_S = 10.0
INSTRUCTIONS = "You answer questions about the weather of a town. " * 100


def names(count: int) -> list[str]:
    return [f"worker:m:1:{number}-{number * 7919:06x}" for number in range(count)]


def conversation(session: int, turn: int) -> str:
    """The beginning of the prompt of that turn, from 1."""
    messages = [{"role": "system", "content": INSTRUCTIONS}]
    for number in range(turn):
        messages += [
            {"role": "user", "content": f"Question {number}: will it rain in the town of caller {session}?"},
            {"role": "assistant", "content": f"Answer {number}."},
        ]
    return beginning_of_messages(messages[:-1])


class Load:
    """Sessions that ask, wait for the answer, think and ask again, so that so many requests are in flight at a time."""

    def __init__(self, routes: RouteTable, in_flight: int, seed: int) -> None:
        self._routes = routes
        self._random = random.Random(seed)
        self._think_s = ANSWER_S * (SESSIONS / in_flight - 1)
        self._last: dict[int, str] = {}
        self.turns = self.kept = 0
        self.requests: Counter[str] = Counter()

    def play(self) -> None:
        """What happens next is what is due first: the turn of a session, or the end of one."""
        begun: dict[int, ExitStack] = {}
        due = [(self._random.uniform(0, self._think_s), session, 1) for session in range(SESSIONS)]
        heapq.heapify(due)
        while due:
            now, session, turn = heapq.heappop(due)
            if session in begun:
                begun.pop(session).close()
                if turn < TURNS:
                    pause = self._random.expovariate(1 / self._think_s)
                    heapq.heappush(due, (now + pause, session, turn + 1))
            else:
                begun[session] = self._ask(session, turn)
                heapq.heappush(due, (now + self._random.expovariate(1 / ANSWER_S), session, turn))

    def _ask(self, session: int, turn: int) -> ExitStack:
        routes, stack = self._routes, ExitStack()
        before = dict(routes.in_flight)
        worker = stack.enter_context(
            routes.choose(routes.find("m"), beginning=lambda: conversation(session, turn))
        ).worker
        mean = (sum(before.values()) + 1) / len(routes.models["m"].workers)
        assert before.get(worker, 0) < max(MOST_LOAD * mean, mean + MOST_ABOVE)
        if session in self._last:
            self.turns += 1
            self.kept += self._last[session] == worker
        self._last[session] = worker
        self.requests[worker] += 1
        return stack


@pytest.mark.parametrize("in_flight", [4, 20, 50, 150])
@pytest.mark.parametrize("workers", [2, 4])
def test_sessions_stay_where_they_are_and_workers_share_the_load(workers: int, in_flight: int) -> None:
    load = Load(table(model("m", *names(workers))), in_flight, seed=1)
    load.play()
    assert load.turns == SESSIONS * (TURNS - 1)
    assert load.kept >= 0.9 * load.turns
    assert max(load.requests.values()) <= 1.25 * load.requests.total() / workers


def test_a_worker_that_goes_moves_only_what_went_to_it() -> None:
    workers = names(4)
    sessions = [conversation(session, 1) for session in range(SESSIONS)]
    before = [preferred(session, dict.fromkeys(workers, 0)) for session in sessions]
    gone, *left = workers
    after = [preferred(session, dict.fromkeys(left, 0)) for session in sessions]
    moved = {new for old, new in zip(before, after, strict=True) if old != new}
    assert all(old == gone for old, new in zip(before, after, strict=True) if old != new)
    assert moved == set(left), "not all of them go to one other worker"
    # One that comes takes its share of them, and nothing moves between the others.
    more = [preferred(session, dict.fromkeys([*workers, "worker:m:1:4-new"], 0)) for session in sessions]
    assert 20 < more.count("worker:m:1:4-new") < 60
    assert all(new in (old, "worker:m:1:4-new") for old, new in zip(before, more, strict=True))


def test_a_busy_worker_is_passed_over_and_then_preferred_again() -> None:
    first = preferred("a", {"v": 0, "w": 0})
    (other,) = {"v", "w"} - {first}
    assert preferred("a", {first: MOST_ABOVE, other: 0}) == first
    assert preferred("a", {first: 2 * MOST_ABOVE + 1, other: 0}) == other
    assert preferred("a", {first: 120, other: 80}) == first
    assert preferred("a", {first: 130, other: 70}) == other


def test_whatever_the_loads_somebody_is_chosen() -> None:
    chance = random.Random(2)
    for _ in range(300):
        loads = {name: chance.choice((0, 1, 5, 1000)) for name in names(chance.randint(1, 9))}
        assert preferred(str(chance.random()), loads) in loads


def test_models_with_one_worker_and_other_models_do_not_look_at_beginnings() -> None:
    def never() -> str:
        raise AssertionError("there is no choice")

    alone = table(model("m", "a"))
    with alone.choose(alone.find("m"), beginning=never) as route:
        assert route.worker == "a"
    two = table(model("m", "a", "b"))
    with two.choose(two.find("m"), ["a"], never) as route:
        assert route.worker == "b"


# ------------------------------------------------------------------------------------------------------ beginnings


def test_a_conversation_keeps_its_beginning_as_it_grows() -> None:
    beginnings = {conversation(3, turn) for turn in range(1, 9)}
    assert len(beginnings) == 1
    assert conversation(4, 1) not in beginnings, "long instructions that are the same do not hide the first turn"


def test_beginnings_differ_by_instructions_and_first_turn() -> None:
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello."}
    parts = {"role": "user", "content": [{"type": "text", "text": "Hello."}]}
    different = [
        [user],
        [system, user],
        [{"role": "developer", "content": "Be long."}, user],
        [system, {"role": "user", "content": "Good day."}],
        [system, system, user],
    ]
    assert len({beginning_of_messages(messages) for messages in different}) == len(different)
    assert beginning_of_messages([system, parts]) == beginning_of_messages([system, user])
    odd = [{"content": None}], [{"role": "user"}], [{"content": [3, {"text": 4}, {"image": "x"}]}]
    assert [beginning_of_messages(messages) for messages in odd] == ["", "", "4"]


def test_a_prompt_that_grows_rarely_changes_its_beginning() -> None:
    words = "It rains in Oslo, and nobody knows for how long. "
    beginnings = [beginning_of_prompt((words * 200)[:length]) for length in range(256, 9000, 50)]
    assert len(set(beginnings)) == len(LENGTHS)
    tokens = [beginning_of_prompt(list(range(length))) for length in range(64, 2000, 20)]
    assert len(set(tokens)) == len(LENGTHS)
    assert beginning_of_prompt("Hello") == "Hello" and beginning_of_prompt([1, 2]) == "1 2"


def test_texts_that_are_no_unicode_have_a_worker_too() -> None:
    assert preferred("\ud800", {"v": 0, "w": 0}) in ("v", "w")
