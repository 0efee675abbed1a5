"""Which engine runs a model on this very machine: every candidate is timed, compared with fp32, and the fastest that is
accurate enough is chosen and remembered.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cluster import errors
from cluster.value import JsonObject
from deployments.conversions import version_of
from deployments.text.tokenizing import Encoded
from deployments.vectors import Floats

#: The engine of a launch that only tries all candidates and then ends.
TRY = "try"
#: Version of the export; files of another version are made again.
CONVERSION = "3"
#: How much the time of one short text counts against that of many long ones, in a product.
SHORT_COUNTS = 0.5


class Tried(Exception):
    """Ends a launch that only tries the candidates."""


@dataclass
class Trial:
    engine: str
    #: CPU time of one short text, and tokens per second of CPU time over texts of all lengths. It is CPU time, so that
    #: other work on the machine does not count.
    short_ms: float = 0.0
    tokens_per_s: float = 0.0
    #: Closeness to fp32: mean cosine of the vectors, and rank correlation of the orders that they give.
    cosine: float = 0.0
    rank: float = 0.0
    verdict: str = ""

    @property
    def cost(self) -> float:
        return float(self.short_ms**SHORT_COUNTS * (1e6 / self.tokens_per_s) ** (1 - SHORT_COUNTS))


def choose(trials: Sequence[Trial], min_cosine: float, min_rank: float) -> Trial:
    """The cheapest trial that is accurate enough. Sets the verdict of every trial."""
    fit = []
    for trial in trials:
        if trial.verdict:
            continue
        if trial.cosine < min_cosine or trial.rank < min_rank:
            trial.verdict = f"not accurate enough: cosine {min_cosine} and rank {min_rank} are asked for"
        else:
            trial.verdict = "good"
            fit.append(trial)
    if not fit:
        raise errors.LoadFailed("No engine could run the model; the reasons are in the log.")
    best = min(fit, key=lambda trial: trial.cost)
    best.verdict = "chosen"
    return best


def trial_of(
    engine: str,
    run: Callable[[Sequence[Encoded]], Sequence[Floats]],
    sample: Sequence[Encoded],
    exact: Sequence[Floats] | None,
    batch_tokens: int,
) -> tuple[Trial, Sequence[Floats]]:
    """Times an engine on the sample and compares its answers with the exact ones. Returns its answers, too."""
    by_length = sorted(sample, key=len)
    batches: list[list[Encoded]] = [[]]
    for text in by_length:
        if batches[-1] and sum(map(len, batches[-1])) + len(text) > batch_tokens:
            batches.append([])
        batches[-1].append(text)
    outputs = [row for batch in batches for row in run(batch)]
    whole_s = _fastest(lambda: [run(batch) for batch in batches], 2)
    short = by_length[: max(1, len(by_length) // 4)][-1:]
    run(short)
    short_s = _fastest(lambda: run(short), 15)
    tokens = sum(map(len, sample))
    trial = Trial(engine, short_s * 1000, tokens / whole_s)
    reference = outputs if exact is None else exact
    trial.cosine = float(np.mean([cosine(a, b) for a, b in zip(outputs, reference, strict=True)]))
    trial.rank = rank_agreement(outputs, reference)
    return trial, outputs


def _fastest(work: Callable[[], object], times: int) -> float:
    best = float("inf")
    for _ in range(times):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return best


def cosine(a: Floats, b: Floats) -> float:
    """Of two answers. A single score has no direction: for scores it is 1 less their distance after a sigmoid."""
    x, y = np.ravel(a).astype(np.float64), np.ravel(b).astype(np.float64)
    if len(x) == 1:
        return 1.0 - min(1.0, abs(_squeezed(x[0]) - _squeezed(y[0])))
    return float(x @ y / max(float(np.linalg.norm(x) * np.linalg.norm(y)), 1e-12))


def _squeezed(score: float) -> float:
    return float(1 / (1 + np.exp(-np.clip(score, -60, 60))))


def rank_agreement(ours: Sequence[Floats], exact: Sequence[Floats]) -> float:
    """Spearman's correlation: of the scores, or of each vector's order of the others, on average."""
    a, b = (np.stack([np.ravel(row) for row in rows]).astype(np.float64) for rows in (ours, exact))
    if a.shape[1] == 1:
        return _spearman(a[:, 0], b[:, 0])
    a, b = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12) for rows in (a, b))
    orders = a @ a.T, b @ b.T
    others = ~np.eye(len(a), dtype=bool)
    return float(np.mean([_spearman(x[keep], y[keep]) for x, y, keep in zip(*orders, others, strict=True)]))


def _spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    if len(a) < 2:
        return 1.0
    ours, theirs = (np.argsort(np.argsort(values)).astype(np.float64) for values in (a, b))
    return float(np.corrcoef(ours, theirs)[0, 1])


# ------------------------------------------------------------------------------------------------------- remembering


def machine() -> JsonObject:
    """What the choice depends on, beside the model."""
    return {"cpu": _cpu(), "versions": versions()}


def versions() -> dict[str, str]:
    """Of the libraries that convert and run models, read without importing them."""
    libraries = ("torch", "transformers", "onnxruntime", "openvino", "nncf")
    return {"conversion": CONVERSION, **{name: version_of(name) for name in libraries}}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = [line for line in lines if line.startswith(("model name", "flags"))][:2]
    return blake2b("\n".join(named).encode(), digest_size=8).hexdigest()


def remembered(place: Path, conditions: JsonObject) -> list[Trial] | None:
    """The trials made under the very same conditions, if there were any."""
    try:
        record = json.loads((place / "choice.json").read_text())
    except (OSError, ValueError):
        return None
    if record.get("conditions") != json.loads(json.dumps(conditions)):
        return None
    return [Trial(**row) for row in record["trials"]]


def remember(place: Path, conditions: JsonObject, trials: Iterable[Trial]) -> None:
    place.mkdir(parents=True, exist_ok=True)
    unfinished = place / ".choice.json"
    unfinished.write_text(
        json.dumps({"conditions": conditions, "trials": [asdict(trial) for trial in trials]}, indent=1)
    )
    unfinished.replace(place / "choice.json")
