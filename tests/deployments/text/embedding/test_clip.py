"""CLIP and SigLIP with random weights, compared with transformers itself."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from cluster import errors
from deployments.text.embedding.clip import Clip
from tests.odd_files import png_claiming
from tests.tiny import STRONG, TEXTS, ask, launched, tokenizer

SIDE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
NAMES = {"pad": "<pad>", "cls": "<start>", "sep": "<end>"}


def clip(place: Path) -> Path:
    words = tokenizer(max_tokens=40, names=NAMES)
    ids = {"bos_token_id": words.cls_token_id, "eos_token_id": words.sep_token_id, "pad_token_id": words.pad_token_id}
    text = {**SIDE, **ids, "vocab_size": len(words), "max_position_embeddings": 40}
    config = CLIPConfig(text_config=text, vision_config={**SIDE, "image_size": 32, "patch_size": 8}, projection_dim=16)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return whole(place, CLIPModel(config), words, processor)


def siglip(place: Path) -> Path:
    words = tokenizer(max_tokens=24, names=NAMES)
    words.model_input_names = ["input_ids"]
    text = {**SIDE, "vocab_size": len(words), "max_position_embeddings": 24, "pad_token_id": words.pad_token_id}
    vision = {**SIDE, "image_size": 32, "patch_size": 8}
    processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    return whole(place, SiglipModel(SiglipConfig(text_config=text, vision_config=vision)), words, processor)


def whole(place: Path, model: Any, words: Any, processor: Any) -> Path:
    torch.manual_seed(0)
    with torch.no_grad():
        for values in model.parameters():
            values.normal_(0, STRONG)
    model.eval().save_pretrained(place)
    words.save_pretrained(place)
    processor.save_pretrained(place)
    return place


KINDS = {"clip": (clip, CLIPImageProcessorPil), "siglip": (siglip, SiglipImageProcessorPil)}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, KINDS[request.param][0](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def model(kind: tuple[str, Path]) -> Clip:
    return launched(Clip, kind[1], "embedding")


def picture(width: int, height: int, format: str = "PNG", mode: str = "RGB") -> bytes:
    pixels = np.random.default_rng(width * height).integers(0, 255, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, format)
    return file.getvalue()


PICTURES = [
    picture(32, 32),
    picture(100, 40, "JPEG"),
    picture(20, 90, "WEBP"),
    picture(50, 50, mode="L"),
    picture(50, 50, mode="RGBA"),
    picture(40, 40, "GIF", "P"),
]


def test_texts_are_those_of_transformers(kind: tuple[str, Path], model: Clip) -> None:
    plain = AutoModel.from_pretrained(kind[1]).eval()
    words = tokenizer(max_tokens=40 if kind[0] == "clip" else 24, names=NAMES)
    expected = []
    for text in TEXTS:
        given = words(
            text, truncation=True, padding="max_length" if kind[0] == "siglip" else False, return_tensors="pt"
        )
        if kind[0] == "siglip":
            given = {"input_ids": given["input_ids"]}
        with torch.inference_mode():
            expected.append(plain.get_text_features(**given).pooler_output[0].numpy())
    raw = ask(model, "embed", TEXTS, normalize=False)
    assert np.abs(raw - np.stack(expected)).max() < 1e-5
    assert np.allclose(np.linalg.norm(ask(model, "embed", TEXTS), axis=1), 1, atol=1e-6)


def test_pictures_are_those_of_transformers(kind: tuple[str, Path], model: Clip) -> None:
    plain, processor = AutoModel.from_pretrained(kind[1]).eval(), KINDS[kind[0]][1].from_pretrained(kind[1])
    images = [Image.open(io.BytesIO(data)).convert("RGB") for data in PICTURES]
    with torch.inference_mode():
        expected = plain.get_image_features(**processor(images=images, return_tensors="pt")).pooler_output.numpy()
    found = ask(model, "embed_image", [{"image": data} for data in PICTURES], normalize=False)
    assert found.dtype == np.float32 and np.abs(found - expected).max() < 1e-5
    assert model.facts.dimensions == found.shape[1]  # type: ignore[attr-defined]


def test_both_lie_in_one_space_at_length_one(model: Clip) -> None:
    texts, pictures = ask(model, "embed", TEXTS), ask(model, "embed_image", [{"image": PICTURES[0]}])
    assert texts.shape[1] == pictures.shape[1] and abs(np.linalg.norm(pictures) - 1) < 1e-6


@pytest.mark.parametrize(
    "data",
    [b"", b"no picture", PICTURES[0][:60], PICTURES[1][:40], b"%PDF-1.4", b"<svg/>"],
    ids=["empty", "text", "a cut PNG", "a cut JPEG", "PDF", "SVG"],
)
def test_what_is_no_picture_is_refused_with_its_place(model: Clip, data: bytes) -> None:
    with pytest.raises(errors.BadRequest, match="^Input 1 is "):
        model.prepare("embed_image", [{"image": PICTURES[0]}, {"image": data}], {})


def test_a_picture_of_too_many_pixels_is_not_decoded(model: Clip) -> None:
    with pytest.raises(errors.BadRequest, match="^Input 0 has 100000 x 1000 pixels; at most 50,000,000"):
        model.prepare("embed_image", [{"image": png_claiming(100_000, 1_000)}], {})


@pytest.mark.parametrize("item", ["text", {"text": "a"}, {"image": "aGVsbG8="}, {"audio": b""}, None])
def test_what_holds_no_picture_is_refused(model: Clip, item: object) -> None:
    with pytest.raises(errors.InvalidBody, match="^Input 0 is not an object with `image`"):
        model.prepare("embed_image", [item], {})


def test_vectors_can_be_cut(model: Clip) -> None:
    found = ask(model, "embed_image", [{"image": PICTURES[0]}], dimensions=8)
    assert found.shape == (1, 8) and abs(np.linalg.norm(found) - 1) < 1e-6


def test_the_warm_up_example_can_be_run(model: Clip) -> None:
    assert ask(model, model.example.ability, model.example.items).shape == (2, model.facts.dimensions)  # type: ignore[attr-defined]
