"""Which worker gives way when a node runs out of memory, or nobody.

The kernel would take the largest process, Ray the one that started last, and either may be the supervisor. Here only
workers give way: the one furthest above its claim, else the largest. One at a time: the next goes only when the memory
of the last is back and what is available falls all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from cluster.control.lifecycle import HOLDS_CLAIM, WorkerRecord
from cluster.status import Memory

#: Without a setting: the share of a node's memory that stays available, within these bounds.
FLOOR_SHARE, FLOOR_LEAST, FLOOR_MOST = 0.05, 500 * 10**6, 4 * 10**9
#: How long the memory of an ended worker may take to come back.
SETTLE_S = 2.0
#: Below this part of the floor the next worker goes after this time already.
CRITICAL_SHARE, CRITICAL_S = 0.25, 0.5
#: A worker that holds less is not worth ending.
WORTH_BYTES = 100 * 10**6
#: Above its claim by this share of it, and at least by so much, a worker is the one that took too much.
OVER_SHARE, OVER_BYTES = 0.1, 50 * 10**6
#: So long after a kill of the kernel's a worker's death may be that kill.
KERNEL_S = 10.0
#: A shortage that nobody has measured for so long is over: the workers that measured it are gone.
STALE_S = 60.0
#: Nothing allocates faster than this; the pause between two looks is half of what it would take to the floor.
FASTEST_BYTES_PER_S = 8 * 10**9
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0
#: Begins the reason of such a loss, so that people can search for it.
REASON = "HOST_OOM"


@dataclass(frozen=True)
class Tenant:
    """A worker of the node."""

    name: str
    held_bytes: int
    claim_bytes: int

    @property
    def over_bytes(self) -> int:
        """How far it is above its claim."""
        over = self.held_bytes - self.claim_bytes
        return over if self.claim_bytes and over > max(OVER_BYTES, OVER_SHARE * self.claim_bytes) else 0


def tenants_of(workers: Iterable[WorkerRecord]) -> list[Tenant]:
    return [
        Tenant(str(worker), worker.report.memory.own_bytes, worker.claim.memory_bytes)
        for worker in workers
        if worker.state in HOLDS_CLAIM
    ]


@dataclass(frozen=True)
class Shortage:
    """A worker gave way; until there is room for it again, only what fits into what is left is started."""

    since: float
    owed_bytes: int
    #: What was available when its memory was back; None until then.
    settled_bytes: int | None = None


@dataclass(frozen=True)
class NodeMemory:
    """What is known of the memory of one node."""

    memory: Memory = Memory()
    read_at: float = 0.0
    shortage: Shortage | None = None
    #: When the kernel last ended a process for want of memory.
    killed_at: float = float("-inf")

    def is_tight(self, floor: int) -> bool:
        return 0 < self.memory.total_bytes and self.memory.available_bytes < floor


def floor_of(total_bytes: int, setting: int) -> int:
    """What has to stay available; a setting of 0 means the usual share."""
    if setting:
        return setting
    return int(min(max(FLOOR_SHARE * total_bytes, FLOOR_LEAST), total_bytes / 10, FLOOR_MOST))


def after_reading(before: NodeMemory, memory: Memory, floor: int, now: float) -> NodeMemory:
    """A shortage ends when there is room for the worker that gave way, beside the floor."""
    rose = before.memory.total_bytes and memory.oom_kills > before.memory.oom_kills
    shortage = before.shortage
    if shortage is not None:
        if memory.available_bytes >= floor + shortage.owed_bytes:
            shortage = None
        elif shortage.settled_bytes is None and now - shortage.since >= SETTLE_S:
            shortage = replace(shortage, settled_bytes=memory.available_bytes)
    if memory.largest is None and is_near(memory, floor):
        memory = replace(memory, largest=before.memory.largest)
    return NodeMemory(memory, now, shortage, now if rose else before.killed_at)


def who_gives_way(node: NodeMemory, tenants: Sequence[Tenant], floor: int, now: float) -> Tenant | None:
    if not node.is_tight(floor) or not _may_go_on(node, floor, now):
        return None
    worth = [tenant for tenant in tenants if tenant.held_bytes >= WORTH_BYTES]
    return max(worth, key=lambda tenant: (tenant.over_bytes, tenant.held_bytes, tenant.name), default=None)


def _may_go_on(node: NodeMemory, floor: int, now: float) -> bool:
    """Memory that others hold may stay held: that alone must not end one worker after the other."""
    shortage, available = node.shortage, node.memory.available_bytes
    if shortage is None:
        return True
    if available < CRITICAL_SHARE * floor:
        return now - shortage.since >= CRITICAL_S
    return shortage.settled_bytes is not None and available < shortage.settled_bytes - floor / 10


def gave_way(node: NodeMemory, tenant: Tenant, now: float) -> NodeMemory:
    owed = min(tenant.held_bytes, tenant.claim_bytes or tenant.held_bytes)
    return replace(node, shortage=Shortage(now, owed))


def was_killed_for_memory(node: NodeMemory, floor: int, now: float) -> bool:
    """Whether the kernel is the likely cause of a worker's sudden end."""
    return now - node.killed_at <= KERNEL_S or node.is_tight(floor)


