"""Fetches the weights of a list of models, before anybody waits for them: `predownload.py models.yaml`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from cluster import errors
from cluster.cli.models_file import read_models
from cluster.launch import LaunchSpec
from cluster.settings import Settings, settings
from cluster.status import LoadProgress
from cluster.weights.locate import locate
from deployments import catalog_with, resolve

#: A log is read by people: one line per model in so many seconds.
BETWEEN_LINES_S = 5.0


class Lines:
    """The progress of one model, as lines."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._not_before = 0.0

    def __call__(self, progress: LoadProgress) -> None:
        if time.monotonic() >= self._not_before:
            self._not_before = time.monotonic() + BETWEEN_LINES_S
            print(f"{self._name}: {progress.stage} {progress.fraction:.0%}", flush=True)


def fetch(spec: LaunchSpec, known: Settings) -> Path:
    wanted = resolve(spec, catalog_with((), known), known)
    return locate(
        wanted.source,
        home=known.home,
        allow_pickle=known.allow_pickle or (wanted.entry.builtin and wanted.source.revision is not None),
        roots=known.model_roots,
        report=Lines(wanted.uid),
    )


def main(path: str) -> int:
    failed = 0
    with open(path, encoding="utf-8") as file:
        specs = read_models(file)
    for spec in specs:
        name = spec.model_uid or spec.model_name
        try:
            print(f"{name}: complete in {fetch(spec, settings())}", flush=True)
        except errors.ClusterError as error:
            failed += 1
            print(f"{name}: {error}", file=sys.stderr, flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
