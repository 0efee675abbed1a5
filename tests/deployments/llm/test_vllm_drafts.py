"""A draft model of vLLM is loaded with the trust that its model has, so it is looked at before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster import errors
from cluster.catalog.entry import Entry, Source
from cluster.launch import LaunchSpec
from cluster.settings import Settings
from cluster.trust import may_run_code
from cluster.worker.family import Prospect, Setup
from deployments.llm.vllm import VllmLanguage
from tests.deployments.llm.checkpoints import save_language

TRUSTED = Source(hub="huggingface", id="them/theirs", revision="1" * 40)
#: No load comes so far that it starts anything.
SETTINGS = Settings(vllm_command="/no/vllm", remote_code=(f"huggingface:{TRUSTED.id}@{TRUSTED.revision}",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_language(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def coded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    coded = save_language(tmp_path_factory.mktemp("coded"))
    config = json.loads((coded / "config.json").read_text())
    (coded / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "code.Config"}}))
    return coded


@pytest.fixture(scope="module")
def pickled(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    pickled = tmp_path_factory.mktemp("pickled")
    (pickled / "config.json").write_bytes((folder / "config.json").read_bytes())
    (pickled / "pytorch_model.bin").write_bytes(b"pickle")
    return pickled


def refusals(folder: Path, draft: Path, source: Source, home: Path) -> list[str]:
    """Why it is refused, at the door and when it is to be loaded."""
    settings = SETTINGS.model_copy(update={"home": home})
    entry = Entry(name="theirs", type="llm", family="tiny", sources=(source,))
    options = VllmLanguage.Options(draft_model=str(draft), quantize="bitsandbytes")
    may = may_run_code(entry, source, settings.remote_code)
    given: dict[str, Any] = {"settings": settings, "remote_code": may, "allow_pickle": may}
    setup = Setup(entry, source, options, folder, "cpu", threads=1, **given)
    said = []
    try:
        VllmLanguage.needed(Prospect(LaunchSpec(model_name="theirs"), entry, source, options, settings, on_card=False))
    except errors.BadOption as refusal:
        said.append(refusal.message)
    with pytest.raises(errors.ClusterError) as refused:
        VllmLanguage().load(setup)
    return [*said, refused.value.message]


def test_the_trust_in_a_model_is_not_lent_to_its_draft(folder: Path, coded: Path, tmp_path: Path) -> None:
    assert ["brings code of its own" in said for said in refusals(folder, coded, TRUSTED, tmp_path)] == [True, True]
    # vLLM runs none of that code where the model is not trusted, and none is in the other draft.
    local = Source(hub="local", id=str(folder))
    for draft, source in ((coded, local), (folder, TRUSTED)):
        (said,) = refusals(folder, draft, source, tmp_path)
        assert "/no/vllm" in said


def test_a_draft_of_pickles_is_refused_whatever_the_model_may_be(folder: Path, pickled: Path, tmp_path: Path) -> None:
    for source in (TRUSTED, Source(hub="local", id=str(folder))):
        said = refusals(folder, pickled, source, tmp_path)
        assert ["draft_model takes a folder with safetensors" in each for each in said] == [True, True]


def test_a_draft_that_is_not_there_is_refused_where_the_model_is(folder: Path, tmp_path: Path) -> None:
    local = Source(hub="local", id=str(folder))
    assert [
        "draft_model takes a folder with safetensors" in each
        for each in refusals(folder, tmp_path / "no", local, tmp_path)
    ] == [True] * 2
    assert len(refusals(folder, tmp_path / "no", TRUSTED, tmp_path)) == 1
