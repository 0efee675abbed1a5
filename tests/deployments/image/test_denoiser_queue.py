"""Which calls share a pass of the denoiser."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

from deployments.image.denoiser_queue import DenoiserQueue, DenoiserRequest
from tests.deployments.image.doubling import Doubling, QueueUnderTest, Slow, request, until
from tests.deployments.image.painter import Watched

# --------------------------------------------------------------------------------------------- what fits together


def test_calls_that_fit_share_a_pass() -> None:
    queued = QueueUnderTest()
    assert queued.together({"value": 1.0}, {"value": 2.0}, {"value": 3.0}) == [2.0, 4.0, 6.0]
    assert queued.module.passes == [[1.0, 2.0, 3.0]]


def test_all_passes_are_of_one_thread() -> None:
    queued = QueueUnderTest()
    queued.together({"value": 1.0}, {"value": 2.0, "sample": torch.full((1, 5), 2.0)})
    assert len(queued.module.threads) == 1
    assert threading.get_ident() not in queued.module.threads


def test_a_call_of_nobody_goes_straight_through() -> None:
    queued = QueueUnderTest()
    assert queued.module(torch.ones(1, 2))[0].tolist() == [[2.0, 2.0]]
    assert queued.module.threads == {queued.compute.run(threading.get_ident)}


def test_sizes_kinds_and_adapters_do_not_mix() -> None:
    queued = QueueUnderTest()
    calls = [
        {"value": 1.0},
        {"value": 2.0, "sample": torch.full((1, 3, 2), 2.0)},
        {"value": 3.0, "sample": torch.full((1, 2, 2), 3.0, dtype=torch.float64)},
        {"value": 4.0, "request": request(adapters=(("ink", 1.0),))},
        {"value": 5.0, "return_dict": False},
        {"value": 6.0},
    ]
    assert queued.together(*calls) == [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]
    assert sorted(queued.module.passes) == [[1.0, 6.0], [2.0], [3.0], [4.0], [5.0]]
    assert (("ink", 1.0),) in queued.adapted


def test_steps_of_different_times_share_a_pass_each_with_its_own() -> None:
    queued = QueueUnderTest()
    queued.together({"value": 1.0, "timestep": torch.tensor(9.0)}, {"value": 2.0, "timestep": torch.tensor(4.0)})
    assert queued.module.passes == [[1.0, 2.0]]
    assert queued.module.kwargs[-1]["timestep"].tolist() == [9.0, 4.0]


def test_with_and_without_the_prompt_stay_together() -> None:
    queued = QueueUnderTest()
    pairs = [torch.tensor([[value], [value + 0.25]]) for value in (1.0, 2.0)]
    times = [{"value": 0, "sample": pair, "timestep": torch.tensor(float(at))} for at, pair in enumerate(pairs)]
    assert queued.together(*times) == [2.0, 4.0]
    assert queued.module.passes == [[1.0, 1.25, 2.0, 2.25]]
    assert queued.module.kwargs[-1]["timestep"].tolist() == [0.0, 0.0, 1.0, 1.0]


def test_positions_are_shared_by_their_content() -> None:
    queued = QueueUnderTest()
    here, there = torch.arange(6.0).view(3, 2), torch.ones(3, 2)
    calls = [{"value": value, "img_ids": ids.clone()} for value, ids in ((1.0, here), (2.0, here), (3.0, there))]
    queued.together(*calls)
    assert sorted(queued.module.passes) == [[1.0, 2.0], [3.0]]
    joined = next(told["img_ids"] for told in queued.module.kwargs if told["img_ids"].sum() == 15)
    assert torch.equal(joined, here)


def test_words_of_several_lengths_are_filled_up_and_masked() -> None:
    queued = QueueUnderTest()
    short, long = torch.ones(1, 2, 4), torch.ones(1, 3, 4)
    calls = [
        {"value": 1.0, "encoder_hidden_states": short, "encoder_hidden_states_mask": None},
        {"value": 2.0, "encoder_hidden_states": long, "encoder_hidden_states_mask": torch.ones(1, 3, dtype=torch.bool)},
    ]
    queued.together(*calls)
    told = queued.module.kwargs[-1]
    assert queued.module.passes == [[1.0, 2.0]]
    assert told["encoder_hidden_states"].sum(dim=(1, 2)).tolist() == [8.0, 12.0]
    assert told["encoder_hidden_states_mask"].tolist() == [[True, True, False], [True, True, True]]


def test_words_without_a_mask_share_a_pass_only_at_equal_length() -> None:
    queued = QueueUnderTest()
    lengths = [(1.0, 2), (2.0, 3), (3.0, 2)]
    queued.together(*({"value": value, "encoder_hidden_states": torch.ones(1, n, 4)} for value, n in lengths))
    assert sorted(queued.module.passes) == [[1.0, 3.0], [2.0]]


def test_nested_arguments_are_joined_as_they_nest() -> None:
    queued = QueueUnderTest()
    calls = [
        {
            "value": value,
            "added": {"sizes": torch.full((1, 2), value), "kind": "xl"},
            "residuals": [torch.full((1, 3), value), torch.full((1, 5), value)],
            "shapes": [(1, 4, 4)],
        }
        for value in (1.0, 2.0)
    ]
    queued.together(*calls)
    told = queued.module.kwargs[-1]
    assert told["added"]["sizes"].tolist() == [[1.0, 1.0], [2.0, 2.0]]
    assert [one.shape for one in told["residuals"]] == [(2, 3), (2, 5)]
    assert told["shapes"] == [(1, 4, 4), (1, 4, 4)]


# -------------------------------------------------------------------------------------------------- whose turn


def test_whoever_has_least_left_goes_first_and_nobody_waits_for_ever() -> None:
    queued = QueueUnderTest(most_samples=1)
    calls = [{"value": value, "request": request(cost)} for value, cost in ((1.0, 50), (2.0, 9), (3.0, 7), (4.0, 8))]
    queued.together(*calls)
    order = [values[0] for values in queued.module.passes]
    assert sorted(order) == [1.0, 2.0, 3.0, 4.0]
    assert order.index(3.0) < order.index(4.0) < order.index(2.0)
    # The fourth turn belongs to the oldest request.
    assert order.index(1.0) < 3


def test_a_pass_takes_no_more_than_fit() -> None:
    queued = QueueUnderTest(most_samples=2)
    queued.together(*({"value": float(value)} for value in range(1, 6)))
    assert sorted(len(values) for values in queued.module.passes) == [1, 2, 2]


def test_a_pass_takes_no_more_than_there_is_memory_for() -> None:
    queued = QueueUnderTest()
    large = [DenoiserRequest(Watched(), 1.0, 1, most_samples=2) for _ in range(5)]
    queued.together(*({"value": 1.0, "request": own} for own in large))
    assert sorted(len(values) for values in queued.module.passes) == [1, 2, 2]


def test_who_is_alone_shares_with_nobody_and_gives_way_afterwards() -> None:
    queued = QueueUnderTest()
    lone, is_in, may_end = request(), threading.Event(), threading.Event()

    def alone() -> float:
        with queued.queue.admitted(lone, alone=True) as run:
            is_in.set()
            assert may_end.wait(10)
            return float(run(queued.module, torch.full((1, 2), 1.0))[0][0, 0])

    def another() -> float:
        with queued.queue.admitted(request()) as run:
            return float(run(queued.module, torch.full((1, 2), 3.0))[0][0, 0])

    first = queued.threads.submit(alone)
    assert is_in.wait(10)
    second = queued.threads.submit(another)
    until(lambda: len(queued.queue._pending) == 1)
    third = queued.threads.submit(alone)
    may_end.set()
    assert [done.result(10) for done in (first, second, third)] == [2.0, 6.0, 2.0]
    assert queued.module.passes == [[1.0], [3.0], [1.0]]
    until(lambda: queued.queue.is_idle)


def test_alone_begins_only_when_the_pass_under_way_is_over() -> None:
    queued = QueueUnderTest()
    queued.module.gate.clear()
    other = queued.ask(1.0)
    assert queued.module.entered.wait(10)
    is_in = threading.Event()

    def alone() -> None:
        with queued.queue.admitted(request(), alone=True):
            is_in.set()

    lone = queued.threads.submit(alone)
    assert not is_in.wait(0.1)
    queued.module.gate.set()
    lone.result(10)
    assert other.result(10) == 2.0


class Contextual(Doubling):
    """Has a context for the cache, like the library's denoisers."""

    def __init__(self) -> None:
        super().__init__()
        self.context: str | None = None
        self.seen: list[str | None] = []

    @contextmanager
    def cache_context(self, name: str, **told: Any) -> Any:
        self.context = name
        yield
        self.context = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.seen.append(self.context)
        return super().forward(*args, **kwargs)


