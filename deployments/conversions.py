"""What a machine makes of a model's weights, and keeps: how it is told from what others made, and who makes it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from hashlib import blake2b
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

from cluster import environment, errors
from cluster.value import JsonObject

#: A conversion that takes longer has failed.
CONVERSION_S = 1800


def fingerprint(weights: Path, *facts: object) -> str:
    """Identifies a model's file or folder by names, sizes and times, without reading gigabytes of them."""
    files = sorted(path for path in weights.rglob("*") if path.is_file()) if weights.is_dir() else [weights]
    root = weights if weights.is_dir() else weights.parent
    state = [(str(path.relative_to(root)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return blake2b(json.dumps([state, facts], default=str).encode(), digest_size=12).hexdigest()


def version_of(library: str) -> str:
    """Read without importing it; empty where it is not installed."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return ""


def environment_with(threads: int) -> dict[str, str]:
    """The environment of a process that converts."""
    return environment.for_python(
        OMP_NUM_THREADS=str(threads),
        HF_HUB_OFFLINE="1",
        CUDA_VISIBLE_DEVICES="",
        DO_NOT_TRACK="1",
        # Or it would report its use, and without the second keep a name of this machine for that.
        NNCF_CI="1",
        CI="true",
    )


def complete(file: Path, write: Callable[[Path], None]) -> None:
    """Writes elsewhere and then renames, so that the file and its neighbours are complete even if this process dies."""
    with TemporaryDirectory(dir=file.parent, prefix=".") as folder:
        unfinished = Path(folder) / file.name
        write(unfinished)
        others = [written for written in Path(folder).iterdir() if written != unfinished]
        for written in (*others, unfinished):
            written.replace(file.parent / written.name)


def run(module: str, job: JsonObject, failed: str, threads: int) -> None:
    """Has a process of its own do the job, since it takes memory that it does not give back. `failed` begins the
    sentence of the error."""
    done = subprocess.run(
        [*environment.ISOLATED, "-m", module],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        timeout=CONVERSION_S,
        env=environment_with(threads),
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word why"])[-1]
        raise errors.LoadFailed(f"{failed}: {last[:500]}")
