"""Asks the fork server for a process: what `ray_python.sh` runs in place of the Python that Ray asked for.

Ends with 0 when that process lives, and with 1 when it must be started as usual. Every start waits for it, so that it
imports as little as it can.
"""

import array
import json
import os
import socket
import sys

#: How long the server may take, which forks one process at a time.
TIMEOUT_S = 5.0
#: More than the words and the environment of any process.
MOST_BYTES = 1 << 20


def main() -> int:
    path, *words = sys.argv[1:]
    request = json.dumps({"words": words, "environment": dict(os.environ), "folder": os.getcwd()})
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.settimeout(TIMEOUT_S)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MOST_BYTES)
        server.connect(path)
        files = array.array("i", [0, 1, 2])
        server.sendmsg([request.encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
        return 0 if server.recv(64) else 1


try:
    status = main()
except (OSError, ValueError):
    status = 1
sys.exit(status)
