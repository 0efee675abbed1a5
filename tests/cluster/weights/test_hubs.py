from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import errors
from cluster.catalog.entry import Source
from cluster.weights.locate import locate
from tests.hub import Hub

FILES = {"config.json": b"{}", "model.safetensors": os.urandom(100_000)}
TOKENS = {"huggingface": "HF_TOKEN", "modelscope": "MODELSCOPE_API_TOKEN"}


def test_a_gated_model_asks_for_a_token(
    hub: Hub, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/tiny", FILES, token="hf_secret")
    for token in ("", "hf_wrong"):
        monkeypatch.setenv(TOKENS[source.hub], token)
        with pytest.raises(
            errors.DownloadFailed, match=rf"\(401\): it is gated or private.*set {TOKENS[source.hub]} to"
        ):
            locate(source, home=tmp_path)
    # The storage behind the redirect refuses a request that still carries the token.
    monkeypatch.setenv(TOKENS[source.hub], "hf_secret")
    assert (locate(source, home=tmp_path) / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_a_model_or_revision_that_is_not_there_is_named(hub: Hub, source: Source, tmp_path: Path) -> None:
    hub.add("org/tiny", FILES)
    for wrong in ({"id": "org/none"}, {"revision": "v9"}):
        missing = source.model_copy(update=wrong)
        with pytest.raises(errors.DownloadFailed, match=r"has no org/(none|tiny@v9) \(404\)"):
            locate(missing, home=tmp_path)


def test_a_busy_hub_is_asked_again(hub: Hub, source: Source, tmp_path: Path) -> None:
    hub.add("org/tiny", FILES)
    hub.answer(503)
    assert locate(source, home=tmp_path)


def test_a_hub_that_stays_busy_does_not_stop_a_cached_model(hub: Hub, source: Source, tmp_path: Path) -> None:
    hub.add("org/tiny", FILES)
    folder = locate(source, home=tmp_path)
    hub.answer(503)
    assert locate(source, home=tmp_path) == folder


def test_what_is_no_hub_is_said_to_be_none(hub: Hub, source: Source, tmp_path: Path) -> None:
    hub.add("org/tiny", FILES)
    hub.answer(200)
    with pytest.raises(errors.DownloadFailed, match=r"did not answer as a model hub does .* check \w+_ENDPOINT"):
        locate(source, home=tmp_path)


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "a/../../evil"])
def test_names_that_lead_elsewhere_are_refused(hub: Hub, source: Source, name: str, tmp_path: Path) -> None:
    hub.add("org/tiny", {**FILES, name: b"evil"})
    with pytest.raises(errors.DownloadFailed, match="with names outside of its folder"):
        locate(source, home=tmp_path)
    assert not list(tmp_path.rglob("evil"))


def run_client(code: str, hub: Hub, home: Path) -> str:
    """Runs the hubs' own clients in a separate process, since they read their environment only once and store things in
    the home folder."""
    environment = {**os.environ, "HOME": str(home), "HF_ENDPOINT": hub.url, "MODELSCOPE_ENDPOINT": hub.url}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_hubs_own_clients_accept_the_hub_of_these_tests(hub: Hub, tmp_path: Path) -> None:
    hub.add("org/tiny", FILES)
    hugging_face = "from huggingface_hub import snapshot_download as get"
    model_scope = "from modelscope_hub.compat.snapshot_download import snapshot_download as get"
    for client in (hugging_face, model_scope):
        folder = run_client(f"{client}; print(get('org/tiny', cache_dir={str(tmp_path)!r}))", hub, tmp_path)
        assert {name: Path(folder, name).read_bytes() for name in FILES} == FILES


def test_hugging_faces_client_reads_our_cache(hub: Hub, tmp_path: Path) -> None:
    commit = hub.add("org/tiny", FILES)
    folder = locate(Source(hub="huggingface", id="org/tiny"), home=tmp_path)
    hub.requests.clear()
    cache = str(tmp_path / "weights" / "huggingface")
    code = f"""
from huggingface_hub import scan_cache_dir, snapshot_download
print(snapshot_download("org/tiny", cache_dir={cache!r}, local_files_only=True))
[repository] = scan_cache_dir({cache!r}).repos
[revision] = repository.revisions
print(repository.repo_id, revision.commit_hash, *revision.refs, len(revision.files))
"""
    assert run_client(code, hub, tmp_path).splitlines() == [str(folder), f"org/tiny {commit} main 2"]
    assert hub.requests == []