def test_what_a_cache_is_told_of_a_call_is_not_what_others_say_meanwhile() -> None:
    module = Contextual()
    queue = DenoiserQueue(module, Slow())

    def call(name: str) -> None:
        with module.cache_context(name):
            module(torch.ones(1, 2))

    with ThreadPoolExecutor(1) as threads, queue.admitted(request(), alone=True) as run:

        def other() -> None:
            with queue.admitted(request()) as run:
                run(call, "uncond")

        late = threads.submit(other)
        until(lambda: len(queue._pending) == 1)
        run(call, "cond")
        assert module.seen == ["cond"]
    late.result(10)
    # A request that is not alone has no context: it has no cache.
    assert module.seen == ["cond", None]
    assert module.context is None


def test_calls_without_a_name_are_told_apart_by_their_place_in_the_step() -> None:
    module, lone = Contextual(), request()
    queue = DenoiserQueue(module, Slow())

    def two_steps() -> None:
        for step in (1, 2):
            module(torch.ones(1, 2))
            module(torch.ones(1, 2))
            lone.finish(step)

    with queue.admitted(lone, alone=True) as run:
        run(two_steps)
    assert module.seen == ["call 0", "call 1"] * 2


def test_a_compiled_denoiser_stays_compiled() -> None:
    # Wide enough that torch calls its own multiplication for it: for a narrow one it would write a program in C++, and
    # first try for half a minute what the compiler of this machine can do.
    module = torch.nn.Linear(80, 80)
    module.compile(backend="eager")
    queue = DenoiserQueue(module, Slow())
    plain = module.weight @ torch.ones(80) + module.bias
    with queue.admitted(request()) as run:
        found = run(module, torch.ones(1, 80))
    assert torch.allclose(found[0], plain)
    assert module._compiled_call_impl is None
    assert hasattr(queue.denoiser.forward, "_torchdynamo_orig_callable")
