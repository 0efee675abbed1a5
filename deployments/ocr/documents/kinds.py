"""The kinds of document models: the class of each, its prompts, and how its answers are parsed.

All of them are classes of transformers; none runs code from a repository.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from cluster import errors
from cluster.value import JsonObject
from deployments.ocr.documents import answers
from deployments.ocr.documents.answers import AnswerParser

#: How a prompt is given. chat: through the model's chat template. plain: as it is. start: as the beginning of the
#: answer. made: the processor makes it from the task.
Style = Literal["chat", "plain", "start", "made"]


@dataclass(frozen=True)
class Kind:
    #: Its class in transformers.
    model: str
    style: Style
    #: Prompts by task.
    prompts: Mapping[str, str]
    answer: AnswerParser = answers.markdown
    #: Parsers of tasks that are answered in another form than the others.
    answers: Mapping[str, AnswerParser] = field(default_factory=dict)
    #: Further arguments of the processor, by task.
    arguments: Mapping[str, JsonObject] = field(default_factory=dict)
    #: Whether its special tokens carry meaning, such as places on the page, and must stay in the text.
    keeps_tags: bool = False
    stops: tuple[str, ...] = ()
    #: Whether its processor also takes videos. Then it needs torchvision, which pictures alone do not.
    takes_videos: bool = False
    max_new_tokens: int = 4096

    def answer_to(self, task: str) -> AnswerParser:
        return self.answers.get(task, self.answer)


_HUNYUAN_PARSE = (
    "Extract all information from the main body of the document image and represent it in markdown format, ignoring "
    "headers and footers. Tables should be expressed in HTML format, formulas in the document should be represented "
    "using LaTeX format, and the parsing should be organized according to the reading order."
)

#: By the `model_type` in a model's configuration; for a vision encoder with a text decoder, by its processor's class.
KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "got_ocr2": Kind(
            "GotOcr2ForConditionalGeneration",
            "made",
            {"ocr": "", "parse": "", "formula": "", "table": ""},
            answer=answers.markdown,
            answers={"ocr": answers.plain},
            arguments={task: {"format": True} for task in ("parse", "formula", "table")},
            stops=("<|im_end|>",),
        ),
        "deepseek_ocr2": Kind(
            "DeepseekOcr2ForConditionalGeneration",
            "plain",
            {
                "ocr": "<image>\nFree OCR.",
                "parse": "<image>\n<|grounding|>Convert the document to markdown.",
                "layout": "<image>\n<|grounding|>OCR this image.",
                "chart": "<image>\nParse the figure.",
            },
            answer=answers.references,
            keeps_tags=True,
            max_new_tokens=8192,
        ),
        "paddleocr_vl": Kind(
            "PaddleOCRVLForConditionalGeneration",
            "chat",
            {
                "ocr": "OCR:",
                "table": "Table Recognition:",
                "formula": "Formula Recognition:",
                "chart": "Chart Recognition:",
            },
        ),
        "hunyuan_vl": Kind(
            "HunYuanVLForConditionalGeneration",
            "chat",
            {
                "ocr": "Detect and recognize text in the image, and output the text coordinates in a formatted manner.",
                "parse": _HUNYUAN_PARSE,
                "table": "Parse the table in the image into HTML.",
                "formula": "Identify the formula in the image and represent it using LaTeX format.",
                "chart": "Parse the chart in the image; use Mermaid format for flowcharts and Markdown for others.",
            },
            answers={"ocr": answers.spotted},
        ),
        "lighton_ocr": Kind("LightOnOcrForConditionalGeneration", "chat", {"ocr": "", "parse": ""}),
        "glm_ocr": Kind(
            "GlmOcrForConditionalGeneration",
            "chat",
            {"ocr": "Text Recognition:", "table": "Table Recognition:", "formula": "Formula Recognition:"},
            takes_videos=True,
            max_new_tokens=8192,
        ),
        "granite_docling": Kind(
            "GraniteDoclingForConditionalGeneration",
            "chat",
            {
                "ocr": "Convert this page to docling.",
                "parse": "Convert this page to docling.",
                "table": "Convert this table to OTSL.",
                "formula": "Convert this formula to LaTeX.",
                "chart": "Convert this chart to OTSL.",
            },
            answer=answers.doctags,
            keeps_tags=True,
            max_new_tokens=8192,
        ),
        # The first Granite-Docling and SmolDocling are of this class.
        "idefics3": Kind(
            "Idefics3ForConditionalGeneration",
            "chat",
            {"ocr": "Convert this page to docling.", "parse": "Convert this page to docling."},
            answer=answers.doctags,
            keeps_tags=True,
            max_new_tokens=8192,
        ),
        "florence2": Kind(
            "Florence2ForConditionalGeneration",
            "plain",
            {"ocr": "<OCR_WITH_REGION>", "layout": "<OCR_WITH_REGION>"},
            answer=answers.regions,
            keeps_tags=True,
            max_new_tokens=1024,
        ),
        "nougatprocessor": Kind("VisionEncoderDecoderModel", "start", {"ocr": "", "parse": ""}, max_new_tokens=4096),
        "trocrprocessor": Kind(
            "VisionEncoderDecoderModel", "start", {"ocr": ""}, answer=answers.plain, max_new_tokens=256
        ),
        "donutprocessor": Kind(
            "VisionEncoderDecoderModel",
            "start",
            {"ocr": "", "parse": ""},
            answer=answers.fields,
            keeps_tags=True,
            max_new_tokens=768,
        ),
    }
)


def kind_in(folder: Path) -> Kind:
    """The kind of a model, by its files."""
    config = _read(folder / "config.json")
    name = str(config.get("model_type", "")).replace("-", "_")
    if name == "vision_encoder_decoder":
        name = _processor_in(folder).lower()
    if name not in KINDS:
        names = ", ".join(sorted(KINDS))
        raise errors.LoadFailed(f"{folder} has a model of the kind {name or 'unknown'!r}; document models are {names}.")
    return KINDS[name]


def _processor_in(folder: Path) -> str:
    for name in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        processor = _read(folder / name).get("processor_class")
        if processor:
            return str(processor)
    return ""


def _read(file: Path) -> JsonObject:
    try:
        config = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