def pause_s(memory: Memory, floor: int) -> float:
    """How long until the next look."""
    ahead = (memory.available_bytes - floor) / FASTEST_BYTES_PER_S / 2
    return min(max(ahead, SHORTEST_PAUSE_S), LONGEST_PAUSE_S)


def is_news(last: Memory, memory: Memory, floor: int) -> bool:
    """Whether the supervisor should hear of it: small changes far from the floor change no decision."""
    if not last.total_bytes or memory.oom_kills != last.oom_kills:
        return True
    grown = abs(memory.own_bytes - last.own_bytes)
    if grown > max(OVER_BYTES, OVER_SHARE * last.own_bytes):
        return True
    moved = abs(memory.available_bytes - last.available_bytes)
    if is_near(memory, floor) or is_near(last, floor):
        return moved > floor / 20
    return moved > FLOOR_SHARE * memory.total_bytes


def is_near(memory: Memory, floor: int) -> bool:
    return memory.available_bytes < 2 * floor


def reason_of(node: NodeMemory, tenant: Tenant, ip: str, floor: int) -> str:
    """For people: how little there was, who held what, and what to do."""
    memory = node.memory
    over = f", {_gb(tenant.over_bytes)} above its claim" if tenant.over_bytes else ""
    text = (
        f"{REASON}: {_gb(memory.available_bytes)} of {_gb(memory.total_bytes)} memory were left on {ip}, "
        f"{_gb(floor)} have to be; this worker held {_gb(tenant.held_bytes)}{over}"
    )
    return f"{text}; {others(memory)}. It is started again when its memory is free."


def reason_of_kernel(node: NodeMemory, ip: str) -> str:
    memory = node.memory
    left = f"{_gb(memory.available_bytes)} of {_gb(memory.total_bytes)} memory are left on {ip}"
    return f"{REASON}: its process was killed, and {left}; {others(memory)}"


def without_old(node: NodeMemory, now: float) -> NodeMemory:
    return NodeMemory(killed_at=node.killed_at) if now - node.read_at > STALE_S else node


def room_bytes(node: NodeMemory, floor: int) -> int | None:
    """What may be started on the node while its memory is short or a worker that gave way has no room; else None."""
    is_short = node.shortage is not None or node.is_tight(floor)
    return node.memory.available_bytes - floor if is_short else None


def others(memory: Memory) -> str:
    """Who else holds memory, and what to do about it."""
    if memory.largest is None:
        return "no large process of others is in sight"
    name, pid, held = memory.largest
    return f"of other processes {name} (pid {pid}) holds most, {_gb(held)}: end it, or launch less here"


def _gb(amount: float) -> str:
    return f"{amount / 1e9:.1f} GB"
