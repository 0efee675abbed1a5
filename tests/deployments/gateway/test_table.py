"""Which cell gets the next request, from what the cells said last."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import Any

from deployments.gateway.table import CellTable


def news(*, since: int | None = None, gone: tuple[str, ...] = (), **workers: int) -> dict[str, Any]:
    rows = [{"uid": uid, "names": [("shared", 1, float(n or 1))], "workers": n} for uid, n in workers.items()]
    return {"since": since, "models": rows, "gone": list(gone)}


def table(**cells: dict[str, Any]) -> CellTable:
    made = CellTable(list(cells))
    for cell, said in cells.items():
        made.take(cell, said)
        made.set_live(cell, True)
    return made


def test_work_is_shared_by_the_workers_that_a_cell_has_for_the_model() -> None:
    cells = table(a=news(m=3), b=news(m=1), c=news(m=0))
    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(cells.counted(cells.order("m")[0]))
        assert cells.in_flight == {"a": 6, "b": 2}
    assert not any(cells.in_flight.values())
    assert cells.order("m")[-1] == "c"


def test_equals_take_turns() -> None:
    cells = table(a=news(m=1), b=news(m=1), c=news(m=1))
    order = []
    for _ in range(6):
        order.append(cells.order("m")[0])
        with cells.counted(order[-1]):
            pass
    assert Counter(order) == {"a": 2, "b": 2, "c": 2}


def test_a_dead_cell_is_left_out_and_its_models_are_still_known() -> None:
    cells = table(a=news(only=1), b=news(m=1))
    cells.set_live("a", False)
    # Nobody else is asked for it: its cell comes back.
    assert cells.order("only") == [] and cells.uid_of("ONLY", "1") == "only"
    # What nobody has ever had is asked for anywhere, so that a cell refuses it in its own words.
    assert cells.order("unknown") == ["b"] and cells.uid_of("unknown", "1") is None
    cells.set_live("a", True)
    assert cells.order("only") == ["a"]


def test_differences_change_only_what_they_name_and_a_whole_list_ends_the_rest() -> None:
    cells = table(a=news(first=1, second=1))
    cells.take("a", news(since=1, third=1, gone=("first",)))
    assert [cells.is_known(uid) for uid in ("first", "second", "third")] == [False, True, True]
    cells.take("a", news(third=1))
    assert [cells.is_known(uid) for uid in ("first", "second", "third")] == [False, False, True]


def test_a_model_that_one_cell_ended_is_still_in_the_other() -> None:
    cells = table(a=news(m=1), b=news(m=1))
    cells.take("a", news())
    assert cells.order("m") == ["b"] and cells.uid_of("m", "1") == "m"


def test_models_of_several_cells_that_share_a_name_share_its_requests_by_weight() -> None:
    cells = table(a=news(light=1), b=news(heavy=3))
    chosen = Counter(cells.uid_of("shared", f"request-{number}") for number in range(400))
    assert 70 < chosen["light"] < 130 and chosen["light"] + chosen["heavy"] == 400
    # One request always means the same.
    assert len({cells.uid_of("shared", "same") for _ in range(5)}) == 1


def test_a_request_for_no_model_goes_where_most_models_serve() -> None:
    cells = table(a=news(), b=news(m=1, n=1), c=news(m=1))
    assert cells.order(None)[0] == "b"


def test_the_name_of_a_model_is_found_in_a_path() -> None:
    cells = table(a={"since": None, "gone": [], "models": [{"uid": "x", "names": [("org/x", 3, None)], "workers": 1}]})
    assert cells.uid_in_path("/ocr/org/x/process", "1") == "x"
    assert cells.uid_in_path("/ocr/org/y/process", "1") is None
