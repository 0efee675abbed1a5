"""The weights on the disks of all nodes: which there are, and their deletion."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import NamedTuple, ParamSpec, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster import errors
from cluster.runtime.actor_calls import answer_of
from cluster.runtime.place import settings_here
from cluster.settings import Settings
from cluster.weights.removal import Disk, Key, StoredModel, remove_stored, stored

log = logging.getLogger("cluster.runtime.disks")
Arguments = ParamSpec("Arguments")
T = TypeVar("T")

#: How long a node may take to look, and to delete: it may have to start a process first.
LOOK_S, REMOVE_S = 10.0, 60.0


class _Node(NamedTuple):
    id: str
    ip: str


async def disks(settings: Settings) -> list[Disk]:
    """Of the nodes that answer."""
    looked = await _everywhere(LOOK_S, _look, _look_there, settings)
    return [Disk(node.ip, models) for node, models in looked if not isinstance(models, BaseException)]


async def remove_everywhere(settings: Settings, keys: Collection[Key]) -> None:
    removed = await _everywhere(REMOVE_S, _remove, _remove_there, settings, keys)
    if left := [node.ip for node, error in removed if error is not None]:
        raise errors.Unavailable(
            f"The weights were not deleted from {', '.join(left)}: it does not answer, or cannot; try again when it "
            "does."
        )


async def _everywhere(
    within_s: float,
    work: Callable[Arguments, T],
    task: ray.remote_function.RemoteFunction,
    *args: Arguments.args,
    **kwargs: Arguments.kwargs,
) -> list[tuple[_Node, T | BaseException]]:
    """The work on this node, and the same as a task on every other one; what each answered or raised."""
    nodes, own = await asyncio.to_thread(_nodes)

    def on(node: _Node) -> Awaitable[T]:
        if node.id == own:
            return asyncio.to_thread(work, *args, **kwargs)
        there = task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False))
        return answer_of(there.remote(*args, **kwargs), within_s)

    answers = await asyncio.gather(*map(on, nodes), return_exceptions=True)
    for node, answer in zip(nodes, answers, strict=True):
        if isinstance(answer, BaseException):
            log.warning("the disk of node %s: %s", node.ip, answer)
    return list(zip(nodes, answers, strict=True))


def _nodes() -> tuple[list[_Node], str]:
    """All that live, and the id of this one. An ingress that is not on Ray has just its own disk."""
    if not ray.is_initialized():
        return [_Node("", "127.0.0.1")], ""
    nodes = [_Node(row["NodeID"], row["NodeManagerAddress"]) for row in ray.nodes() if row["Alive"]]
    return nodes, str(ray.get_runtime_context().get_node_id())


def _look(settings: Settings) -> list[StoredModel]:
    return stored(settings_here(settings).home)


def _remove(settings: Settings, keys: Collection[Key]) -> None:
    remove_stored(settings_here(settings).home, keys)


_look_there = ray.remote(num_cpus=0, max_retries=0)(_look)
_remove_there = ray.remote(num_cpus=0, max_retries=0)(_remove)
