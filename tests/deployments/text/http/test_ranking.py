from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import errors
from cluster.settings import Settings
from deployments.ingress.serving import Serving
from deployments.text.http.ranking import ranking_in

URI = "data:image/png;base64,AAAA"


def test_texts_and_objects_with_a_text_are_texts() -> None:
    documents = ["a", {"text": "b", "id": 3}, {"text": "", "image": None}, {"text": "d", "image": ""}]
    ranking = ranking_in({"query": {"text": "q"}, "documents": documents})
    assert (ranking.query, ranking.documents) == ("q", ["a", "b", "", "d"])
    assert [ranking.returned(place) for place in range(4)] == [{"text": "a"}, *documents[1:]]


def test_objects_with_an_image_keep_nothing_but_that_and_their_text() -> None:
    sent = [{"image": URI, "id": 3}, {"text": "b", "image": URI}, "c"]
    ranking = ranking_in({"query": {"image": URI, "score": 1}, "documents": sent})
    assert ranking.query == {"image": URI} and ranking.documents == [{"image": URI}, {"text": "b", "image": URI}, "c"]
    assert ranking.texts == [URI, "b", "c"] and ranking.returned(0) == sent[0]


def test_bare_texts_are_what_the_types_say() -> None:
    ranking = ranking_in({"query": "q", "documents": [URI, {"text": "a"}], "doc_type": "image", "query_type": "text"})
    assert ranking.query == "q" and ranking.documents == [{"image": URI}, "a"]
    assert ranking.returned(0) == {"image": URI} and ranking.returned(1) == {"text": "a"}
    assert ranking_in({"query": URI, "documents": ["a"], "query_type": "image"}).query == {"image": URI}


@pytest.mark.parametrize(
    ("changes", "param", "said"),
    [
        ({"documents": []}, "documents", "documents must be a list of at least one document."),
        ({"documents": ["a", 3]}, "documents", "documents 1 must be a text or an object with `text`, `image` or both."),
        ({"documents": [{"title": "a"}]}, "documents", "documents 0 must be a text or an object whose `text` or"),
        ({"documents": [{"text": "a", "image": 3}]}, "documents", "documents 0 must be a text or an object whose"),
        (
            {"documents": [{"video": URI}]},
            "documents",
            "documents 0 has a video, and only texts and pictures are ranked",
        ),
        ({"query": None}, "query", "query must be a text or an object with"),
        ({"query": {"video": URI}}, "query", "query has a video"),
        ({"doc_type": "video"}, "doc_type", "doc_type takes text or image, not 'video'."),
    ],
)
def test_what_cannot_be_ranked_is_named(changes: dict[str, Any], param: str, said: str) -> None:
    with pytest.raises(errors.BadRequest) as caught:
        ranking_in({"query": "q", "documents": ["a"], **changes})
    assert caught.value.message.startswith(said) and caught.value.param == param


@pytest.mark.parametrize(
    ("query", "documents"),
    [("a" * 11, ["b"]), ("a", ["b" * 6, {"image": URI, "text": "c" * 5}]), ({"image": URI, "text": "a" * 11}, ["b"])],
    ids=["the query", "the documents", "beside a picture"],
)
def test_no_more_characters_are_ranked_than_are_allowed(query: Any, documents: list[Any]) -> None:
    """Bodies may be larger, for pictures."""
    nobody: Any = SimpleNamespace()
    serving = Serving(nobody, Settings(_env_file=None, max_text_bytes=10))  # type: ignore[call-arg]
    with pytest.raises(errors.TooLarge, match="11 characters, 10 are allowed"):
        asyncio.run(serving.rank(nobody, "m", query, documents, {}))
