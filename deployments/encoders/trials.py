"""`--model-engine auto` in a process of its own: `python -m deployments.encoders.trials`, a job on stdin.

What the candidates bring along goes with that process, which is 290 MB, and one that crashes takes no worker with it.
On stdout it says how far it is; the choice stays on disk.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from typing import Any

from cluster.family import Setup, load_family
from deployments.encoders.compiled import environment_with

#: Longest that all of it may take, with a conversion for each engine.
TRIALS_S = 7200
#: As what a model is launched there, instead of `auto`.
TRY = "try"


class Tried(Exception):
    """Ends the launch of a model that was only to be tried."""


def elsewhere(family: str, setup: Setup) -> str:
    """Tries all engines; returns why there is no choice on disk, or nothing."""
    job = pickle.dumps((family, replace(setup, engine=TRY, fetch=None, report=_say)))
    command = [sys.executable, "-m", "deployments.encoders.trials"]
    environment = environment_with(setup.threads)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None and process.stdout is not None
        alarm = threading.Timer(TRIALS_S, process.kill)
        alarm.daemon = True
        alarm.start()
        # What fails here closes stdin, and so ends the process; in order it ends by itself.
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(job)
                process.stdin.flush()
            for line in process.stdout:
                setup.report(*json.loads(line))
            process.wait()
        finally:
            alarm.cancel()
    ended = process.returncode
    if not ended:
        return ""
    return f"it ended with signal {-ended}" if ended < 0 else f"it ended with exit code {ended}"


def _say(fraction: float, stage: str = "loading") -> None:
    print(json.dumps([fraction, stage]), file=_told, flush=True)


#: Where `_say` says it; libraries print what they like on stdout.
_told: Any = sys.stdout


def _end_with_whoever_asked() -> None:
    # Not by `sys.stdin`, whose lock an ending interpreter would wait for.
    while os.read(0, 1):
        pass
    os._exit(1)


def main() -> None:
    # The module that `_say` was pickled from, which is not this one while it runs as a program.
    from deployments.encoders import trials

    trials._told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    logging.basicConfig()
    # Why an engine is no candidate.
    logging.getLogger("cluster.worker").setLevel(logging.INFO)
    family, setup = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_whoever_asked, daemon=True).start()
    try:
        load_family(family)().load(setup)
    except trials.Tried:
        return
    raise SystemExit(f"{family} loads without trying any engine.")


if __name__ == "__main__":
    main()
