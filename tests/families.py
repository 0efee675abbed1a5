"""Model types that only tests and benchmarks serve: they do at once, or badly, what real ones do slowly and well.

Loaded by `CLUSTER_PLUGINS=tests.families`; the worker, the queue, the routes and everything else around them are real.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from cluster import errors
from cluster.family import Example, Prepared, Setup
from cluster.spec import Entry, Source
from deployments import ModelType


class EchoOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    load_seconds: float = 0.0
    load_error: str | None = None
    run_seconds: float = 0.0
    #: Share of a GPU or anything else a test wants to set without meaning.
    steps: int = 1


class Echo:
    """Answers with what it was asked. An item can also be an order: see `run`."""

    engines: ClassVar[tuple[str, ...]] = ("echo",)
    abilities: ClassVar[tuple[str, ...]] = ("infer",)
    Options: ClassVar[type[BaseModel]] = EchoOptions
    example: ClassVar[Example] = Example(["hello"], {}, "infer")

    def load(self, setup: Setup) -> Mapping[str, Any]:
        self._options: EchoOptions = setup.options
        deadline = time.monotonic() + self._options.load_seconds
        while time.monotonic() < deadline:
            setup.report(1 - (deadline - time.monotonic()) / self._options.load_seconds)
            threading.Event().wait(0.05)
        if self._options.load_error:
            raise ValueError(self._options.load_error)
        return {"pid": os.getpid(), "cards": os.environ.get("CUDA_VISIBLE_DEVICES", "")}

    def prepare(self, ability: str, items: Sequence[Any], params: Mapping[str, Any]) -> Prepared:
        if any(item == "bad" for item in items):
            raise errors.BadRequest("An item is bad.", None, "items")
        return Prepared(list(items), [1] * len(items))

    def run(self, batch: Sequence[Any]) -> Sequence[Any]:
        pause = self._options.run_seconds + max((item["sleep"] for item in batch if _orders(item, "sleep")), default=0)
        if pause:
            time.sleep(pause)
        if any(_orders(item, "crash") for item in batch):
            os.kill(os.getpid(), signal.SIGKILL)
        if any(_orders(item, "raise") for item in batch):
            raise ValueError("told to raise")
        return list(batch)

    def pack(self, outputs: list[Any], params: Mapping[str, Any]) -> Any:
        return outputs

    def set_threads(self, threads: int) -> None:
        pass


def _orders(item: Any, what: str) -> bool:
    return isinstance(item, dict) and what in item


class Vectors(Echo):
    """32 x 384 floats, whatever is asked: what an embedding model answers, without the model."""

    abilities: ClassVar[tuple[str, ...]] = ("embed",)
    example: ClassVar[Example] = Example(["hello"], {}, "embed")
    rows: ClassVar[Any] = np.random.default_rng(0).standard_normal((32, 384), dtype=np.float32)

    def run(self, batch: Sequence[Any]) -> Sequence[Any]:
        return [None] * len(batch)

    def pack(self, outputs: list[Any], params: Mapping[str, Any]) -> Any:
        return self.rows


def _entry(name: str, family: str) -> Entry:
    source = Source(hub="package", id="tests")
    return Entry(name=name, type="echo", family=family, sources=(source,), facts={"claim_bytes": 50_000_000})


TYPE = ModelType(
    name="echo",
    families={"echo": Echo, "vectors": Vectors},
    entries=(_entry("echo", "echo"), _entry("vectors", "vectors")),
)
