"""What one request asks of one page, checked before anything is read.

Filled at the ingress by every dialect, and read once more by the worker. Knows of no library.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

#: Longest side that is taken; a launch bounds the pixels more tightly.
MOST_SIDE = 20_000
#: Tokens that a generating model may write about one page.
MOST_TOKENS = 32_768

Task = Literal["ocr", "table", "formula", "chart", "layout", "parse"]
Feature = Literal["boxes", "words", "confidence", "tables", "formulas", "figures"]

#: Everything but the pictures on the page, which weigh more than all the rest.
USUAL_FEATURES: tuple[Feature, ...] = ("boxes", "words", "confidence", "tables", "formulas")

#: Languages by their code of two letters, or with the script: the code of tesseract's data.
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
    """As its short code, whichever of its codes was given."""
    asked = name.strip().lower().replace("_", "-")
    code = _BY_LONG_CODE.get(asked.replace("-", "_"), asked)
    for known in (code, code.partition("-")[0]):
        if known in LANGUAGES:
            return known
    raise ValueError(f"there is no language {name!r}; give a code such as en, de, zh-hans or eng")


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("it must be a finite number")
    return value


Language = Annotated[str, Field(max_length=40), AfterValidator(_known_language)]


class Reading(BaseModel):
    """None means: as the model does it."""

    model_config = ConfigDict(extra="forbid")

    task: Task = "ocr"
    #: For models that are told in words what to do; takes the place of the task's own.
    prompt: str | None = Field(default=None, min_length=1, max_length=8000)
    languages: tuple[Language, ...] = Field(default=(), max_length=16)
    features: tuple[Feature, ...] = USUAL_FEATURES
    #: Lines that a model is less sure of are left out.
    min_score: Annotated[float, Field(ge=0, le=1), AfterValidator(_finite)] | None = None
    #: Whether a page that lies on its side or on its head is turned first.
    turn: bool = True
    max_new_tokens: int | None = Field(default=None, ge=1, le=MOST_TOKENS)
    #: Of the prompt and what is generated together.
    max_length: int | None = Field(default=None, ge=1, le=4 * MOST_TOKENS)
    temperature: Annotated[float, Field(ge=0, le=5), AfterValidator(_finite)] | None = None
    #: So many tokens in a row are written once at most.
    no_repeat_ngram_size: int | None = Field(default=None, ge=0, le=1000)

    def params(self) -> dict[str, Any]:
        """What travels to the worker: what was asked, and nothing that was not."""
        return self.model_dump(exclude_unset=True)
