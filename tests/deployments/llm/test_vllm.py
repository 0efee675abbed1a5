"""Language models by vLLM, for which a scripted engine stands in: the real family, its child and their faults."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster import errors
from cluster.launch import LaunchSpec
from cluster.settings import Settings
from cluster.worker.exhaustion import is_out_of_memory
from cluster.worker.peak import children
from deployments import catalog_with, resolve
from deployments.llm import vllm_engine
from deployments.llm.token_stream import Broken, TokenStream
from deployments.llm.vllm import VllmLanguage
from tests import scripted_engine, tiny
from tests.deployments.llm.checkpoints import save_language
from tests.deployments.llm.letters import Told
from tests.live import until

PATIENCE_S = 60
ENGINE = Path(scripted_engine.__file__)
PROMPT = [11, 12, 13, 14, 15]
#: What ends the engine, and what breaks a single answer.
ENDS, BREAKS = ("core", "server", "exit"), ("cut", "end", "error")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_language(tmp_path_factory.mktemp("llama"))


class Engine:
    """The script of an engine, and what became of it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.was_lost = threading.Event()

    @property
    def command(self) -> str:
        return f"{sys.executable} {ENGINE} --script={self.file}"

    def write(self, **script: Any) -> None:
        self.file.write_text(json.dumps(script))

    @property
    def words(self) -> list[str]:
        return json.loads(self.file.with_suffix(".words").read_text())

    @property
    def asked(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.file.with_suffix(".asked").read_text().splitlines()]

    def processes(self) -> list[psutil.Process]:
        """Guard, server and core."""
        living = []
        for process in psutil.process_iter(["cmdline", "status"]):
            words = process.info["cmdline"] or []
            if any(str(self.file) in word for word in words) and process.info["status"] != psutil.STATUS_ZOMBIE:
                living.append(process)
        return living

    def process(self, kind: str) -> psutil.Process:
        for process in self.processes():
            words = process.cmdline()
            is_guard = any(word.endswith("engine_guard.py") for word in words)
            name = "guard" if is_guard else "core" if "--core" in words else "server"
            if name == kind:
                return process
        raise AssertionError(f"there is no {kind}")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(tmp_path / "script.json")
    yield engine
    until(lambda: not engine.processes(), within=PATIENCE_S, why="something is left of the engine")


@pytest.fixture
def family(engine: Engine, folder: Path) -> Iterator[VllmLanguage]:
    family = loaded(engine, folder)
    yield family
    family.unload()


def loaded(engine: Engine, folder: Path, **options: Any) -> VllmLanguage:
    class Spared(VllmLanguage):
        lost = staticmethod(engine.was_lost.set)

    settings = Settings(vllm_command=engine.command, load_stall_s=options.pop("load_stall_s", 1800.0))
    family: VllmLanguage = tiny.launched(Spared, folder, "llm", settings=settings, **options)
    return family


class Talk(Told):
    """An answer on its way, and when each part of it came."""

    def __init__(self, family: VllmLanguage, **request: Any) -> None:
        self.times: list[float] = []
        self.has_begun, self.has_ended = threading.Event(), threading.Event()
        super().__init__(family, {"prompt": PROMPT, "max_tokens": 12, **request})

    def take(self, piece: object) -> None:
        super().take(piece)
        self.times.append(time.monotonic())
        (self.has_begun if self.outcome is None else self.has_ended).set()

    def ended(self) -> Talk:
        assert self.has_ended.wait(PATIENCE_S)
        return self


# ------------------------------------------------------------------------------------------------------ answers


def test_an_answer_comes_in_pieces_with_its_chances_and_what_was_kept(engine: Engine, family: VllmLanguage) -> None:
    engine.write(step_s=0.01)
    talk = Talk(family, logprobs=True, top_logprobs=1).ended()
    (choice,) = talk.reply.choices
    assert choice.text == family.vocabulary.text_of([PROMPT[place % 5] for place in range(12)])
    assert len(talk.pieces) > 3 and choice.finish == "length"
    assert tuple(talk.reply.usage[:3]) == (5, 12, 2)
    assert len(choice.chances) == 12
    assert all(
        chance.logprob == -0.5 and len(chance.top) == 1 and chance.top[0][0] == chance.text for chance in choice.chances
    )


