"""The options that Xinference's OCR models take, as the fields of a request."""

from __future__ import annotations

from cluster import errors
from cluster.names import quoted
from cluster.value import JsonObject

#: GOT-OCR's ways to read: the text as it stands, or with its headings, tables and formulas.
TASKS = {"ocr": "ocr", "format": "parse"}
#: About files that its models write, colours of frames, sizes of their inputs and how their code runs: nothing that
#: changes what is read here.
MEANINGLESS = (
    *("ocr_color", "render", "save_render_file", "print_prompt", "gradio_input", "stream_flag", "model_size"),
    *("base_size", "image_size", "crop_mode", "test_compress", "save_results", "save_dir", "eval_mode"),
    *("do_sample", "ngram_window", "zoomin", "image_scope"),
)
#: Those that no field of ours is called like.
OPTIONS = ("ocr_type", "return_dict", *MEANINGLESS)


def in_own_words(fields: JsonObject) -> JsonObject:
    # An option that is empty has not been chosen.
    is_whole = fields.get("region") in ("", [], "[]")
    values = {
        name: value for name, value in fields.items() if name not in OPTIONS and not (is_whole and name == "region")
    }
    kind = fields.get("ocr_type")
    if kind not in (None, ""):
        if not isinstance(kind, str) or kind not in TASKS:
            raise errors.InvalidBody(f"ocr_type takes {' or '.join(TASKS)}, not {quoted(kind)}.", "ocr_type")
        values.setdefault("task", TASKS[kind])
    if fields.get("return_dict") in (True, "true", "True"):
        values.setdefault("output_format", "json")
    return values
