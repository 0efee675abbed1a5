"""`--model-engine auto` in a process of its own: `python -m deployments.text.encoders.trials`, a job on stdin.

The 290 MB that the candidates import are freed with that process, and a candidate that crashes ends no worker. It
reports progress on stdout and writes the choice to disk.
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

from cluster.environment import ISOLATED
from cluster.worker.family import Setup, load_family
from deployments.conversions import environment_with
from deployments.text.encoders import choice

#: Longest that all of it may take, with a conversion for each engine.
TRIALS_S = 7200
#: Fields of a setup that cannot be sent to another process.
OWN = ("fetch", "report")


def elsewhere(family: str, setup: Setup) -> str:
    """Tries all engines; returns why there is no choice on disk, or nothing."""
    fields = {name: value for name, value in vars(setup).items() if name not in OWN} | {"engine": choice.TRY}
    job = pickle.dumps((family, fields))
    command = [*ISOLATED, "-m", "deployments.text.encoders.trials"]
    environment = environment_with(setup.threads)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None and process.stdout is not None
        alarm = threading.Timer(TRIALS_S, process.kill)
        alarm.daemon = True
        alarm.start()
        # Closing stdin ends the process, so it also ends when something fails here.
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


def _end_with_whoever_asked() -> None:
    # Not by `sys.stdin`, whose lock an ending interpreter would wait for.
    while os.read(0, 1):
        pass
    os._exit(1)


def main() -> None:
    # Libraries may print on stdout, so that is sent to stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    logging.basicConfig()
    # Why an engine is no candidate.
    logging.getLogger("cluster.worker.worker").setLevel(logging.INFO)
    family, fields = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_whoever_asked, daemon=True).start()

    def report(fraction: float, stage: str = "loading") -> None:
        print(json.dumps([fraction, stage]), file=answers, flush=True)

    try:
        load_family(family)().load(Setup(**fields, report=report))
    except choice.Tried:
        return
    raise SystemExit(f"{family} loads without trying any engine.")


if __name__ == "__main__":
    main()
