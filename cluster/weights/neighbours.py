"""Other nodes that have weights which this one lacks, and which of them is asked for a file. Pure.

Nothing of what they say is believed. The hub's listing says which files there are and what is in them, and what came
from a neighbour is checked by it like what came from the hub.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from cluster.catalog.entry import Source
from cluster.weights.hubs import RemoteFile


class Holding(NamedTuple):
    """What one node has of the files that another one lacks."""

    node: str
    #: Bytes that are there of those that it has or is going to have, by digest.
    sizes: Mapping[str, int]
    #: It is fetching some of them just now.
    is_fetching: bool


class Neighbours(Protocol):
    own: str

    def holdings(self, source: Source, files: Sequence[RemoteFile]) -> Sequence[Holding]:
        """Of the nodes that answer soon."""

    def pieces(self, node: str, source: Source, file: RemoteFile, start: int) -> Iterator[bytes]:
        """The bytes of a file from `start` on, as far as they come; raises Unavailable when the node is gone."""


class NoNeighbours:
    own = ""

    def holdings(self, source: Source, files: Sequence[RemoteFile]) -> Sequence[Holding]:
        return ()

    def pieces(self, node: str, source: Source, file: RemoteFile, start: int) -> Iterator[bytes]:
        return iter(())


def provider(
    own: str, own_bytes: int, file: RemoteFile, holdings: Sequence[Holding], but: Collection[str] = ()
) -> str | None:
    """The node to take a file from; None if the hub is the one to ask.

    Those that have all of it share the askers among them. Else it is the one that has got furthest in fetching it, and
    of several that begin together the first by name: the others follow that one, and only one asks the hub.
    """
    others = [holding for holding in holdings if file.digest in holding.sizes and holding.node not in but]
    whole = [holding.node for holding in others if holding.sizes[file.digest] == file.size]
    if whole:
        return min(whole, key=lambda node: hashlib.sha1(f"{own} {node} {file.digest}".encode()).digest())
    fetching = [(-holding.sizes[file.digest], holding.node) for holding in others if holding.is_fetching]
    return min(fetching)[1] if fetching and min(fetching) < (-own_bytes, own) else None
