"""Reads the same pages with our OCR, rapidocr and tesseract, in turns on one machine: mistakes, speed, memory.

`python -m benchmarks.ocr` prints a table; `--quick` leaves out the 500 pages. Each reader is a process of its own that
is told on its standard input what to read, so that they take turns and none pays for another's libraries.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HOME = Path.home() / ".cache" / "cluster-benchmarks"
ROOT = Path(__file__).parents[1]
CORES = len(os.sched_getaffinity(0))
RAPIDOCR = ("rapidocr==3.10.0", "onnxruntime==1.31.1", "opencv-python-headless")
#: What scikit-image's picture of a page says; a last line is cut in half there, and nobody can read it.
SCANNED = (
    "Region-based segmentation",
    "Let us first determine markers of the coins and the",
    "background. These markers are pixels that we can label",
    "unambiguously as either object or background. Here,",
    "the markers are found at the two extreme parts of the",
    "histogram of grey values:",
    ">>> markers = np.zeros_like(coins)",
)
CALLERS = 8
DOCUMENT_PAGES = 20
MANY_PAGES = 500

Read = Callable[[str], str]


# --------------------------------------------------------------------------------------- readers, as processes


def ours(threads: int) -> tuple[Read, int]:
    """Through the family as a worker has it, less what lies between a caller and the worker."""
    import importlib.util

    from cluster.catalog.catalog import Catalog
    from cluster.worker.family import Setup
    from deployments.ocr.ppocr.family import PpOcr, PpOcrOptions

    entry = Catalog.builtin().find("ppocr-v6", "ocr")
    package = importlib.util.find_spec("rapidocr")
    assert package is not None and package.submodule_search_locations
    family = PpOcr()
    family.load(
        Setup(
            entry=entry,
            source=entry.sources[0],
            options=PpOcrOptions(),
            folder=Path(package.submodule_search_locations[0]) / "models",
            device="cpu",
            threads=CORES,
        )
    )

    class Course:
        def check(self) -> None: ...

        def tell(self, fraction: float, stage: str, step: int = 0, steps: int = 0) -> None: ...

        def show(self, preview: bytes) -> None: ...

    def read(file: str) -> str:
        (value,) = family.prepare("ocr", [Path(file).read_bytes()], {}).values
        return family.stream(value, Course()).text

    return read, family.pace.parallel


def rapidocr(threads: int) -> tuple[Read, int]:
    """`threads` for each call, and as many engines as cores are left for."""
    import logging

    from rapidocr import RapidOCR

    logging.disable(logging.INFO)
    count = max(1, CORES // threads)
    free: queue.Queue[Any] = queue.Queue()
    for _ in range(count):
        free.put(RapidOCR(params={"EngineConfig.onnxruntime.intra_op_num_threads": threads}))

    def read(file: str) -> str:
        engine = free.get()
        try:
            return " ".join(engine(file).txts or ())
        finally:
            free.put(engine)

    return read, count


def tesseract(threads: int) -> tuple[Read, int]:
    environment = {**os.environ, "OMP_THREAD_LIMIT": str(threads)}

    def read(file: str) -> str:
        words = ["tesseract", file, "-", "--psm", "1", "-l", "eng"]
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout

    return read, max(1, CORES // threads)


READERS: dict[str, Callable[[int], tuple[Read, int]]] = {"ours": ours, "rapidocr": rapidocr, "tesseract": tesseract}


def serve(reader: str, threads: int) -> None:
    """Does what lines on the standard input say, and answers each with a line."""
    read, at_once = READERS[reader](threads)
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(carried_out(read, min(order["callers"], at_once), order["files"])), flush=True)


def carried_out(read: Read, callers: int, files: Sequence[str]) -> dict[str, Any]:
    waiting: queue.Queue[int] = queue.Queue()
    for number in range(len(files)):
        waiting.put(number)
    texts, seconds = [""] * len(files), [0.0] * len(files)

    def call() -> None:
        while True:
            try:
                number = waiting.get_nowait()
            except queue.Empty:
                return
            began = time.perf_counter()
            texts[number] = read(files[number])
            seconds[number] = time.perf_counter() - began

    started, used = time.perf_counter(), sum(os.times()[:4])
    threads = [threading.Thread(target=call) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "texts": texts,
        "seconds": seconds,
        "wall": time.perf_counter() - started,
        "cpu": sum(os.times()[:4]) - used,
        "rss": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
    }


class Reader:
    def __init__(self, name: str, threads: int, process: subprocess.Popen[str]) -> None:
        self.label = f"{name}, {threads} thread{'s' * (threads > 1)} a call" if name != "ours" else name
        self._process = process

    def __call__(self, files: Sequence[Path], callers: int = 1) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(
            json.dumps({"files": [str(file) for file in files], "callers": callers}),
            file=self._process.stdin,
            flush=True,
        )
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@contextmanager
def reader(name: str, threads: int) -> Iterator[Reader]:
    python = rapidocr_python() if name == "rapidocr" else sys.executable
    words = [str(python), "-m" if name == "ours" else str(Path(__file__))]
    words += ["benchmarks.ocr"] * (name == "ours") + ["--serve", name, "--threads", str(threads)]
    with subprocess.Popen(words, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield Reader(name, threads, process)
        finally:
            process.terminate()


def rapidocr_python() -> Path:
    folder = HOME / "rapidocr"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *RAPIDOCR], check=True)
    return python


# -------------------------------------------------------------------------------------------------- measuring


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--serve", choices=READERS)
    asked.add_argument("--threads", type=int, default=1)
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--quick", action="store_true")
    options = asked.parse_args()
    if options.serve:
        serve(options.serve, options.threads)
        return
    from contextlib import ExitStack

    with ExitStack() as stack:
        kinds = [("ours", CORES), ("rapidocr", 1), ("rapidocr", CORES)]
        if shutil.which("tesseract"):
            kinds.append(("tesseract", 1))
        readers = [stack.enter_context(reader(*kind)) for kind in kinds]
        measure(readers, options.rounds, options.quick)


def measure(readers: Sequence[Reader], rounds: int, quick: bool) -> None:
    from tests.pages import PAGES, dense, error_rate

    folder = HOME / "pages"
    folder.mkdir(parents=True, exist_ok=True)
    files, truths = [], []
    for name, draw in PAGES.items():
        drawn = draw()
        files.append(folder / f"{name.replace(' ', '_')}.png")
        files[-1].write_bytes(drawn.png)
        truths.append(drawn.lines)
    if (scanned := scanned_page(folder)) is not None:
        files.append(scanned)
        truths.append(SCANNED)
    print(f"{CORES} cores\n\nmistakes per character")
    for one in readers:
        rates = [error_rate(text, lines) for text, lines in zip(one(files)["texts"], truths, strict=True)]
        print(
            f"  {one.label:32}", *(f"{file.stem} {rate:.4f}" for file, rate in zip(files, rates, strict=True)), sep="  "
        )
    document = []
    for number in range(DOCUMENT_PAGES):
        document.append(folder / f"document_{number}.png")
        document[-1].write_bytes(dense(1000 + number).png)
    for title, work, callers in (
        ("one caller", files, 1),
        (f"{CALLERS} callers", files * 2, CALLERS),
        (f"{DOCUMENT_PAGES} dense pages at once", document, DOCUMENT_PAGES),
    ):
        print(f"\n{title}: pages a second, seconds to a page (median), CPU seconds to a page")
        for label, (rate, median, cpu) in table_of(readers, rounds, work, callers).items():
            print(f"  {label:32}  {rate:6.2f}  {median:6.2f}  {cpu:6.2f}", flush=True)
    if not quick:
        flat = [readers[0](files * (MANY_PAGES // 10 // len(files) + 1), CALLERS)["rss"] / 1e6 for _ in range(10)]
        print(f"\nours, memory in MB each {MANY_PAGES // 10} pages:", *(f"{one:.0f}" for one in flat))


def table_of(
    readers: Sequence[Reader], rounds: int, files: Sequence[Path], callers: int
) -> dict[str, tuple[float, float, float]]:
    """The best round of each: whatever else the machine did is not the reader's time."""
    found: dict[str, list[dict[str, Any]]] = {one.label: [] for one in readers}
    for _ in range(rounds):
        for one in readers:
            found[one.label].append(one(files, callers))
    table = {}
    for label, took in found.items():
        best = min(took, key=lambda one: one["wall"])
        cpu = min(one["cpu"] for one in took) / len(files)
        table[label] = (len(files) / best["wall"], statistics.median(best["seconds"]), cpu)
    return table


def scanned_page(folder: Path) -> Path | None:
    """Out of scikit-image's wheel, where it can be had."""
    file = folder / "scanned.png"
    if not file.exists():
        import zipfile

        where = HOME / "scikit-image"
        words = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(where), "scikit-image"]
        if not list(where.glob("*.whl")) and subprocess.run(words, check=False).returncode:
            return None
        with zipfile.ZipFile(next(where.glob("*.whl"))) as wheel:
            file.write_bytes(wheel.read("skimage/data/page.png"))
    return file


if __name__ == "__main__":
    main()
