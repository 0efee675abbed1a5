"""The free memory of a machine, read from files like those of the kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cluster.runtime import node_memory
from cluster.worker.peak import held

GB = 2**30


def machine(root: Path, total: int = 64, available: int = 40) -> Path:
    write(root / "proc/meminfo", f"MemTotal: {total * 2**20} kB\nMemFree: 1 kB\nMemAvailable: {available * 2**20} kB\n")
    write(root / "proc/vmstat", "pgfault 7\noom_kill 5\n")
    return root


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def group(folder: Path, limit: str, used: int, files: int = 0, kills: int = 0) -> None:
    write(folder / "memory.max", limit + "\n")
    write(folder / "memory.current", f"{used * GB}\n")
    write(folder / "memory.stat", f"anon 1\ninactive_file {files * GB}\nactive_file 0\n")
    write(folder / "memory.events", f"low 0\noom 9\noom_kill {kills}\n")


def old_group(folder: Path, limit: int, used: int, kills: int = 0) -> None:
    write(folder / "memory.limit_in_bytes", f"{limit}\n")
    write(folder / "memory.usage_in_bytes", f"{used * GB}\n")
    write(folder / "memory.stat", "cache 1\ntotal_inactive_file 0\ntotal_active_file 0\n")
    write(folder / "memory.oom_control", f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n")


def read(root: Path) -> tuple[float, float, int]:
    memory = node_memory.read(root)
    return memory.total_bytes / GB, memory.available_bytes / GB, memory.oom_kills


def test_a_machine_without_groups_is_what_it_says(tmp_path: Path) -> None:
    assert read(machine(tmp_path)) == (64, 40, 5)


def test_the_limit_of_a_container_is_tighter_than_its_machine(tmp_path: Path) -> None:
    write(machine(tmp_path) / "proc/self/cgroup", "0::/\n")
    group(tmp_path / "sys/fs/cgroup", str(8 * GB), used=6, files=1, kills=2)
    assert read(tmp_path) == (8, 3, 2), "files in memory are free for whoever needs it"


def test_a_machine_with_less_left_than_the_container_may_take_is_the_tighter(tmp_path: Path) -> None:
    write(machine(tmp_path, available=1) / "proc/self/cgroup", "0::/\n")
    group(tmp_path / "sys/fs/cgroup", str(8 * GB), used=2)
    assert read(tmp_path) == (8, 1, 0)


def test_the_tightest_of_nested_groups_counts_and_kills_are_those_of_the_innermost(tmp_path: Path) -> None:
    write(machine(tmp_path) / "proc/self/cgroup", "0::/pod/main\n")
    top = tmp_path / "sys/fs/cgroup"
    group(top / "pod/main", "max", used=3, kills=1)
    group(top / "pod", str(4 * GB), used=3, kills=8)
    assert read(tmp_path) == (4, 1, 1)


def test_a_path_of_the_machine_that_is_not_in_the_container_means_its_root(tmp_path: Path) -> None:
    write(machine(tmp_path) / "proc/self/cgroup", "5:cpu:/docker/abc\n4:memory:/docker/abc\n0::/\n")
    old_group(tmp_path / "sys/fs/cgroup/memory", 8 * GB, used=7, kills=3)
    assert read(tmp_path) == (8, 1, 3)


def test_older_groups_without_a_limit_are_none(tmp_path: Path) -> None:
    write(machine(tmp_path) / "proc/self/cgroup", "4:memory:/\n")
    old_group(tmp_path / "sys/fs/cgroup/memory", 9223372036854771712, used=7)
    assert read(tmp_path) == (64, 40, 0)


def test_files_that_cannot_be_read_leave_the_machine_itself(tmp_path: Path) -> None:
    write(machine(tmp_path) / "proc/self/cgroup", "0::/\n")
    group(tmp_path / "sys/fs/cgroup", "nonsense", used=2)
    write(tmp_path / "sys/fs/cgroup/memory.current", "nonsense")
    assert read(tmp_path) == (64, 40, 5)


def test_this_process_holds_something_and_the_largest_other_is_not_of_this_installation() -> None:
    assert 10**6 < held() < 10**11
    largest = node_memory.largest_of_others("/nowhere")
    assert largest is not None and largest[2] > 10**6 and os.path.exists(f"/proc/{largest[1]}")


def test_what_children_hold_is_counted_to_the_last_generation(tmp_path: Path) -> None:
    alone = node_memory.Meter(tmp_path, 0).read().own_bytes
    hold = "held = b'x' * 50_000_000; print(1, flush=True); import sys; sys.stdin.read()"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}])"
    with subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert node_memory.Meter(tmp_path, 0).read().own_bytes > alone + 50_000_000
