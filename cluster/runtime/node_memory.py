"""Measures how much memory the machine or the container has left, and how much this process holds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from cluster.control import pressure
from cluster.status import Memory
from cluster.worker.peak import children, held

#: Seconds between looks at other people's processes, and at our own children. Each look reads every process there is.
OTHERS_S, CHILDREN_S = 1.0, 30.0
#: A limit of this or more means that there is no limit.
NO_LIMIT = 2**60
#: How the names of Ray's processes begin.
RAY_NAMES = ("ray::", "raylet", "gcs_server")


def read(root: Path = Path("/")) -> Memory:
    """What the machine has, or what its container may use where that is less. Cached files count as free, because the
    kernel drops them before it kills a process."""
    total, available = _machine(root)
    kills = _number(root / "proc/vmstat", "oom_kill")
    for level, (limit, used, events) in enumerate(_groups(root)):
        if level == 0 and events is not None:
            kills = events
        if limit < NO_LIMIT:
            total, available = min(total, limit), min(available, limit - used)
    return Memory(total, max(available, 0), 0, kills or 0)


def _machine(root: Path) -> tuple[int, int]:
    facts = root / "proc/meminfo"
    total, available = _number(facts, "MemTotal:"), _number(facts, "MemAvailable:")
    if total is None or available is None:
        machine = psutil.virtual_memory()
        return int(machine.total), int(machine.available)
    return total * 1024, available * 1024


def _groups(root: Path) -> Iterator[tuple[int, int, int | None]]:
    """Limit, use without cached files, and number of processes killed by the kernel, of each control group that this
    process is in, the innermost first."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    own = {kind: path for _, kind, path in (line.split(":", 2) for line in lines)}
    top = root / "sys/fs/cgroup"
    is_old = "memory" in own
    if is_old:
        top, path = top / "memory", own["memory"]
    else:
        path = own.get("", "/")
    folder = top / path.lstrip("/")
    # In a container the path may be the host's, which is not there; the top folder is the container's group then.
    folders = [folder, *folder.parents] if folder.is_dir() else [top]
    for group in folders:
        row = _old_group(group) if is_old else _group(group)
        if row is not None:
            yield row
        if group == top:
            return


def _group(folder: Path) -> tuple[int, int, int | None] | None:
    used = _whole(folder / "memory.current")
    if used is None:
        return None
    files = sum(_number(folder / "memory.stat", name) or 0 for name in ("inactive_file", "active_file"))
    limit = _whole(folder / "memory.max")
    return NO_LIMIT if limit is None else limit, max(used - files, 0), _number(folder / "memory.events", "oom_kill")


def _old_group(folder: Path) -> tuple[int, int, int | None] | None:
    used, limit = _whole(folder / "memory.usage_in_bytes"), _whole(folder / "memory.limit_in_bytes")
    if used is None or limit is None:
        return None
    files = sum(_number(folder / "memory.stat", name) or 0 for name in ("total_inactive_file", "total_active_file"))
    return limit, max(used - files, 0), _number(folder / "memory.oom_control", "oom_kill")


def _whole(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None  # there is no such file, or it says `max`


def _number(file: Path, name: str) -> int | None:
    """The number in the line that begins with the name."""
    try:
        for line in file.read_text().splitlines():
            words = line.split()
            if words[:1] == [name]:
                return int(words[1])
    except (OSError, ValueError, IndexError):
        pass
    return None


class Meter:
    """Reads the memory of the machine and of this process with its children; what is slow to read less often."""

    def __init__(self, home: Path, floor_bytes: int) -> None:
        self._home, self._floor_bytes = str(home), floor_bytes
        self._others: tuple[str, int, int] | None = None
        self._others_at = self._children_at = float("-inf")
        self._children = 0

    def read(self) -> Memory:
        """When memory is nearly short, this includes the largest process of others."""
        now = time.monotonic()
        memory = read()
        if now - self._children_at >= CHILDREN_S:
            self._children_at, self._children = now, _held_by_children()
        if not pressure.is_near(memory, pressure.floor_of(memory.total_bytes, self._floor_bytes)):
            self._others = None
        elif now - self._others_at >= OTHERS_S:
            self._others_at, self._others = now, largest_of_others(self._home)
        return Memory(
            memory.total_bytes,
            memory.available_bytes,
            held() + self._children,
            memory.oom_kills,
            self._others,
        )


def go_first(score: int) -> None:
    """Makes the kernel kill this process before others when memory runs out; the higher the score, the sooner."""
    try:
        Path("/proc/self/oom_score_adj").write_text(str(score))
    except OSError:
        pass  # not Linux, or a container that forbids it


def _held_by_children() -> int:
    total = 0
    for child in children():
        with suppress(psutil.Error):  # it has just ended
            total += psutil.Process(child).memory_info().rss
    return total


def largest_of_others(home: str) -> tuple[str, int, int] | None:
    """Name, pid and bytes of the largest process that does not belong to this cluster."""
    rows = []
    for process in psutil.process_iter(["name", "memory_info"]):
        facts = process.info["memory_info"]
        if facts is not None:
            rows.append((facts.rss - getattr(facts, "shared", 0), process))
    for bytes_held, process in sorted(rows, key=lambda row: -row[0]):
        name = process.info["name"] or "?"
        try:
            if name.startswith(RAY_NAMES) and process.environ().get("CLUSTER_HOME") == home:
                continue
        except psutil.NoSuchProcess:
            continue
        except psutil.Error:
            pass  # another user's process, whose environment we may not read
        return name, process.pid, bytes_held
    return None
