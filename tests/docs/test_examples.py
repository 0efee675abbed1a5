"""The examples in docs/examples do what they say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from cluster import errors
from cluster.cli.models_file import read_models
from cluster.launch import LaunchSpec
from cluster.settings import Settings
from cluster.worker.family import Batched, Setup
from deployments import catalog_with, model_types, resolve
from docs.examples import language, trigrams
from tests.attacks.standing_in import StandIn, asked, run
from tests.attacks.standing_in import settings as ingress_settings
from tests.live import ROOT, LiveCluster, until

EXAMPLES = ROOT / "docs" / "examples"
PLUGINS = ("docs.examples.trigrams", "docs.examples.language")


def answers(family: Batched, setup: Setup, ability: str, items: list[str]) -> Any:
    """Asks a family the way a worker does."""
    family.load(setup)
    return family.pack(list(family.run(family.prepare(ability, items, {}).values)), {})


def setup(module: object, options: object) -> Setup:
    entry, source = module.ENTRY, module.SOURCE  # type: ignore[attr-defined]
    return Setup(entry=entry, source=source, options=options, folder=EXAMPLES, device="cpu", threads=1)


def test_the_family_of_40_lines_has_no_more() -> None:
    code = (EXAMPLES / "trigrams.py").read_text()
    body = code[code.index("class TrigramOptions") : code.index("SOURCE =")]
    assert len([line for line in body.splitlines() if line.strip()]) <= 40


def test_texts_that_share_letters_have_near_vectors() -> None:
    given = setup(trigrams, trigrams.TrigramOptions(dimensions=256))
    first, near, far = answers(trigrams.Trigrams(), given, "embed", ["a walking dog", "dogs walk", "quick tulip"])
    assert first.shape == (256,) and np.isclose(np.linalg.norm(first), 1)
    assert first @ near > 2 * abs(first @ far)


def test_a_language_is_told_by_its_common_words() -> None:
    family, given = language.CommonWords(), setup(language, language.CommonWordsOptions())
    texts = ["the cat and the dog", "der Hund und die Katze", "le chat et la souris"]
    assert answers(family, given, "language", texts) == ["en", "de", "fr"]
    with pytest.raises(errors.BadRequest, match="must be a text"):
        family.prepare("language", [1], {})


def test_plugins_bring_their_types_and_an_unknown_option_is_refused() -> None:
    assert {"trigrams", "language"} <= set(model_types(PLUGINS))
    settings = Settings(home=Path("/nowhere"), plugins=PLUGINS)
    catalog = catalog_with([], settings)
    # The same as `cluster launch --model-name trigrams --dimensions 256` sends.
    wanted = resolve(LaunchSpec(model_name="trigrams", options={"dimensions": 256}), catalog, settings)
    assert wanted.abilities == ("embed",) and wanted.family == "docs.examples.trigrams:Trigrams"
    with pytest.raises(errors.BadOption, match="dimensions"):
        resolve(LaunchSpec(model_name="trigrams", options={"dimension": 256}), catalog, settings)


def test_each_model_of_the_list_can_be_launched() -> None:
    settings = Settings(home=Path("/nowhere"))
    with (EXAMPLES / "models.yaml").open() as file:
        specs = read_models(file)
    wanted = [resolve(spec, catalog_with([], settings), settings) for spec in specs]
    assert [(model.uid, model.replica) for model in wanted] == [("vectors", 2), ("ce-tiny", 1)]


def test_the_route_of_the_plugin_is_there_and_checks_its_body(tmp_path: Path) -> None:
    async def test() -> None:
        place = ingress_settings(tmp_path).model_copy(update={"plugins": PLUGINS})
        async with asked(place, StandIn({"m": None})) as client:
            wrong = await client.post("/v1/language", json={"model": "m", "inputs": ["le chat"]})
            assert wrong.status_code == 422 and "input: Field required" in wrong.text
            # The model of the stand-in has no such type.
            unable = await client.post("/v1/language", json={"model": "m", "input": ["le chat"]})
            assert unable.status_code == 400 and "Model m cannot language" in unable.text

    run(test())


@pytest.fixture
def http(live: LiveCluster) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=live.url, timeout=30) as client:
        yield client


def test_the_examples_serve(live: LiveCluster, http: httpx.Client) -> None:
    with live.client() as client:
        client.launch_model("trigrams", model_uid="example-family", dimensions=64)
        client.launch_model("common-words", model_uid="example-type")
        answer = http.post("/v1/embeddings", json={"model": "example-family", "input": "hello"})
        assert answer.status_code == 200 and len(answer.json()["data"][0]["embedding"]) == 64
        answer = http.post("/v1/language", json={"model": "example-type", "input": ["le chat et la souris"]})
        assert answer.json() == {"model": "example-type", "languages": ["fr"]}
        for uid in ("example-family", "example-type"):
            client.terminate_model(uid)
        until(lambda: not {"example-family", "example-type"} & set(client.list_models()), within=10)
