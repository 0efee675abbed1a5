"""Texts and sounds in one space: CLAP. Sounds are WAV files of any rate."""

from __future__ import annotations

import io
import wave
from pathlib import Path
from typing import ClassVar

import numpy as np

from cluster import errors
from cluster.value import JsonObject
from deployments.text.embedding.paired import Paired
from deployments.vectors import Arrays, Floats

MOST_SECONDS = 600


class Clap(Paired):
    engines: ClassVar[tuple[str, ...]] = (*Paired.engines, "clap")
    abilities: ClassVar[tuple[str, ...]] = ("embed", "embed_audio", "tokenize", "decode", "tokens")
    modality: ClassVar[str] = "audio"

    def _prepare_media(self, folder: Path, common: JsonObject) -> None:
        import transformers

        self._extractor = transformers.ClapFeatureExtractor.from_pretrained(folder, local_files_only=True)
        self._fuses = bool(self._model.config.audio_config.enable_fusion)

    def _read(self, data: bytes, place: int) -> Arrays:
        rate = int(self._extractor.sampling_rate)
        sound = resampled(*samples_of(data, place), rate)
        if not self._fuses:
            # The extractor would cut out ten seconds at a random place.
            sound = sound[: self._extractor.nb_max_samples]
        features = self._extractor(sound, sampling_rate=rate, return_tensors="np")
        return {
            "input_features": features["input_features"][0],
            "is_longer": np.asarray(features["is_longer"]).reshape(-1),
        }


def samples_of(data: bytes, place: int) -> tuple[Floats, int]:
    """One channel of samples from -1 to 1, and their rate."""
    try:
        with wave.open(io.BytesIO(data)) as file:
            rate, width, channels, frames = (
                file.getframerate(),
                file.getsampwidth(),
                file.getnchannels(),
                file.getnframes(),
            )
            if not frames or not rate:
                raise wave.Error("it has no samples")
            if frames > MOST_SECONDS * rate:
                raise wave.Error(f"it has {frames / rate:.0f} seconds, at most {MOST_SECONDS} are read")
            raw = np.frombuffer(file.readframes(frames), np.uint8)
    except (wave.Error, EOFError, ValueError) as error:
        reason = str(error) or "it ends early"
        raise errors.BadRequest(f"Input {place} is not a readable WAV sound: {reason}.", "input") from None
    raw = raw[: len(raw) // (width * channels) * width * channels].reshape(-1, width)
    if width == 1:
        samples = (raw[:, 0].astype(np.float32) - 128) / 128
    else:
        # The bytes of a sample, small ones first, put at the large end of 32 bits.
        wide = np.zeros((len(raw), 4), np.uint8)
        wide[:, 4 - width :] = raw
        samples = wide.view("<i4")[:, 0].astype(np.float32) / 2**31
    return samples.reshape(-1, channels).mean(axis=1, dtype=np.float32), rate


def resampled(samples: Floats, rate: int, wanted: int) -> Floats:
    if rate == wanted:
        return samples
    from scipy.signal import resample_poly  # type: ignore[import-untyped]

    common = int(np.gcd(rate, wanted))
    at_rate = resample_poly(samples, wanted // common, rate // common)
    return np.asarray(at_rate, np.float32)
