from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from cluster import errors
from cluster.control.closed_nodes import Closed, ClosedNodes, NodeMark
from cluster.control.records import Records
from cluster.control.sqlite_store import SqliteStore
from cluster.status import Node
from tests.make import make_node

ONE, TWO = (replace(make_node(id), ip=ip, name=name) for id, ip, name in [("i1", "10.1", "a"), ("i2", "10.2", "b")])


class Closing:
    def __init__(self) -> None:
        self.store = SqliteStore()
        self.woken = 0
        self.closed = self.again()

    def again(self) -> ClosedNodes:
        """As the next supervisor reads it."""
        records = Records(self.store, lambda: 0.0)
        return ClosedNodes(records, records.validated("node", self.store.all("node"), Closed), self._wake)

    def _wake(self) -> None:
        self.woken += 1

    def mark(self, nodes: Sequence[Node], asked: str, mark: NodeMark) -> None:
        asyncio.run(self.closed.mark(nodes, asked, mark))

    def states(self, nodes: Sequence[Node] = (ONE, TWO)) -> list[str]:
        states = [node.state for node in self.closed.shown(nodes)]
        assert states == [node.state for node in self.again().shown(nodes)], "it is stored"
        return states


@pytest.fixture
def closing() -> Closing:
    return Closing()


@pytest.mark.parametrize("asked", ["a", "10.1"])
def test_a_node_is_closed_by_name_until_it_is_opened(closing: Closing, asked: str) -> None:
    closing.mark((ONE, TWO), asked, "cordoned")
    assert closing.states() == ["cordoned", "ready"] and closing.woken == 1
    assert closing.states([replace(ONE, id="back again")]) == ["cordoned"]
    closing.mark((ONE, TWO), asked, "draining")
    assert closing.states() == ["draining", "ready"]
    closing.mark((ONE, TWO), asked, "open")
    assert closing.states() == ["ready", "ready"] and not closing.store.all("node")


def test_a_node_that_was_closed_by_its_id_is_open_when_it_comes_back(closing: Closing) -> None:
    closing.mark((ONE, TWO), "i1", "draining")
    assert closing.states() == ["draining", "ready"]
    assert closing.states([replace(ONE, id="back again")]) == ["ready"]


def test_names_that_mean_no_node_or_several_are_refused(closing: Closing) -> None:
    with pytest.raises(errors.BadRequest, match="There is no node c; there are a, b"):
        closing.mark((ONE, TWO), "c", "cordoned")
    with pytest.raises(errors.BadRequest, match="2 nodes are called 10.1; name one by its id: i1, i2"):
        closing.mark((ONE, replace(TWO, ip="10.1")), "10.1", "cordoned")
    assert closing.states() == ["ready", "ready"]
