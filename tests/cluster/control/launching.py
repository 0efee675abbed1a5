"""A supervisor that takes launches without end, ten at a time, and says which were answered: made to be killed.

python -m tests.cluster.control.launching STORE
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path

from cluster.control.sqlite_store import SqliteStore
from tests.cluster.control.scenes import Scene, World
from tests.make import make_wanted


async def launch(path: Path) -> None:
    async with Scene(World(), SqliteStore(path)) as scene:
        for number in itertools.count():
            uids = [f"m{number}-{each}" for each in range(10)]
            answers = await asyncio.gather(*(scene.launch(make_wanted(uid, claim_gib=0)) for uid in uids))
            print(*(f"{answer.uid}={answer.generation}" for answer in answers), flush=True)


if __name__ == "__main__":
    asyncio.run(launch(Path(sys.argv[1])))
