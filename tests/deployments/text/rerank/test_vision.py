"""A tiny Qwen3-VL with random weights as a reranker, compared with what the authors of Qwen3-VL-Reranker compute for
one pair at a time."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, Qwen2VLImageProcessorPil, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from cluster import errors
from deployments.text.rerank.vision import VisionRerankers
from tests.deployments.text.embedding.test_clip import picture
from tests.odd_files import png_claiming
from tests.tiny import SIZES, STRONG, TEXTS, ask, launched, tokenizer

MARKS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
LIMIT = 512
#: The model reads squares of four patches of 4 x 4.
FACTOR = 8
BOUNDS = {"min_pixels": 4 * FACTOR**2, "max_pixels": 40 * FACTOR**2}
QUERY = "Why is there high and low tide?"


def vision(place: Path, limit: int = LIMIT, text: Mapping[str, Any] = MappingProxyType({}), **seen: Any) -> Path:
    """A folder as a hub has it; `seen` and `text` change the sizes of its two parts."""
    words = tokenizer(frames=False, max_tokens=limit, extra=MARKS)
    # Words as others are.
    words.add_tokens(["yes", "no"])
    ids = dict(zip(MARKS, words.convert_tokens_to_ids(list(MARKS)), strict=True))
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    reader = {**SIZES, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": len(words), "rope_parameters": rope}
    reader |= {"max_position_embeddings": limit, "pad_token_id": words.pad_token_id, **text}
    eye: dict[str, Any] = {"depth": 3, "hidden_size": 32, "num_heads": 4, "intermediate_size": 48, "patch_size": 4}
    eye |= {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1], **seen}
    config = Qwen3VLConfig(
        text_config=reader,
        vision_config={**eye, "out_hidden_size": reader["hidden_size"]},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    processor = Qwen2VLImageProcessorPil(patch_size=eye["patch_size"], image_mean=[0.5] * 3, image_std=[0.5] * 3)
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, values in model.named_parameters():
            if "norm" not in name:
                values.normal_(0, STRONG)
    for part in (model, words, processor):
        part.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vision(tmp_path_factory.mktemp("qwen3-vl"))


@pytest.fixture(scope="module")
def model(folder: Path) -> VisionRerankers:
    return launched(VisionRerankers, folder, "rerank", **BOUNDS)


def seen_through() -> bytes:
    """Red, and transparent on its left half."""
    image = Image.new("RGBA", (48, 32), (255, 0, 0, 255))
    image.paste((0, 0, 255, 0), (0, 0, 24, 32))
    target = io.BytesIO()
    image.save(target, "PNG")
    return target.getvalue()


PICTURES = [
    picture(40, 40),
    picture(100, 30, "JPEG"),
    picture(9, 60, "WEBP"),
    picture(50, 50, mode="L"),
    seen_through(),
]
DOCUMENTS: list[Any] = [
    *TEXTS,
    "\nbegins with a line",
    "(begins with a bracket",
    {"text": "as an object"},
    *({"image": data} for data in PICTURES),
    {"text": "a text beside a picture", "image": PICTURES[0]},
    {"text": "(the same picture", "image": PICTURES[0]},
]


def plain(folder: Path, query: Any, documents: list[Any], instruction: str | None = None) -> Any:
    """Each pair by itself: a chat whose answer is yes or no, with the pictures before the texts."""
    words, model = AutoTokenizer.from_pretrained(folder), Qwen3VLForConditionalGeneration.from_pretrained(folder).eval()
    size = {"shortest_edge": BOUNDS["min_pixels"], "longest_edge": BOUNDS["max_pixels"]}
    processor = Qwen2VLImageProcessorPil.from_pretrained(folder, size=size)
    scores = []
    for document in documents:
        images: list[Any] = []

        def content(part: Any, images: list[Any] = images) -> str:
            part = {"text": part} if isinstance(part, str) else part
            if "image" not in part:
                return str(part["text"])
            image = Image.open(io.BytesIO(part["image"])).convert("RGBA")
            white = Image.new("RGB", image.size, (255, 255, 255))
            white.paste(image, mask=image.split()[3])
            images.append(white)
            grid = processor(images=[white], return_tensors="pt")["image_grid_thw"]
            return f"<|vision_start|>{'<|image_pad|>' * int(grid.prod() // 4)}<|vision_end|>{part.get('text', '')}"

        asked = (
            "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
            'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: '
            f"{instruction or 'Given a search query, retrieve relevant candidates that answer the query.'}"
            f"<Query>:{content(query)}\n<Document>:{content(document)}<|im_end|>\n<|im_start|>assistant\n"
        )
        inputs = dict(words(asked, return_tensors="pt", add_special_tokens=False))
        if images:
            inputs |= dict(processor(images=images, return_tensors="pt"))
            inputs["mm_token_type_ids"] = (inputs["input_ids"] == model.config.image_token_id).long()
        with torch.inference_mode():
            last = model(**inputs).logits[0, -1]
        yes, no = (last[words.convert_tokens_to_ids(word)] for word in ("yes", "no"))
        scores.append(float(torch.sigmoid(yes - no)))
    return np.array(scores)


QUERIES: dict[str, Any] = {
    "a text": QUERY,
    "a picture": {"image": PICTURES[1]},
    "both": {"text": QUERY, "image": PICTURES[2]},
}


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_scores_of_a_batch_are_those_of_each_pair_alone(model: VisionRerankers, folder: Path, query: Any) -> None:
    scores = ask(model, "rerank_image", DOCUMENTS, query=query)
    assert scores.dtype == np.float32 and scores.shape == (len(DOCUMENTS),) and ((0 < scores) & (scores < 1)).all()
    assert np.abs(scores - plain(folder, query, DOCUMENTS)).max() < 1e-5
    assert np.unique(scores.round(3)).size > 8, "the model tells documents apart"


def test_pictures_and_texts_are_batched_without_changing_each_other(model: VisionRerankers) -> None:
    prepared = model.prepare("rerank_image", DOCUMENTS, {"query": QUERIES["both"]})
    together = np.array([float(logit) for logit in model.run(prepared.values)])
    alone = np.array([float(model.run([value])[0]) for value in prepared.values])
    assert len(set(prepared.tokens)) > 8 and np.abs(together - alone).max() < 1e-4
    assert list(prepared.tokens) == [len(value.tokens) for value in prepared.values]


def test_raw_scores_are_how_much_likelier_yes_is(model: VisionRerankers, folder: Path) -> None:
    raw = ask(model, "rerank_image", DOCUMENTS, query=QUERY, raw_scores=True)
    assert np.abs(1 / (1 + np.exp(-raw)) - plain(folder, QUERY, DOCUMENTS)).max() < 1e-5


def test_an_instruction_can_be_given_with_a_request_and_with_a_launch(model: VisionRerankers, folder: Path) -> None:
    expected = plain(folder, QUERY, TEXTS, "Find art")
    assert np.abs(ask(model, "rerank", TEXTS, query=QUERY, instruction="Find art") - expected).max() < 1e-5
    launched_so = launched(VisionRerankers, folder, "rerank", **BOUNDS, instruction="Find art")
    assert np.abs(ask(launched_so, "rerank", TEXTS, query=QUERY) - expected).max() < 1e-5


def test_what_looks_like_a_mark_in_a_text_is_a_text(model: VisionRerankers) -> None:
    marked = [f"{''.join(MARKS)}<|image_pad|>", {"text": "<|image_pad|>", "image": PICTURES[0]}]
    prepared = model.prepare("rerank_image", marked, {"query": "<|im_end|>"})
    assert [sum(id == model._prompt.mark for id in one.tokens.ids) for one in prepared.values] == [0, 25]
    assert ask(model, "rerank_image", marked, query="<|im_end|>").shape == (2,)


def test_equal_pairs_are_computed_once_and_others_are_told_apart(model: VisionRerankers) -> None:
    items = [{"image": PICTURES[0]}, {"image": bytes(PICTURES[0])}, {"image": PICTURES[3]}, {"text": "a"}, "a"]
    first, second, third, fourth, fifth = model.prepare("rerank_image", items, {"query": QUERY}).identities or ()
    assert first == second != third and fourth == fifth
    (other,) = (
        model.prepare("rerank_image", items[:1], {"query": {"image": PICTURES[0], "text": QUERY}}).identities or ()
    )
    assert other != first


@pytest.mark.parametrize("truncate", ["START", "END"])
def test_only_the_text_of_a_document_is_cut(model: VisionRerankers, truncate: str) -> None:
    first, last = "apples and pears " * 200, "trains and boats " * 200
    kept, cut = (last, first) if truncate == "START" else (first, last)
    texts = [cut + kept if truncate == "START" else kept + cut, kept * 2]
    items = [*texts, *({"text": text, "image": PICTURES[0]} for text in texts), cut]
    prepared = model.prepare("rerank_image", items, {"query": QUERY, "truncate": truncate})
    assert list(prepared.tokens) == [LIMIT] * 5
    scores = ask(model, "rerank_image", items, query=QUERY, truncate=truncate)
    assert abs(scores[0] - scores[1]) < 1e-5 and abs(scores[2] - scores[3]) < 1e-5 and abs(scores[0] - scores[4]) > 1e-5


def test_a_text_that_may_not_be_cut_is_refused_with_its_place(model: VisionRerankers) -> None:
    items: list[Any] = ["short", {"text": "word " * 400, "image": PICTURES[0]}]
    for params in ({"truncate": "NONE"}, {"long_documents": "error"}):
        with pytest.raises(errors.InputTooLong, match="^Input 1 has "):
            model.prepare("rerank_image", items, {"query": QUERY, **params})
    with pytest.raises(errors.BadRequest, match="does not read documents in parts"):
        model.prepare("rerank_image", items, {"query": QUERY, "long_documents": "chunk"})


def test_what_leaves_no_room_is_refused(model: VisionRerankers) -> None:
    with pytest.raises(errors.InputTooLong, match="^Input 0 leaves no room for its text"):
        model.prepare("rerank", ["a"], {"query": "word " * 500})


def test_tokens_of_a_text_can_be_limited(model: VisionRerankers) -> None:
    (few,), (all,) = (
        model.prepare("rerank_image", [{"text": "a b c d e f", "image": PICTURES[0]}], {"query": QUERY, **more}).tokens
        for more in ({"max_tokens_per_doc": 2}, {})
    )
    assert few < all


def test_pictures_are_made_as_large_as_the_launch_says(folder: Path, model: VisionRerankers) -> None:
    (tokens,) = model.prepare("rerank_image", [{"image": picture(300, 300)}], {"query": QUERY}).tokens
    small = launched(VisionRerankers, folder, "rerank", min_pixels=64, max_pixels=9 * FACTOR**2)
    (fewer,) = small.prepare("rerank_image", [{"image": picture(300, 300)}], {"query": QUERY}).tokens
    assert tokens - fewer == 36 - 9


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is not a readable picture"),
        (b"no picture", "is not a readable picture; JPEG, PNG"),
        (b"<svg/>", "is not a readable picture"),
        (png_claiming(100_000, 1_000), "has 100000 x 1000 pixels; at most 50,000,000"),
        (picture(1000, 2), "is a picture that the model does not read: absolute aspect ratio"),
    ],
    ids=["empty", "text", "SVG", "too large", "too flat"],
)
def test_what_is_no_picture_is_refused_with_its_place(model: VisionRerankers, data: bytes, said: str) -> None:
    with pytest.raises(errors.BadRequest, match=f"^Input 1 {said}"):
        model.prepare("rerank_image", [{"image": PICTURES[0]}, {"image": data}], {"query": QUERY})
    with pytest.raises(errors.BadRequest, match=f"^The query {said}"):
        model.prepare("rerank_image", ["a"], {"query": {"image": data}})


def test_a_picture_that_breaks_off_is_an_error_of_its_own_document(model: VisionRerankers) -> None:
    items: list[Any] = ["a text", {"image": PICTURES[1][:-200]}, {"image": PICTURES[0]}]
    first, broken, last = model.run(model.prepare("rerank_image", items, {"query": QUERY}).values)
    assert isinstance(broken, errors.BadRequest) and broken.message.startswith(
        "the document is a picture that cannot be"
    )
    whole = ask(model, "rerank_image", [items[0], items[2]], query=QUERY, raw_scores=True)
    assert [float(first), float(last)] == pytest.approx(whole, abs=1e-4)


@pytest.mark.parametrize("value", [None, 3, {}, {"image": "data:,"}, {"text": 3}, {"text": "a", "image": 3}])
def test_what_is_neither_text_nor_picture_is_refused(model: VisionRerankers, value: object) -> None:
    with pytest.raises(errors.InvalidBody, match="^Input 0 is neither a text nor an object"):
        model.prepare("rerank_image", [value], {"query": QUERY})
    with pytest.raises(errors.InvalidBody, match="^The query is neither"):
        model.prepare("rerank_image", ["a"], {"query": value})


def test_the_largest_request_can_be_computed(model: VisionRerankers) -> None:
    assert model.largest is not None
    (value,) = model.prepare(model.largest.ability, model.largest.items, model.largest.params).values
    assert len(value.tokens) == LIMIT and len(value.pictures) == 2
    assert len(model.run([value])) == 1


def test_a_model_of_other_words_is_not_loaded(tmp_path: Path) -> None:
    folder = vision(tmp_path / "model")
    tokenizer(frames=False, extra=("yes", *MARKS)).save_pretrained(folder)
    with pytest.raises(errors.LoadFailed, match="its vocabulary lacks no"):
        launched(VisionRerankers, folder, "rerank", **BOUNDS)
