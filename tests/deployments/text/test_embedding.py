"""The installed weights, compared with what sentence-transformers computes from them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tiktoken
from sentence_transformers import SentenceTransformer

from cluster import errors
from cluster.catalog.catalog import Catalog
from cluster.settings import Settings
from cluster.weights.locate import locate
from cluster.worker.family import Setup
from deployments.text.embedding.sentence_transformers import SentenceTransformers
from deployments.text.facts import EmbeddingFacts
from deployments.text.models import EmbeddingOptions
from deployments.text.token_ids import vocabulary_of
from tests.live import VOCABULARIES

ENTRY = Catalog.builtin().find("all-MiniLM-L6-v2")
ENTRY = ENTRY.model_copy(
    update={"facts": {**ENTRY.facts, "prompts": {"query": "search for: ", "passage": "text: ", "code": "def "}}}
)
SOURCE = ENTRY.sources[0]
FOLDER = locate(SOURCE, home=Settings().home)
#: Sums in another order differ by about 1e-7, while a wrong mask, pooling or token makes 1e-2.
CLOSE = 1e-5

TEXTS = [
    "The weather is lovely today.",
    "",
    "x",
    "   spaces   before and after   ",
    "Grüße aus Zürich, naïve café",
    "今天天气很好",
    "🙂🙃 emoji and \u200bzero width",
    "line\nbreaks\tand tabs",
    "a word " * 60,
    "a very long text that is cut " * 400,
    "The weather is lovely today.",
]


SHORT = TEXTS[:7]


def load(**options: Any) -> SentenceTransformers:
    family = SentenceTransformers()
    family.load(Setup(ENTRY, SOURCE, family.Options(**options), FOLDER, "cpu", threads=1))
    return family


@pytest.fixture(scope="module")
def model() -> SentenceTransformers:
    return load()


@pytest.fixture(scope="module")
def reference() -> SentenceTransformer:
    return SentenceTransformer(str(FOLDER), device="cpu", local_files_only=True)


@pytest.fixture(scope="module")
def expected(reference: SentenceTransformer) -> dict[str, Any]:
    """The vector of each text by sentence-transformers."""
    return dict(zip(TEXTS, reference.encode(TEXTS), strict=True))


def embed(model: SentenceTransformers, items: Sequence[Any], **params: Any) -> Any:
    return model.pack(list(model.run(model.prepare("embed", items, params).values)), params)


# -------------------------------------------------------------------------------------------------------- parity


def test_vectors_are_those_of_sentence_transformers(model: SentenceTransformers, expected: dict[str, Any]) -> None:
    found = embed(model, TEXTS)
    assert found.shape == (len(TEXTS), 384) and found.dtype == np.float32 and found.flags["C_CONTIGUOUS"]
    for text, row in zip(TEXTS, found, strict=True):
        assert np.abs(row - expected[text]).max() < CLOSE, text[:30]


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_a_batch_does_not_matter(model: SentenceTransformers, expected: dict[str, Any], seed: int) -> None:
    texts = random.Random(seed).choices(TEXTS, k=20)
    for text, row in zip(texts, embed(model, texts), strict=True):
        assert np.abs(row - expected[text]).max() < CLOSE, text[:30]


@pytest.mark.parametrize("text", dict.fromkeys(TEXTS), ids=lambda text: ascii(text[:10]))
def test_a_text_has_the_same_vector_alone_as_among_others(
    model: SentenceTransformers, expected: dict[str, Any], text: str
) -> None:
    assert np.abs(embed(model, [text])[0] - expected[text]).max() < CLOSE


def test_equal_texts_have_equal_vectors(model: SentenceTransformers) -> None:
    found = embed(model, ["one", *SHORT, "one"])
    assert np.abs(found[0] - found[-1]).max() < CLOSE


def test_half_precision_is_near(expected: dict[str, Any]) -> None:
    found = embed(load(torch_dtype="bfloat16"), SHORT)
    assert found.dtype == np.float32
    assert (found * [expected[text] for text in SHORT]).sum(axis=1).min() > 0.99


def test_no_texts_are_no_vectors(model: SentenceTransformers) -> None:
    assert embed(model, []).shape == (0, 384)


def test_what_is_told_of_the_model_is_so() -> None:
    family = SentenceTransformers()
    told = family.load(Setup(ENTRY, SOURCE, family.Options(dimensions=64, max_tokens=16), FOLDER, "cpu", threads=1))
    prompts = ("code", "passage", "query")
    assert told == EmbeddingFacts(
        dimensions=64, max_tokens=16, dtype="float32", prompts=prompts, packed=True, engine="torch"
    )
    assert embed(family, ["a"]).shape == (1, 64)
    assert family.prepare("embed", ["word " * 100], {}).tokens == [16]


def test_the_warm_up_example_can_be_run(model: SentenceTransformers) -> None:
    example = model.example
    assert embed(model, example.items, **example.params).shape == (len(example.items), 384)


# ------------------------------------------------------------------------------------- dimensions and lengths


@pytest.mark.parametrize("dimensions", [1, 64, 383])
def test_fewer_dimensions_are_the_first_ones_at_length_one(
    model: SentenceTransformers, expected: dict[str, Any], dimensions: int
) -> None:
    cut = np.stack([expected[text][:dimensions] for text in SHORT])
    cut /= np.linalg.norm(cut, axis=1, keepdims=True)
    assert np.abs(embed(model, SHORT, dimensions=dimensions) - cut).max() < CLOSE


def test_all_dimensions_are_the_vector_as_it_is(model: SentenceTransformers) -> None:
    assert np.array_equal(embed(model, SHORT, dimensions=384), embed(model, SHORT))


def test_cut_vectors_stay_as_they_are_when_that_is_asked_for(model: SentenceTransformers) -> None:
    assert np.array_equal(embed(model, SHORT, dimensions=64, normalize=False), embed(model, SHORT)[:, :64])


def test_normalized_vectors_have_length_one(model: SentenceTransformers) -> None:
    assert np.allclose(np.linalg.norm(embed(model, SHORT, normalize=True), axis=1), 1, atol=1e-6)


def test_a_request_wins_over_the_launch() -> None:
    model = load(dimensions=64, normalize=False)
    assert embed(model, ["a"]).shape == (1, 64)
    assert embed(model, ["a"], dimensions=32).shape == (1, 32)
    assert np.linalg.norm(embed(model, ["a"])) < 0.9
    assert abs(np.linalg.norm(embed(model, ["a"], normalize=True)) - 1) < 1e-6


@pytest.mark.parametrize("dimensions", [0, -1, 385])
def test_dimensions_that_the_model_does_not_have_are_refused(model: SentenceTransformers, dimensions: int) -> None:
    with pytest.raises(errors.BadRequest) as caught:
        model.prepare("embed", ["a"], {"dimensions": dimensions})
    assert caught.value.message == f"dimensions must be 1 to 384 for this model, not {dimensions}."
    assert caught.value.param == "dimensions"


# ------------------------------------------------------------------------------------------------------- prompts


@pytest.mark.parametrize(
    ("params", "prompt"),
    [
        pytest.param({"prompt_name": "query"}, "search for: ", id="its name"),
        pytest.param({"prompt_name": "code"}, "def ", id="its own name"),
        pytest.param({"prompt_name": "search_query"}, "search for: ", id="Cohere's query"),
        pytest.param({"prompt_name": "retrieval.query"}, "search for: ", id="Jina's query"),
        pytest.param({"prompt_name": "document"}, "text: ", id="Voyage's document"),
        pytest.param({"prompt_name": "search_document"}, "text: ", id="Cohere's document"),
        pytest.param({"prompt_name": "retrieval.passage"}, "text: ", id="Jina's passage"),
        pytest.param({"prompt_name": "clustering"}, "", id="a role it has no prompt for"),
        pytest.param({"prompt": "mine: "}, "mine: ", id="one of one's own"),
        pytest.param({"prompt": "", "prompt_name": "query"}, "", id="none at all"),
        pytest.param({}, "", id="none asked for"),
    ],
)
def test_a_prompt_is_put_before_every_text(
    model: SentenceTransformers, reference: SentenceTransformer, params: dict[str, Any], prompt: str
) -> None:
    assert np.abs(embed(model, SHORT, **params) - reference.encode(SHORT, prompt=prompt)).max() < CLOSE


def test_an_unknown_prompt_is_refused_with_those_there_are(model: SentenceTransformers) -> None:
    with pytest.raises(errors.BadRequest) as caught:
        model.prepare("embed", ["a"], {"prompt_name": "questions"})
    assert caught.value.message == "The model has no prompt 'questions'; it has code, passage, query."
    assert caught.value.param == "prompt_name"


def test_a_prompt_can_be_chosen_at_launch(reference: SentenceTransformer) -> None:
    found = embed(load(prompt_name="query"), SHORT)
    assert np.abs(found - reference.encode(SHORT, prompt="search for: ")).max() < CLOSE


def test_a_launch_with_an_unknown_prompt_fails() -> None:
    with pytest.raises(errors.BadOption, match="has no prompt 'questions'"):
        load(prompt_name="questions")


# ---------------------------------------------------------------------------------------------------- truncation


def test_the_end_or_the_start_of_a_long_text_is_read(
    model: SentenceTransformers, reference: SentenceTransformer
) -> None:
    first, last = "apples and pears " * 100, "trains and boats " * 100
    assert np.abs(embed(model, [first + last])[0] - reference.encode(first)).max() < CLOSE
    cut = embed(model, [first + last], truncate="START")[0]
    assert np.abs(cut - embed(model, [last], truncate="START")[0]).max() < CLOSE
    assert np.abs(cut - reference.encode(first)).max() > 0.01


@pytest.mark.parametrize("truncate", ["NONE", "none", False])
def test_a_text_that_may_not_be_cut_is_refused_with_its_place_and_length(
    model: SentenceTransformers, truncate: object
) -> None:
    with pytest.raises(errors.InputTooLong) as caught:
        model.prepare("embed", ["short", "word " * 300], {"truncate": truncate})
    assert caught.value.message.startswith("Input 1 has 302 tokens, the model reads 256;")
    model.prepare("embed", ["word " * 254], {"truncate": truncate})


def test_ids_that_may_not_be_cut_are_refused_with_their_place_and_length(model: SentenceTransformers) -> None:
    with pytest.raises(errors.InputTooLong) as caught:
        model.prepare("embed", [[101, 102], [101] * 300], {"truncate": "NONE", "token_ids": "model"})
    assert caught.value.message.startswith("Input 1 has 300 tokens, the model reads 256")


def test_the_place_is_counted_among_all_inputs(model: SentenceTransformers) -> None:
    with pytest.raises(errors.InputTooLong) as caught:
        model.prepare("embed", [[101, 102], "short", "word " * 300], {"truncate": "NONE", "token_ids": "model"})
    assert caught.value.message.startswith("Input 2 has 302 tokens")


# ---------------------------------------------------------------------------------------------- inputs and usage


def test_token_ids_are_the_text_they_stand_for(
    model: SentenceTransformers, reference: SentenceTransformer, expected: dict[str, Any]
) -> None:
    ids = [reference.tokenizer(text)["input_ids"] for text in SHORT]
    assert np.abs(embed(model, ids, token_ids="model") - [expected[text] for text in SHORT]).max() < CLOSE


def test_texts_ids_and_objects_can_be_mixed(model: SentenceTransformers, reference: SentenceTransformer) -> None:
    ids = reference.tokenizer("two")["input_ids"]
    found = embed(model, ["one", ids, {"text": "three"}, "four"], token_ids="model")
    assert np.abs(found - reference.encode(["one", "two", "three", "four"])).max() < CLOSE


@pytest.mark.parametrize("token", [-1, 30522, 100257, True])
def test_ids_of_another_vocabulary_are_refused(model: SentenceTransformers, token: int) -> None:
    with pytest.raises(errors.InvalidBody, match="OpenAI's are read with token_ids=cl100k_base"):
        model.prepare("embed", [[101, token]], {"token_ids": "model"})


def test_ids_of_which_nobody_says_whose_they_are_are_not_read(model: SentenceTransformers) -> None:
    for ids in ([101, 7592, 102], [9906, 1917]):
        with pytest.raises(errors.BadRequest, match="token_ids=cl100k_base .* token_ids=model") as caught:
            model.prepare("embed", ["a", ids], {})
        assert caught.value.status == 400 and caught.value.param == "input"


@pytest.mark.parametrize("said", ["cl100k", "cl100k_base"])
def test_ids_of_openai_are_the_text_behind_them(
    model: SentenceTransformers, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(VOCABULARIES))
    text = "Grüße aus Zürich, with tea."
    ids = tiktoken.get_encoding("cl100k_base").encode(text)
    assert np.abs(embed(model, [ids], token_ids=said) - embed(model, [text])).max() < 1e-6
    with pytest.raises(errors.InvalidBody, match="not those of cl100k_base"):
        model.prepare("embed", [[2_000_000]], {"token_ids": said})


def test_whose_ids_they_are_may_be_said_at_the_launch() -> None:
    assert EmbeddingOptions(token_ids="cl100k").token_ids == "cl100k_base"
    assert vocabulary_of({}, "cl100k_base") == "cl100k_base"
    assert vocabulary_of({"token_ids": "model"}, "cl100k_base") == "model"
    with pytest.raises(errors.BadRequest, match="takes model or cl100k_base, not 'gpt2'"):
        vocabulary_of({"token_ids": "gpt2"}, None)


@pytest.mark.parametrize("item", [None, 5, {"image": "x"}, {"text": 5}, {}])
def test_what_is_no_text_is_refused(model: SentenceTransformers, item: object) -> None:
    with pytest.raises(errors.InvalidBody, match="An input is a text or a list of token ids"):
        model.prepare("embed", ["a", item], {})


def test_tokens_are_counted_as_the_model_reads_them(
    model: SentenceTransformers, reference: SentenceTransformer
) -> None:
    expected = [len(reference.tokenizer(text, truncation=True, max_length=256)["input_ids"]) for text in TEXTS]
    assert list(model.prepare("embed", TEXTS, {}).tokens) == expected
    assert list(model.prepare("embed", ["a"], {"prompt_name": "query"}).tokens) == [6]


def test_ids_can_be_turned_back_into_tokens(model: SentenceTransformers) -> None:
    prepared = model.prepare("tokens", [101, "7592", 102], {})
    assert prepared.answers == ["[CLS]", "hello", "[SEP]"]
    assert not prepared.values
