"""The rows of `benchmarks.gpu`: each loads a model as a worker does, and measures one thing."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers  # noqa: F401  (rows are forked from a process that has it)
from diffusers import StableDiffusionXLPipeline  # noqa: F401  (likewise)

from benchmarks import gpu_models
from benchmarks.gpu import Bench, Cells, NotHere, Row
from benchmarks.image_gpu import card_at
from cluster.calls import Answer, Call
from cluster.cards import Card
from cluster.launch import LaunchSpec
from cluster.runtime import nvml
from cluster.settings import Settings
from cluster.status import Claim, Report
from cluster.worker.family import load_family
from cluster.worker.worker import Worker
from deployments import catalog_with, resolve

WORD = "the river runs past the old mill and under the stone bridge in the evening "
#: How long each speed is measured, and how many requests are under way meanwhile.
MEASURE_S, MEASURE_SMALL_S = 3.0, 0.3
AT_ONCE = 4


class Served:
    """A model in a worker of this process."""

    def __init__(self, bench: Bench, type: str, folder: Path | str, name: str = "", **launch: Any) -> None:
        """`name`: of the catalogue, for a folder of a kind that its files do not tell."""
        settings = Settings(home=bench.folder / "home")
        place = {"model_path": str(folder)} if isinstance(folder, Path) else {}
        name = name or (folder.name if isinstance(folder, Path) else folder)
        on_card = not bench.is_small
        spec = LaunchSpec(model_name=name, model_type=type, n_gpu="auto" if on_card else None, **place, **launch)
        self.wanted = resolve(spec, catalog_with([], settings), settings)
        needs = self.wanted.needs(on_card=on_card)
        claim = Claim(needs.memory_bytes, ((0, 1.0),) if on_card else (), 0.0, needs.card_bytes, True)
        self.example = load_family(self.wanted.family).example
        self.worker = Worker("worker:bench:1:0-x", self.wanted, claim, settings, bench.device, None, _own_card)
        self.device = bench.device

    async def loaded(self) -> Report:
        await self.worker.start(1, ("n0", "127.0.0.1"), os.cpu_count() or 1)
        report = await self.until("ready", "failed")
        if report.error is not None:
            raise report.error
        return report

    async def until(self, *phases: str) -> Report:
        version, report = await self.worker.report(1, -1, 0.0)
        while report.phase not in phases:
            version, report = await self.worker.report(1, version, 10.0)
        return report

    async def ask(self, items: Sequence[Any] | None = None, **params: Any) -> Answer:
        params = {**self.example.params, **params}
        call = Call(os.urandom(4).hex(), list(items or self.example.items), params, 600.0, self.example.ability)
        ((outcome,), _) = await self.worker.infer([call])
        if outcome is None:
            ((outcome,), _) = await self.worker.collect([call.id])
        if not isinstance(outcome, Answer):
            raise outcome or RuntimeError("there was no answer")
        return outcome

    async def speed(self, items: Callable[[], Sequence[Any]], seconds: float) -> tuple[float, float]:
        """Items and tokens per second, several requests at once; each of other items, since answers are kept."""
        await self.ask(items())
        began, counted, tokens = time.monotonic(), 0, 0

        async def go_on() -> None:
            nonlocal counted, tokens
            while time.monotonic() - began < seconds:
                batch = items()
                tokens += (await self.ask(batch)).tokens
                counted += len(batch)

        await asyncio.gather(*(go_on() for _ in range(AT_ONCE)))
        took = time.monotonic() - began
        return counted / took, tokens / took


def _own_card() -> Sequence[Card]:
    if not torch.cuda.is_initialized():
        return ()
    return nvml.cards_of([str(torch.cuda.get_device_properties(0).uuid)])


def cells(report: Report, speed: str = "", note: str = "", bound: float | None = None) -> Cells:
    peak = 0 if report.peak is None else report.peak.memory_bytes
    if torch.cuda.is_initialized():
        peak = torch.cuda.max_memory_reserved()
    share = "" if bound is None else f"{bound:.1%}"
    return {
        "load s": f"{report.load_seconds:.1f}",
        "speed": speed,
        "of the bound": share,
        "peak GB": f"{peak / 1e9:.2f}",
        "note": note,
    }


def _seconds(bench: Bench) -> float:
    return MEASURE_SMALL_S if bench.is_small else MEASURE_S


def _bound(bench: Bench, operations_per_s: float) -> float:
    return operations_per_s / card_at(bench.device).bound


async def card(bench: Bench) -> Cells:
    if bench.device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("there is no GPU here that torch can use")
    at = card_at(bench.device)
    size = torch.cuda.get_device_properties(0).total_memory if bench.device == "cuda" else 0
    note = f"{at.name}, torch {torch.__version__}" + (f", {size / 1e9:.0f} GB" if size else "")
    return {"speed": f"{at.measured:.1f} TFLOP/s", "of the bound": f"{at.measured * 1e12 / at.bound:.0%}", "note": note}


# ------------------------------------------------------------------------------------------------ text


def texts(bench: Bench, count: int = 32) -> Callable[[], list[str]]:
    """Of different lengths, as callers send them, and never the same."""
    longest, numbers = 1 if bench.is_small else 6, itertools.count()
    return lambda: [f"{next(numbers)} {WORD * (1 + number % longest)}" for number in range(count)]


def encoding(**options: Any) -> Callable[[Bench], Coroutine[Any, Any, Cells]]:
    async def run(bench: Bench) -> Cells:
        folder = bench.made("bert", lambda folder: gpu_models.encoder(folder, bench.is_small))
        served = Served(bench, "embedding", folder, options=options)
        report = await served.loaded()
        rate, tokens = await served.speed(texts(bench), _seconds(bench))
        operations = tokens * 2 * _parameters(bench)
        packed = "packed" if report.facts.listed.get("packed", True) else "padded"
        return cells(report, f"{rate:.0f} texts/s, {tokens:.0f} tokens/s", packed, _bound(bench, operations))

    return run


def _parameters(bench: Bench) -> int:
    """Of the layers of the encoder, which each token passes."""
    sizes = gpu_models.TINY if bench.is_small else gpu_models.LARGE
    width, inner = sizes["hidden_size"], sizes["intermediate_size"]
    return sizes["num_hidden_layers"] * (4 * width * width + 2 * width * inner)


async def rerank(bench: Bench) -> Cells:
    folder = bench.made("cross", lambda folder: gpu_models.encoder(folder, bench.is_small, head=True))
    served = Served(bench, "rerank", folder)
    report = await served.loaded()
    rate, tokens = await served.speed(texts(bench), _seconds(bench))
    return cells(report, f"{rate:.0f} pairs/s", bound=_bound(bench, tokens * 2 * _parameters(bench)))


async def classify(bench: Bench) -> Cells:
    folder = bench.made("cross", lambda folder: gpu_models.encoder(folder, bench.is_small, head=True))
    served = Served(bench, "classify", folder)
    report = await served.loaded()
    rate, _ = await served.speed(texts(bench), _seconds(bench))
    return cells(report, f"{rate:.0f} texts/s")


# ------------------------------------------------------------------------------------------------ pictures


def drawing(**options: Any) -> Callable[[Bench], Coroutine[Any, Any, Cells]]:
    async def run(bench: Bench) -> Cells:
        folder = bench.made("sdxl", lambda folder: gpu_models.pictures(folder, bench.is_small))
        served = Served(bench, "image", folder, options=options)
        report = await served.loaded()
        side, steps = (64, 2) if bench.is_small else (1024, 8)
        size = {"width": side, "height": side, "num_inference_steps": steps}
        await served.ask(**size)
        began = time.monotonic()
        await served.ask(**size)
        seconds = time.monotonic() - began
        return cells(report, f"{steps / seconds:.2f} steps/s", f"{side} x {side}, {steps} steps in {seconds:.2f} s")

    return run


# ------------------------------------------------------------------------------------------------ pages


async def ppocr(bench: Bench) -> Cells:
    served = Served(bench, "ocr", "ppocr-v6")
    return await _reading(bench, served)


async def document_model(bench: Bench) -> Cells:
    folder = bench.made("documents", gpu_models.documents) / "model"
    return await _reading(bench, Served(bench, "ocr", folder, "GOT-OCR2_0"))


async def _reading(bench: Bench, served: Served) -> Cells:
    report = await served.loaded()
    rate, _ = await served.speed(lambda: served.example.items, _seconds(bench))
    return cells(report, f"{rate:.2f} pages/s", "the example's page")


# ------------------------------------------------------------------------------------------------ language


async def vllm(bench: Bench) -> Cells:
    if not os.environ.get("CLUSTER_VLLM_COMMAND") and importlib.util.find_spec("vllm") is None:
        raise NotHere("vLLM is not installed, and CLUSTER_VLLM_COMMAND names none")
    return await _talking(bench, "vllm")


async def talking(bench: Bench) -> Cells:
    return await _talking(bench, "transformers")


async def _talking(bench: Bench, engine: str) -> Cells:
    folder = bench.made("llama", lambda folder: gpu_models.language(folder, bench.is_small))
    served = Served(bench, "llm", folder, model_engine=engine)
    report = await served.loaded()
    count, tokens = (2, 8) if bench.is_small else (16, 128)
    item = {**served.example.items[0], "max_tokens": tokens, "ignore_eos": True}
    item = {name: value for name, value in item.items() if name in served.example.items[0]}
    began = time.monotonic()
    await asyncio.gather(*(served.ask([item]) for _ in range(count)))
    seconds = time.monotonic() - began
    return cells(report, f"{count * tokens / seconds:.0f} tokens/s at most", f"{count} answers at once, {engine}")


# ------------------------------------------------------------------------------------------------ memory


async def dozing(bench: Bench) -> Cells:
    """How fast the weights go and come back."""
    folder = bench.made("bert", lambda folder: gpu_models.encoder(folder, bench.is_small))
    served, size = Served(bench, "embedding", folder), gpu_models.weight_bytes(folder)
    report = await served.loaded()
    lines = texts(bench, 2)()
    first = await served.ask(lines)
    began = time.monotonic()
    await served.worker.doze(1)
    await served.until("dozing")
    dozed_s = time.monotonic() - began
    left = torch.cuda.memory_reserved() if bench.device == "cuda" else 0
    began = time.monotonic()
    await served.loaded()
    woken_s = time.monotonic() - began
    again = await served.ask(lines)
    if abs(np.asarray(first.outputs) - np.asarray(again.outputs)).max() > 1e-3:
        raise RuntimeError("it answers otherwise than before it dozed")
    note = f"dozed in {dozed_s:.2f} s, {left / 1e9:.2f} GB of the card kept, woken in {woken_s:.2f} s"
    return cells(report, f"{size / woken_s / 1e9:.2g} GB/s", note)


async def full_card(bench: Bench) -> Cells:
    """A card that others have filled: the model is not loaded, and the reason has numbers."""
    if bench.device != "cuda":
        raise NotHere("there is no card to fill")
    folder = bench.made("bert", lambda folder: gpu_models.encoder(folder, bench.is_small))
    context = multiprocessing.get_context("spawn")
    is_full, may_end = context.Event(), context.Event()
    stranger = context.Process(target=_fill, args=(is_full, may_end))
    stranger.start()
    try:
        await asyncio.to_thread(is_full.wait, 40)
        began = time.monotonic()
        try:
            await Served(bench, "embedding", folder).loaded()
        except Exception as error:
            if "GiB" not in str(error):
                raise
            return {"speed": f"refused after {time.monotonic() - began:.1f} s", "note": str(error)[:160]}
        raise RuntimeError("it was loaded into a full card")
    finally:
        may_end.set()
        stranger.join(10)


def _fill(is_full: Any, may_end: Any) -> None:
    kept = []
    for size in (2**30, 2**26, 2**22):
        try:
            while True:
                kept.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
        except torch.OutOfMemoryError:
            continue
    is_full.set()
    may_end.wait(120)


async def four_models(bench: Bench) -> Cells:
    """Four workers in processes of their own on one card, beside one alone."""
    folder = bench.made("bert", lambda folder: gpu_models.encoder(folder, bench.is_small))
    alone = await asyncio.to_thread(_rates, bench, folder, 1)
    together = await asyncio.to_thread(_rates, bench, folder, 4)
    note = f"one alone {sum(alone):.0f} texts/s; of four the slowest {min(together):.0f}"
    return {"speed": f"{sum(together):.0f} texts/s", "of the bound": "", "note": note}


def _rates(bench: Bench, folder: Path, count: int) -> list[float]:
    context = multiprocessing.get_context("spawn" if bench.device == "cuda" else "fork")
    answers, begin = context.Queue(), context.Barrier(count)
    workers = [context.Process(target=_embed, args=(bench, folder, begin, answers)) for _ in range(count)]
    for worker in workers:
        worker.start()
    try:
        rates = [answers.get(timeout=60) for _ in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
    if failed := [rate for rate in rates if isinstance(rate, str)]:
        raise RuntimeError(failed[0])
    return rates


def _embed(bench: Bench, folder: Path, begin: Any, answers: Any) -> None:
    async def measured() -> float:
        served = Served(bench, "embedding", folder)
        await served.loaded()
        await asyncio.to_thread(begin.wait, 60)
        return (await served.speed(texts(bench), _seconds(bench)))[0]

    try:
        answers.put(asyncio.run(measured()))
    # Told to the row, which fails with it.
    except Exception as error:
        begin.abort()
        answers.put(f"{type(error).__name__}: {error}")
    time.sleep(60)  # what it holds of the card stays until all have been measured


def _needs_program(name: str) -> None:
    if shutil.which(name) is None:
        raise NotHere(f"{name} is not installed")


async def tesseract(bench: Bench) -> Cells:
    _needs_program("tesseract")
    return await _reading(bench, Served(bench, "ocr", "tesseract", n_gpu=None))


ROWS = (
    Row("card", 20, card),
    Row("embedding packed", 40, encoding()),
    Row("embedding padded", 40, encoding(attn_implementation="sdpa")),
    Row("rerank", 40, rerank),
    Row("classify", 40, classify),
    Row("image eager", 60, drawing(compile=False)),
    Row("image compiled", 120, drawing(compile=True)),
    Row("image offload model", 40, drawing(compile=False, cpu_offload="model")),
    Row("image offload group", 40, drawing(compile=False, cpu_offload="group")),
    Row("image offload sequential", 60, drawing(compile=False, cpu_offload="sequential")),
    Row("image 8-bit", 60, drawing(compile=False, transformer_quantization="8-bit")),
    Row("image nf4", 40, drawing(compile=False, transformer_quantization="nf4")),
    Row("image fp4", 40, drawing(compile=False, transformer_quantization="4-bit")),
    Row("image fp8", 40, drawing(compile=False, transformer_quantization="fp8")),
    Row("ocr ppocr", 60, ppocr),
    Row("ocr documents", 60, document_model),
    Row("language vllm", 120, vllm),
    Row("language transformers", 60, talking),
    Row("doze and wake", 40, dozing),
    Row("four models", 90, four_models),
    Row("out of memory", 90, full_card),
)
