"""Asks the fork server for a process; `ray_python.sh` runs this instead of the Python that Ray asked for.

It exits with 0 if the process was forked, and with 1 if it must be started as usual. Every start of a worker waits for
this, so it imports as little as possible.
"""

import array
import json
import os
import socket
import sys

#: How long the server may take to answer; it forks one process at a time.
TIMEOUT_S = 5.0
#: The largest request: more than the arguments and the environment of any process.
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
