"""What a request asks for each page, checked before anything is read.

Every dialect fills it in the ingress, and the worker checks it again. Imports no library.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from cluster.value import JsonObject

#: The longest side of a picture; a launch limits the pixels further.
MOST_SIDE = 20_000
#: The most tokens that a generating model may write about one page.
MOST_TOKENS = 32_768

Task = Literal["ocr", "table", "formula", "chart", "layout", "parse"]
Feature = Literal["boxes", "words", "confidence", "tables", "formulas", "figures"]

#: All but figures, whose pictures are larger than everything else together.
USUAL_FEATURES: tuple[Feature, ...] = ("boxes", "words", "confidence", "tables", "formulas")

#: Languages: the code of two letters (with the script, where there are two), and the code of tesseract's data.
LANGUAGES = {
    "af": "afr", "ar": "ara", "az": "aze", "be": "bel", "bg": "bul", "bn": "ben", "bs": "bos", "ca": "cat",
    "cs": "ces", "cy": "cym", "da": "dan", "de": "deu", "el": "ell", "en": "eng", "eo": "epo", "es": "spa",
    "et": "est", "eu": "eus", "fa": "fas", "fi": "fin", "fr": "fra", "ga": "gle", "gl": "glg", "gu": "guj",
    "he": "heb", "hi": "hin", "hr": "hrv", "hu": "hun", "id": "ind", "is": "isl", "it": "ita", "ja": "jpn",
    "ka": "kat", "kk": "kaz", "ko": "kor", "ku": "kmr", "la": "lat", "lb": "ltz", "lt": "lit", "lv": "lav",
    "mi": "mri", "mk": "mkd", "mr": "mar", "ms": "msa", "mt": "mlt", "nl": "nld", "no": "nor", "oc": "oci",
    "pl": "pol", "pt": "por", "qu": "que", "ro": "ron", "ru": "rus", "sk": "slk", "sl": "slv", "sq": "sqi",
    "sr": "srp", "sv": "swe", "sw": "swa", "ta": "tam", "te": "tel", "th": "tha", "tl": "tgl", "tr": "tur",
    "uk": "ukr", "ur": "urd", "uz": "uzb", "vi": "vie", "zh": "chi_sim", "zh-hans": "chi_sim",
    "zh-hant": "chi_tra",
}  # fmt: skip
_BY_LONG_CODE = {long: short for short, long in LANGUAGES.items() if short != "zh-hans"}


def _known_language(name: str) -> str:
    """The short code of a language, from any of its codes."""
    plain = name.strip().lower().replace("_", "-")
    code = _BY_LONG_CODE.get(plain.replace("-", "_"), plain)
    for language in (code, code.partition("-")[0]):
        if language in LANGUAGES:
            return language
    raise ValueError(f"there is no language {name!r}; give a code such as en, de, zh-hans or eng")


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("it must be a finite number")
    return value


Language = Annotated[str, Field(max_length=40), AfterValidator(_known_language)]


class Reading(BaseModel):
    """How pages are read. None means the model's own default."""

    model_config = ConfigDict(extra="forbid")

    task: Task = "ocr"
    #: In the place of the task's own prompt, for models that take one.
    prompt: str | None = Field(default=None, min_length=1, max_length=8000)
    #: Models that take no prompt pass it over instead of refusing it: in a chat there are always some words.
    prompt_is_optional: bool = False
    languages: tuple[Language, ...] = Field(default=(), max_length=16)
    features: tuple[Feature, ...] = USUAL_FEATURES
    #: Lines with a lower score are left out.
    min_score: Annotated[float, Field(ge=0, le=1), AfterValidator(_finite)] | None = None
    #: Whether a page on its side or upside down is turned first.
    turn: bool = True
    max_new_tokens: int | None = Field(default=None, ge=1, le=MOST_TOKENS)
    #: Tokens of the prompt and the generated text together.
    max_length: int | None = Field(default=None, ge=1, le=4 * MOST_TOKENS)
    temperature: Annotated[float, Field(ge=0, le=5), AfterValidator(_finite)] | None = None
    #: Any sequence of so many tokens is written at most once.
    no_repeat_ngram_size: int | None = Field(default=None, ge=0, le=1000)

    def params(self) -> JsonObject:
        """What is sent to the worker: only the fields that the request set."""
        return self.model_dump(exclude_unset=True)
