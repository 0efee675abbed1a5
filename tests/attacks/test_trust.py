"""A caller who tries to have his own code run under a trusted name, or to have the operator's token sent to his
host."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from cluster import errors
from cluster.catalog.catalog import Catalog
from cluster.catalog.entry import Entry, Source
from cluster.catalog.registrations import parse_registration
from cluster.facts import ModelFacts
from cluster.launch import LaunchSpec, Wanted
from cluster.settings import Settings
from cluster.status import Claim, Report
from cluster.trust import may_run_code
from cluster.versioned import Versioned
from cluster.weights.locate import locate
from cluster.worker.family import Setup
from cluster.worker.loading import ModelLoader
from cluster.worker.worker import Worker
from deployments import catalog_with, resolve
from deployments.device import refuse_foreign_code
from tests.families import Echo
from tests.hub import Hub
from tests.make import make_wanted

TRUSTED = "jina-embeddings-v2-base-en"
COMMIT = "7302ac470bed880590f9344bfeee32ff8722d0e5"
WEIGHTS = {"config.json": b"{}", "model.safetensors": bytes(100_000)}


class Looking(Echo):
    """Reports what its worker would trust."""

    setups: list[Setup] = []  # noqa: RUF012

    def load(self, setup: Setup) -> ModelFacts:
        self.setups.append(setup)
        return super().load(setup)


def setup_of(wanted: Wanted, settings: Settings) -> Setup:
    Looking.setups.clear()
    worker = Worker("worker:m:1:0-a", wanted, Claim(), settings)
    worker._model._loader.load(worker._model.family, Path("/nowhere"), threads=1)
    return Looking.setups[0]


def looking(entry: Entry, source: Source) -> Wanted:
    family = f"{Looking.__module__}:{Looking.__qualname__}"
    return make_wanted().model_copy(update={"entry": entry, "source": source, "family": family})


# ------------------------------------------------------------------------------------------------------ whose code


def test_a_callers_folder_does_not_become_trusted_by_the_name_it_is_launched_under(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, remote_code=TRUSTED)
    spec = LaunchSpec(model_name=TRUSTED, model_path=str(tmp_path))
    with pytest.raises(errors.BadRequest, match="never taken from a folder") as refusal:
        resolve(spec, Catalog.builtin(), settings)
    assert refusal.value.param == "model_path"


@pytest.mark.parametrize("name", [TRUSTED, "all-MiniLM-L6-v2"])
def test_a_worker_runs_no_code_of_a_callers_folder(name: str, tmp_path: Path) -> None:
    """This holds also for a model that an earlier version stored, and for a model that needs no code but is listed as
    trusted."""
    entry, settings = Catalog.builtin().find(name), Settings(home=tmp_path, remote_code=name)
    assert not setup_of(looking(entry, Source(hub="local", id=str(tmp_path))), settings).remote_code
    own = entry.sources[0]
    assert setup_of(looking(entry, own), settings).remote_code
    assert not setup_of(looking(entry, own), Settings(home=tmp_path)).remote_code


@pytest.mark.parametrize(
    "change",
    [{"id": "mallory/jina-embeddings-v2-base-en"}, {"revision": "b" * 40}, {"revision": "main"}, {"revision": None}],
    ids=str,
)
def test_a_name_is_no_trust_in_another_repository_or_commit(change: dict[str, Any]) -> None:
    entry = Catalog.builtin().find(TRUSTED)
    assert may_run_code(entry, entry.sources[0], [TRUSTED])
    assert not may_run_code(entry, entry.sources[0].model_copy(update=change), [TRUSTED])


def test_a_registration_under_a_trusted_name_is_not_trusted(tmp_path: Path) -> None:
    text = {"model_name": "mine", "model_id": "mallory/mine", "model_revision": COMMIT, "remote_code": True}
    entry = parse_registration("embedding", json.dumps(text))
    settings = Settings(home=tmp_path, remote_code="mine")
    with pytest.raises(errors.BadRequest, match=f"CLUSTER_REMOTE_CODE=huggingface:mallory/mine@{COMMIT}"):
        resolve(LaunchSpec(model_name="mine"), catalog_with([entry], settings), settings)
    hostile = entry.model_copy(update={"name": TRUSTED})
    assert not may_run_code(hostile, hostile.sources[0], [TRUSTED])


def test_pickles_of_a_callers_repository_are_not_trusted_beside_a_pinned_model(tmp_path: Path) -> None:
    entry = Catalog.builtin().find(TRUSTED)
    wanted = looking(entry, entry.sources[0])
    loader = ModelLoader(wanted, Claim(), Settings(home=tmp_path), "cuda", Versioned(Report()))
    assert loader.may_unpickle(entry.sources[0])
    assert not loader.may_unpickle(Source(hub="huggingface", id="mallory/controlnet"))
    assert not loader.may_unpickle(Source(hub="local", id=str(tmp_path)))


@pytest.mark.parametrize("place", ["config.json", "1_Custom/config.json"])
def test_trust_in_a_repository_does_not_reach_the_one_that_its_config_names(place: str, tmp_path: Path) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text(json.dumps({"auto_map": {"AutoModel": "mallory/code--modeling.Model"}}))
    entry = Catalog.builtin().find(TRUSTED)
    setup = Setup(entry, entry.sources[0], None, tmp_path, "cpu", 1, remote_code=True)
    with pytest.raises(errors.LoadFailed, match="mallory/code, of which no commit is trusted"):
        refuse_foreign_code(setup)


# ----------------------------------------------------------------------------------------------------- whose token


class _Stranger(BaseHTTPRequestHandler):
    """A host that records everything it is sent."""

    def do_GET(self) -> None:
        self.server.heard.append(str(self.headers))  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        self.wfile.write(WEIGHTS["model.safetensors"])

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def stranger() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), _Stranger)
    server.heard = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    for name in ("HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN", "MODELSCOPE_DOMAIN"):
        monkeypatch.delenv(name, raising=False)
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", "hf_operator")
        monkeypatch.setenv("MODELSCOPE_API_TOKEN", "ms_operator")
        hub.add("org/tiny", WEIGHTS, token="hf_operator")
        yield hub


@pytest.mark.parametrize("kind", ["huggingface", "modelscope"])
def test_a_token_stays_with_its_endpoint_when_the_answer_leads_elsewhere(
    kind: Any, hub: Hub, stranger: HTTPServer, tmp_path: Path
) -> None:
    hub.elsewhere = f"http://127.0.0.1:{stranger.server_port}"
    if kind == "modelscope":
        hub.repositories["org/tiny"].token = "ms_operator"
    folder = locate(Source(hub=kind, id="org/tiny"), home=tmp_path)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS["model.safetensors"]
    heard = stranger.heard  # type: ignore[attr-defined]
    assert len(heard) == 1 and "operator" not in heard[0] and "Cookie" not in heard[0]
    assert hub.tokens and all("operator" in token for token in hub.tokens)


def test_each_hub_gets_its_own_token_only(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with Hub() as other:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", other.url)
        other.add("org/tiny", WEIGHTS, token="ms_operator")
        locate(Source(hub="huggingface", id="org/tiny"), home=tmp_path)
        locate(Source(hub="modelscope", id="org/tiny"), home=tmp_path)
        assert set(hub.tokens) == {"Bearer hf_operator"}
        assert set(other.tokens) == {"Bearer ms_operator", "m_session_id=ms_operator"}


def test_a_saved_login_goes_to_hugging_face_and_to_no_mirror(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from cluster.weights import hubs

    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_saved")
    assert hubs.HuggingFace().headers == {}
    monkeypatch.delenv("HF_ENDPOINT")
    assert hubs.HuggingFace().headers == {"Authorization": "Bearer hf_saved"}
    (tmp_path / "token").write_text("hf_given\n")
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    assert hubs.HuggingFace().headers == {"Authorization": "Bearer hf_given"}


def test_a_launch_cannot_name_the_endpoint(hub: Hub, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, allow_envs="HF_ENDPOINT")
    spec = LaunchSpec(model_name="all-MiniLM-L6-v2", envs={"HF_ENDPOINT": "http://127.0.0.1:1"})
    with pytest.raises(errors.BadOption, match="HF_ENDPOINT"):
        resolve(spec, Catalog.builtin(), settings)
