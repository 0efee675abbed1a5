"""Weights from other nodes, as Ray's tasks there: it needs no port and no process of its own, and Ray's token keeps
strangers away. What such a task reads is named by digests, never by a path."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster import errors
from cluster.catalog.entry import Source
from cluster.runtime.actor_calls import unwrap
from cluster.runtime.place import settings_here
from cluster.settings import Settings
from cluster.weights.hubs import RemoteFile
from cluster.weights.lending import holding_of, pieces
from cluster.weights.neighbours import Holding

log = logging.getLogger("cluster.runtime.neighbours")

#: How long nodes may take to say what they have, and one for the next piece: each may have to start a process first.
HOLDINGS_S, PIECE_S = 8.0, 20.0
#: Pieces of one file that are on their way.
AHEAD = 3


class RayNeighbours:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.own = str(ray.get_runtime_context().get_node_id())

    def holdings(self, source: Source, files: Sequence[RemoteFile]) -> Sequence[Holding]:
        nodes = [row["NodeID"] for row in ray.nodes() if row["Alive"] and row["NodeID"] != self.own]
        asked = [_on(node, _holding_there).remote(node, source, files, self._settings) for node in nodes]
        answered, silent = ray.wait(asked, num_returns=len(asked), timeout=HOLDINGS_S) if asked else ([], [])
        for question in silent:
            ray.cancel(question)
        holdings = []
        for answer in answered:
            try:
                holdings.append(ray.get(answer))
            # A node that cannot say what it has is none to take from, whatever the reason.
            except Exception as error:
                log.warning("a node does not say which weights it has: %s", unwrap(error))
        return holdings

    def pieces(self, node: str, source: Source, file: RemoteFile, start: int) -> Iterator[bytes]:
        stream = _on(node, _pieces_there).remote(source, file, start, self._settings)
        try:
            while ray.wait([stream], timeout=PIECE_S)[0]:
                yield ray.get(next(stream), timeout=PIECE_S)
            raise errors.Unavailable("It does not answer.")
        except StopIteration:
            return
        except errors.ClusterError:
            raise
        # Ray raises many kinds of errors when a node goes.
        except Exception as error:
            raise unwrap(error) from None
        finally:
            ray.cancel(stream)


def _on(node: str, task: ray.remote_function.RemoteFunction) -> ray.remote_function.RemoteFunction:
    return task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))


@ray.remote(num_cpus=0, max_retries=0)  # type: ignore[untyped-decorator]
def _holding_there(node: str, source: Source, files: Sequence[RemoteFile], settings: Settings) -> Holding:
    return holding_of(node, settings_here(settings).home, source, files)


@ray.remote(  # type: ignore[untyped-decorator]
    num_cpus=0, max_retries=0, num_returns="streaming", _generator_backpressure_num_objects=AHEAD
)
def _pieces_there(source: Source, file: RemoteFile, start: int, settings: Settings) -> Iterator[bytes]:
    yield from pieces(settings_here(settings).home, source, file, start)