def test_what_was_asked_and_launched_reaches_the_engine(engine: Engine, folder: Path) -> None:
    family = loaded(engine, folder, context_length=512, slots=3, cache_gb=0.01, quantize="fp8", enforce_eager=True)
    words = engine.words
    expected = {"--model": str(folder), "--max-model-len": "512", "--max-num-seqs": "3", "--quantization": "fp8"}
    expected |= {"--tensor-parallel-size": "1", "--dtype": "float32", "--load-format": "safetensors"}
    assert {name: words[words.index(name) + 1] for name in expected} == expected
    assert "--enforce-eager" in words and "--trust-remote-code" not in words
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    format = {"type": "json_schema", "schema": schema}
    Talk(family, temperature=0.5, top_k=3, seed=2**64 - 1, n=2, format=format, stop=["zzz"]).ended()
    Talk(family, ignore_eos=True, format={"type": "choice", "choice": ["a", "b"]}).ended()
    first, second, third = engine.asked
    assert first["prompt"] == PROMPT and [first["seed"], second["seed"]] == [2**63 - 1, 0]
    assert (first["temperature"], first["top_k"], first["structured_outputs"]) == (0.5, 3, {"json": schema})
    assert third["structured_outputs"] == {"choice": ["a", "b"]} and third["stop_token_ids"] == []
    assert first["stop_token_ids"] == sorted(family.vocabulary.ends) and "seed" not in third
    family.unload()


