"""Nodes that people have closed, or that are about to leave; stored, because a new supervisor must not fill them again.

A node is closed by its name, which it keeps when it comes back, or by its id, which it has for one life: a machine that
leaves and joins again is open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Literal

from cluster import errors
from cluster.control.records import Records
from cluster.control.store import ITSELF
from cluster.status import Node
from cluster.value import Value

NodeMark = Literal["open", "cordoned", "draining"]


class Closed(Value):
    """What is stored, under the name or the id."""

    mark: NodeMark


class ClosedNodes:
    def __init__(self, records: Records, closed: dict[str, Closed], wake: Callable[[], None]) -> None:
        self._records = records
        self._closed = closed
        self._wake = wake

    def shown(self, nodes: Iterable[Node]) -> list[Node]:
        """The nodes, as far as they are closed."""
        return [self._shown(node) for node in nodes]

    def _shown(self, node: Node) -> Node:
        marks = {closed.mark for name in (node.id, node.name) if (closed := self._closed.get(name)) is not None}
        if not marks:
            return node
        return replace(node, cordoned="cordoned" in marks, draining=node.draining or "draining" in marks)

    async def mark(self, nodes: Iterable[Node], asked: str, mark: NodeMark) -> Node:
        """Closes a node, or opens it again. `asked`: its name, its address or its id; with its id until it has gone."""
        node = _named(list(nodes), asked)
        await self._records.alone(self._write(node, node.id if asked == node.id else node.name or node.ip, mark))
        return node

    async def _write(self, node: Node, key: str, mark: NodeMark) -> None:
        if mark == "open":
            for name in {node.id, node.name} & self._closed.keys():
                await self._records.delete("node", name)
                self._closed.pop(name)
        else:
            closed = Closed(mark=mark)
            await self._records.put("node", key, closed.model_dump(mode="json"))
            self._closed[key] = closed
        self._records.tell(ITSELF, "INFO", f"Node {node.name or node.ip} is {mark}")
        self._wake()


def _named(nodes: list[Node], asked: str) -> Node:
    matching = [node for node in nodes if asked in (node.id, node.name)] or [n for n in nodes if n.ip == asked]
    if len(matching) == 1:
        return matching[0]
    names = ", ".join(sorted(node.name or node.ip for node in nodes)) or "none"
    if matching:
        ids = ", ".join(node.id for node in matching)
        raise errors.BadRequest(f"{len(matching)} nodes are called {asked}; name one by its id: {ids}.", "node")
    raise errors.BadRequest(f"There is no node {asked}; there are {names}.", "node")
