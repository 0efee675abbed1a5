"""A process notices that its parent, which stands in for Ray's node process, has ended."""

from __future__ import annotations

import subprocess
import sys

#: Starts another Python, which prints whether its parent has ended, first before and then after it has.
PARENT = """
import os, subprocess, sys
os.environ["RAY_RAYLET_PID"] = str(os.getpid())
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=sys.stdout)
sys.stdin.readline()
"""
CHILD = """
import sys, time
from cluster.runtime.raylet import Raylet
raylet = Raylet()
print(raylet.has_ended(), flush=True)
for _ in range(1000):
    if raylet.has_ended():
        break
    time.sleep(0.01)
print(raylet.has_ended(), flush=True)
"""


def test_the_end_of_the_node_process_is_seen() -> None:
    command = [sys.executable, "-c", PARENT, CHILD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "False\n"
        parent.kill()
        assert parent.stdout.read() == "True\n"