def test_a_request_names_one_of_the_adapters(engine: Engine, folder: Path, tmp_path: Path) -> None:
    for name, rank in (("tea", 4), ("bread", 20)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_model.safetensors").write_bytes(b"")
        (tmp_path / name / "adapter_config.json").write_text(json.dumps({"r": rank}))
    adapters = [{"lora_name": name, "local_path": str(tmp_path / name)} for name in ("tea", "bread")]
    family = loaded(engine, folder, lora_modules=adapters)
    words = engine.words
    at = words.index("--lora-modules")
    assert [json.loads(word)["path"] for word in words[at + 1 : at + 3]] == [
        str(tmp_path / "tea"),
        str(tmp_path / "bread"),
    ]
    assert words[words.index("--max-lora-rank") + 1] == "32" and "--enable-lora" in words
    Talk(family, adapter="bread").ended()
    Talk(family).ended()
    assert [asked["model"] for asked in engine.asked] == [json.loads(words[at + 2])["name"], "model"]
    with pytest.raises(errors.BadRequest, match="The model has no adapter coffee, it has bread, tea"):
        Talk(family, adapter="coffee")
    family.unload()


def test_an_adapter_that_is_none_fails_the_launch(engine: Engine, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.LoadFailed, match=r"has no adapter_model\.safetensors"):
        loaded(engine, folder, lora_modules={"tea": str(tmp_path)})
    with pytest.raises(errors.BadOption, match="is outside of the folders that may be used"):
        settings = Settings(home=tmp_path / "home", vllm_command="vllm", model_roots=(folder,))
        spec = {"model_name": "mine", "model_type": "llm", "model_path": str(folder), "model_engine": "vllm"}
        asked = {**spec, "lora_modules": {"tea": "/etc"}}
        resolve(LaunchSpec.model_validate(asked), catalog_with([], settings), settings)


def test_messages_are_written_by_the_models_own_template(engine: Engine, family: VllmLanguage) -> None:
    Talk(family, prompt=None, messages=[{"role": "user", "content": "Tea"}]).ended()
    written = family.vocabulary.text_of(engine.asked[0]["prompt"], False)
    assert written.startswith("[CLS]") and written.count("[SEP]") == 1 and written.count("[CLS]") == 2


def test_a_stopped_answer_leaves_the_engine_to_the_others(engine: Engine, family: VllmLanguage) -> None:
    engine.write(step_s=0.05)
    long = Talk(family, max_tokens=1500)
    assert long.has_begun.wait(PATIENCE_S)
    long.stop()
    assert isinstance(long.ended().outcome, errors.RequestCancelled)
    long.stop()
    before = time.monotonic()
    Talk(family, max_tokens=4).ended()
    assert time.monotonic() - before < 40, "the stopped one would have taken 75 s"


def test_a_stop_string_ends_an_answer_in_the_engine_too(engine: Engine, family: VllmLanguage) -> None:
    engine.write(step_s=0.05)
    word = family.vocabulary.text_of(PROMPT[2:3])
    talk = Talk(family, max_tokens=1500, stop=[word]).ended()
    assert talk.reply.choices[0].finish == "stop" and word not in talk.text


def test_what_the_engine_refuses_is_the_callers_fault(engine: Engine, family: VllmLanguage) -> None:
    engine.write(refuse="the grammar is too large")
    outcome = Talk(family).ended().outcome
    assert isinstance(outcome, errors.BadRequest) and "vLLM refuses this: the grammar is too large" in outcome.message
    assert len(engine.asked) == 1 and not engine.was_lost.is_set()


# ------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("what", BREAKS)
def test_an_answer_that_breaks_before_its_first_piece_is_asked_for_again(
    what: str, engine: Engine, family: VllmLanguage
) -> None:
    engine.write(at=0, do=what, once=8)
    talks = [Talk(family) for _ in range(8)]
    assert [len(talk.ended().reply.choices[0].text) > 0 for talk in talks] == [True] * 8
    assert len({talk.text for talk in talks}) == 1 and len(engine.asked) == 16
    assert not engine.was_lost.is_set()


@pytest.mark.parametrize("what", BREAKS)
def test_an_answer_that_breaks_later_is_an_error_and_the_others_go_on(
    what: str, engine: Engine, family: VllmLanguage
) -> None:
    engine.write(at=3, do=what, once=1, step_s=0.02)
    first = Talk(family)
    assert first.has_begun.wait(PATIENCE_S)
    others = [Talk(family) for _ in range(6)]
    assert isinstance(first.ended().outcome, errors.InferenceFailed), first.outcome
    print(f"\n{what}: the error came {first.times[-1] - first.times[-2]:.3f} s after the last piece")
    assert first.times[-1] - first.times[-2] < 5
    assert "broken its answer off" in first.outcome.message and first.text
    assert all(talk.ended().reply.usage.completion == 12 for talk in others)
    assert not engine.was_lost.is_set()


def test_an_answer_without_an_end_says_so(engine: Engine, family: VllmLanguage) -> None:
    engine.write(at=2, do="end")
    assert "it ended without a reason" in Talk(family).ended().outcome.message


@pytest.mark.parametrize("at", [0, 3])
@pytest.mark.parametrize("what", ENDS)
def test_the_end_of_the_engine_is_told_to_all_and_leaves_nothing(
    what: str, at: int, engine: Engine, family: VllmLanguage
) -> None:
    engine.write(at=at, do=what, step_s=0.02)
    talks = [Talk(family) for _ in range(6)]
    for talk in talks:
        # Whoever has had no piece is asked elsewhere for this error, and for no other.
        assert isinstance(talk.ended().outcome, errors.WorkerLost), talk.outcome
        assert talk.outcome.message.startswith("The engine of this model is lost: ")
    late = [talk.times[-1] - talk.times[-2] for talk in talks if len(talk.times) > 1]
    print(f"\n{what} at {at}: the error came {max(late, default=0):.3f} s after the last piece")
    assert max(late, default=0) < 5
    assert engine.was_lost.wait(PATIENCE_S)
    until(lambda: not engine.processes(), within=PATIENCE_S)
    # Nothing is asked of what is not there.
    assert isinstance(Talk(family).ended().outcome, errors.WorkerLost)


def test_an_engine_that_hangs_is_lost(engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_engine, "HEALTH_S", 0.5)
    family = loaded(engine, folder)
    family.engine._hung_s = 2.0  # type: ignore[attr-defined]
    engine.write(at=3, do="hang", step_s=0.01)
    talk = Talk(family).ended()
    assert isinstance(talk.outcome, errors.WorkerLost)
    assert "it has neither said that it is well nor written anything" in talk.outcome.message
    assert engine.was_lost.wait(PATIENCE_S)
    family.unload()


@pytest.mark.parametrize("kind", ["server", "core", "guard"])
def test_any_of_its_processes_killed_while_nobody_asks_is_the_end_of_all(
    kind: str, engine: Engine, family: VllmLanguage
) -> None:
    engine.process(kind).kill()
    assert engine.was_lost.wait(PATIENCE_S)
    until(lambda: not engine.processes(), within=PATIENCE_S)


IGNORING = """
import signal, sys, threading
from deployments.llm.engine_child import EngineChild

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
has_ended = threading.Event()
print(EngineChild(sys.argv[1:], {"PATH": "/usr/bin:/bin"}, has_ended.set).group, flush=True)
has_ended.wait(60) and print("ended", flush=True)
"""

OWNER = """
import sys, threading
from deployments.llm.engine_child import EngineChild

def begin():
    child = EngineChild(sys.argv[1:], {"PATH": "/usr/bin:/bin"}, lambda: None)
    print(child.group, flush=True)
    threading.Event().wait(600)

thread = threading.Thread(target=begin)
thread.start()
thread.join()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_owners_death_leaves_nothing(number: int, engine: Engine, tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWNER, *engine.command.split(), f"--uds={tmp_path / 's'}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None and int(owner.stdout.readline())
        until(lambda: len(engine.processes()) == 4, within=PATIENCE_S, why="owner, guard, server and core")
        owner.send_signal(number)
        killed = time.monotonic()
        until(lambda: not engine.processes(), within=PATIENCE_S)
        print(f"\nall gone {time.monotonic() - killed:.2f} s after signal {number}")


@pytest.mark.parametrize("kind", ["guard", "server", "core"])
def test_a_stopped_process_is_ended_as_well(kind: str, engine: Engine, folder: Path) -> None:
    family = loaded(engine, folder)
    stopped = engine.process(kind)
    os.kill(stopped.pid, signal.SIGSTOP)
    family.unload() if kind != "guard" else os.kill(stopped.pid, signal.SIGKILL)
    until(lambda: not engine.processes(), within=PATIENCE_S)
    family.unload()


# --------------------------------------------------------------------------------------------------------- load


@pytest.mark.parametrize(
    ("load", "said"),
    [
        ("memory", "CUDA out of memory. Tried to"),
        ("exit", "The engine ended: RuntimeError: Engine core initialization failed"),
        ("silent", "neither answered nor written to its log for 5 s: it is loaded"),
    ],
)
def test_a_load_that_fails_says_why(load: str, said: str, engine: Engine, folder: Path) -> None:
    engine.write(load=load)
    with pytest.raises(errors.ClusterError) as caught:
        loaded(engine, folder, load_stall_s=6.0 if load == "silent" else 1800.0)
    assert said in caught.value.message
    assert is_out_of_memory(caught.value) == (load == "memory")
    until(lambda: not engine.processes(), within=PATIENCE_S)


def test_a_command_that_is_not_there_is_said(folder: Path) -> None:
    settings = Settings(vllm_command="/nowhere/bin/python -m vllm")
    with pytest.raises(errors.LoadFailed, match="The engine ended: .*/nowhere/bin/python"):
        tiny.launched(VllmLanguage, folder, "llm", settings=settings)


def test_unloading_leaves_nothing(engine: Engine, folder: Path) -> None:
    family = loaded(engine, folder)
    assert len(engine.processes()) == 3
    # Ray has a worker kill its children when it ends; the guard must outlive it.
    assert not set(psutil.Process().children(recursive=True)) & set(engine.processes())
    # Their memory is the worker's all the same.
    assert set(children()) >= {process.pid for process in engine.processes()}
    place = family.engine._folder  # type: ignore[attr-defined]
    assert oct(place.stat().st_mode)[-3:] == "700"
    before = {process.pid for process in engine.processes()}
    family.unload()
    # A process closes its end of the pipe a moment before it is gone.
    until(lambda: not engine.processes() and not before & set(children()), within=PATIENCE_S)
    assert not place.exists()
    assert not engine.was_lost.is_set()


def test_an_owner_that_ignores_the_ends_of_its_children_hears_of_the_engines(engine: Engine, tmp_path: Path) -> None:
    """As Ray's workers do."""
    command = [sys.executable, "-c", IGNORING, *engine.command.split(), f"--uds={tmp_path / 's'}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None and int(owner.stdout.readline())
        until(lambda: len(engine.processes()) == 4, within=PATIENCE_S)
        engine.process("guard").kill()
        assert owner.stdout.readline() == b"ended\n"
        assert owner.wait(PATIENCE_S) == 0


# --------------------------------------------------------------------------------------------- before it is loaded


def wanted(path: Path, command: str = "python -m vllm", **fields: Any) -> Any:
    settings = Settings(home=path.parent / "home", vllm_command=command)
    asked = {"model_name": "mine", "model_type": "llm", "model_path": str(path), "model_engine": "vllm", **fields}
    return resolve(LaunchSpec.model_validate(asked), catalog_with([], settings), settings)


def test_it_is_launched_by_its_engine_where_there_is_one(folder: Path) -> None:
    assert wanted(folder).family == "deployments.llm.vllm:VllmLanguage"
    with pytest.raises(errors.BadOption, match="vLLM is not installed here: .* CLUSTER_VLLM_COMMAND"):
        wanted(folder, "")


def test_what_it_cannot_load_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.BadOption, match="The model's 4 heads cannot be shared out over 3 cards"):
        wanted(folder, n_gpu=3)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(errors.BadRequest, match="is GGUF, which vLLM does not read"):
        wanted(tmp_path / "model.gguf")
    with pytest.raises(errors.BadOption, match="vllm_command"):
        wanted(folder, vllm_command="rm")


def test_more_cards_and_more_kept_tokens_need_more_memory(folder: Path) -> None:
    one, two = wanted(folder, n_gpu=1).on_card, wanted(folder, n_gpu=2).on_card
    assert two.card_bytes > one.card_bytes > 2_000_000_000 and two.memory_bytes > one.memory_bytes
    assert wanted(folder, n_gpu=1, lora_modules={"tea": "/tea"}).on_card.card_bytes > one.card_bytes
    kept = [wanted(folder, cache_gb=size, slots=256).claim_bytes for size in (0.05, 0.1)]
    assert kept[1] - kept[0] == pytest.approx(50_000_000, rel=0.01)


# ---------------------------------------------------------------------------------------------------- its stream


def events(*told: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in told) + b"data: [DONE]\n\n"


def token(*ids: int, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "token_ids": list(ids), "finish_reason": finish}]}


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_a_stream_cut_anywhere_says_the_same(size: int) -> None:
    usage = {"choices": [], "usage": {"prompt_tokens_details": {"cached_tokens": 3}}}
    data, stream = events(token(1), token(2, 3), token(4, finish="stop"), token(5), usage), TokenStream()
    ids: list[int] = []
    for start in range(0, len(data), size):
        ids += stream.add(data[start : start + size]).ids
    last = stream.end()
    assert [*ids, *last.ids] == [1, 2, 3, 4, 5] and (last.finish, last.cached) == ("stop", 3)


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (events(token(1)), Broken, "it ended without a reason"),
        (events(token(1, finish="abort")), Broken, "it ended with abort"),
        (events({"error": {"message": "no", "code": 500}}), Broken, "no"),
        (events({"error": {"message": "no", "code": 400}}), errors.BadRequest, "vLLM refuses this: no"),
        (b"data: {nothing}\n\n", Broken, "it is no JSON"),
        (events({"choices": [{"text": "a"}]}), errors.InferenceFailed, "tells no token ids"),
    ],
)
def test_a_stream_that_is_none_says_why(data: bytes, error: type[Exception], said: str) -> None:
    stream = TokenStream()
    with pytest.raises(error, match=said):
        stream.add(data)
        stream.end()
