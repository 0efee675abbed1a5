"""CLAP with random weights, compared with transformers itself. The sounds are generated here."""

from __future__ import annotations

import io
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

from cluster import errors
from deployments.text.embedding.clap import Clap, resampled, samples_of
from tests.tiny import SIZES, STRONG, TEXTS, ask, launched, tokenizer

RATE = 48_000


def sound(seconds: float = 1.0, rate: int = RATE, width: int = 2, channels: int = 1, hertz: float = 440) -> bytes:
    times = np.arange(int(seconds * rate)) / rate
    wave_of = 0.5 * np.sin(2 * np.pi * hertz * times)
    if width == 1:
        raw = np.rint(wave_of * 127 + 128).astype(np.uint8)[:, None]
    else:
        scaled = np.rint(wave_of * (2 ** (8 * width - 1) - 1)).astype("<i4")
        raw = scaled.view(np.uint8).reshape(-1, 4)[:, :width]
    file = io.BytesIO()
    with wave.open(file, "wb") as made:
        made.setnchannels(channels)
        made.setsampwidth(width)
        made.setframerate(rate)
        made.writeframes(np.repeat(raw[:, None], channels, axis=1).tobytes())
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("clap")
    words = tokenizer(max_tokens=64)
    text = {**SIZES, "vocab_size": len(words), "max_position_embeddings": 80, "pad_token_id": words.pad_token_id}
    audio = {
        "patch_embeds_hidden_size": 16,
        "hidden_size": 32,
        "depths": [1, 1],
        "num_attention_heads": [2, 2],
        "num_hidden_layers": 2,
        "spec_size": 256,
        "num_mel_bins": 64,
        "window_size": 8,
        "enable_fusion": False,
        "enable_patch_layer_norm": True,
    }
    torch.manual_seed(0)
    model = ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=16)).eval()
    with torch.no_grad():
        for name, values in model.named_parameters():
            if "norm" not in name:
                values.normal_(0, STRONG)
    model.save_pretrained(place)
    words.save_pretrained(place)
    ClapFeatureExtractor(feature_size=64, truncation="rand_trunc", padding="repeatpad").save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def model(folder: Path) -> Clap:
    return launched(Clap, folder, "embedding")


def plain(folder: Path, samples: list[Any]) -> Any:
    given = ClapFeatureExtractor.from_pretrained(folder)(samples, sampling_rate=RATE, return_tensors="pt")
    with torch.inference_mode():
        return ClapModel.from_pretrained(folder).eval().get_audio_features(**given).pooler_output.numpy()


def test_sounds_are_those_of_transformers(folder: Path, model: Clap) -> None:
    sounds = [sound(1), sound(3, hertz=220), sound(0.5, channels=2)]
    expected = plain(folder, [samples_of(one, 0)[0] for one in sounds])
    found = ask(model, "embed_audio", [{"audio": one} for one in sounds], normalize=False)
    assert found.dtype == np.float32 and np.abs(found - expected).max() < 1e-4


def test_texts_are_those_of_transformers(folder: Path, model: Clap) -> None:
    plain_model, words = ClapModel.from_pretrained(folder).eval(), tokenizer(max_tokens=64)
    with torch.inference_mode():
        expected = [
            plain_model.get_text_features(**words(text, truncation=True, return_tensors="pt")).pooler_output[0].numpy()
            for text in TEXTS
        ]
    assert np.abs(ask(model, "embed", TEXTS, normalize=False) - np.stack(expected)).max() < 1e-5


def test_a_long_sound_has_the_same_vector_each_time(model: Clap) -> None:
    one, other = (ask(model, "embed_audio", [{"audio": sound(12, hertz=300)}]) for _ in range(2))
    assert np.array_equal(one, other)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_samples_of_every_width_are_the_same_sound(width: int) -> None:
    samples, rate = samples_of(sound(width=width, channels=2), 0)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    assert rate == RATE and np.abs(samples - expected).max() < (0.02 if width == 1 else 1e-3)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_a_sound_of_another_rate_is_the_same_sound(rate: int) -> None:
    samples = resampled(*samples_of(sound(rate=rate), 0), RATE)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    middle = slice(2000, -2000)
    assert len(samples) == RATE and np.abs(samples[middle] - expected[middle]).max() < 1e-2


@pytest.mark.parametrize(
    "data",
    [b"", b"no sound", sound()[:30], sound(0), b"RIFF\x00\x00\x00\x00WAVE"],
    ids=["empty", "text", "cut", "no samples", "no format"],
)
def test_what_is_no_sound_is_refused_with_its_place(model: Clap, data: bytes) -> None:
    with pytest.raises(errors.BadRequest, match="^Input 1 is not a readable WAV sound"):
        model.prepare("embed_audio", [{"audio": sound()}, {"audio": data}], {})


def test_a_sound_of_too_many_seconds_is_refused(model: Clap) -> None:
    with pytest.raises(errors.BadRequest, match="it has 700 seconds, at most 600 are read"):
        model.prepare("embed_audio", [{"audio": sound(700, rate=1000)}], {})
