"""Makes one page of metrics from what many processes count.

Every process keeps its own registry and writes its own page, with labels that say which process it is from. So nothing
has to be added up where the pages are joined: Prometheus does that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 180)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
Samples = list[Metric]
_MODEL = re.compile(rb'[{,]model="((?:[^"\\]|\\.)*)"')


def gauge_page(name: str, text: str, rows: Iterable[tuple[Mapping[str, str], float]]) -> bytes:
    """The page of a gauge whose values are derived now instead of being counted. Written by hand: the library takes ten
    times as long, and there may be ten thousand models."""
    lines = [f"# HELP {name} {text}\n# TYPE {name} gauge\n"]
    for labels, value in rows:
        pairs = ",".join(f'{label}="{_escaped(labels[label])}"' for label in sorted(labels))
        lines.append(f"{name}{{{pairs}}} {value!r}\n" if pairs else f"{name} {value!r}\n")
    return "".join(lines).encode()


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def page(samples: Iterable[Metric]) -> bytes:
    """The families of one process, or of several in one, as Prometheus reads them."""

    class Merged:
        def collect(self) -> Iterator[Metric]:
            merged: dict[str, Metric] = {}
            for family in samples:
                if family.name not in merged:
                    merged[family.name] = Metric(family.name, family.documentation, family.type)
                merged[family.name].samples += family.samples
            yield from merged.values()

    return bytes(generate_latest(Merged()))


def joined(pages: Iterable[bytes], other_names: Mapping[str, str]) -> bytes:
    """The pages of many processes as one, which has each family once. Families with another name are told again under
    that. Lines are moved and not read: a page of a thousand workers has a hundred thousand."""
    heads: dict[bytes, bytes] = {}
    lines: dict[bytes, list[bytes]] = {}
    for text in pages:
        for family in (b"\n" + text).split(b"\n# HELP ")[1:]:
            name = family.partition(b" ")[0]
            described, _, after = family.partition(b"\n")
            kind, _, counted = after.partition(b"\n")
            heads.setdefault(name, b"# HELP " + described + b"\n" + kind + b"\n")
            lines.setdefault(name, []).append(counted.rstrip(b"\n"))
    texts = []
    for name, head in heads.items():
        text = head + b"".join(part + b"\n" for part in lines[name] if part)
        texts.append(text)
        if other := other_names.get(name.decode()):
            texts.append(text.replace(name, other.encode()))
    return b"".join(texts)


def without_models(text: bytes, sees: Callable[[str], bool]) -> bytes:
    """A page without the lines about models that the reader may not see."""
    lines = text.splitlines(keepends=True)
    models = (_MODEL.search(line) for line in lines)
    return b"".join(line for line, model in zip(lines, models, strict=True) if model is None or sees(model[1].decode()))
