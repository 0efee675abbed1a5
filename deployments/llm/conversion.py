"""Makes an OpenVINO model of a GGUF file: `python -m deployments.llm.conversion`, a job on stdin.

By way of 16-bit weights: OpenVINO's own reader of 4-bit GGUF files rounds what lies between whole zero points, without
an error. The result is compared with the weights that were given, by the loss on an example.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from cluster.value import JsonObject
from deployments.llm.shape import ARCHITECTURES, Shape, shape_of_gguf

EXAMPLE = (
    "The river runs past the old mill and under the stone bridge, and in the evening the children come down to the "
    "water to look for fish. When the first lamps are lit in the village, their mothers call them home, and the mill "
    "stands alone in the dark. The miller says that the wheel has turned for two hundred years, in dry summers and in "
    "floods, and that it will go on turning when nobody is left who remembers his name."
)


def main() -> None:
    logging.disable(logging.WARNING)
    # Libraries write to stdout as they like; nothing there is read.
    convert(json.load(sys.stdin))


def convert(job: JsonObject) -> None:
    gguf, target = Path(job["gguf"]), Path(job["place"])
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=".") as room:
        folder = Path(room) / "model"
        folder.mkdir()
        shape = rewrite(gguf, Path(room) / "model.gguf")
        save_tokenizer(gguf, folder)
        save_graph(Path(room) / "model.gguf", folder)
        ids = _ids_of(EXAMPLE, folder)
        loss, reference = loss_of(folder, ids), job.get("reference_loss")
        if reference is None:
            reference = reference_loss(gguf, ids)
        if loss - reference > job["most_loss"]:
            sys.exit(
                f"its weights were read wrongly: the loss on an example is {loss:.3f}, and {reference:.3f} with the "
                "weights as they were given; launch it with model_engine=llamacpp"
            )
        made = {"shape": asdict(shape), "loss": round(loss, 4), "reference_loss": round(reference, 4)}
        (folder / "made.json").write_text(json.dumps(made))
        if not (target / "made.json").exists():
            shutil.rmtree(target, ignore_errors=True)
            folder.replace(target)


def rewrite(gguf: Path, target: Path) -> Shape:
    """The same file with 16-bit matrices."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter
    from gguf.quants import dequantize

    reader = GGUFReader(gguf)
    architecture = str(reader.fields["general.architecture"].contents())
    if architecture not in ARCHITECTURES:
        sys.exit(f"OpenVINO reads GGUF files of {', '.join(ARCHITECTURES)}, not of {architecture}: use llamacpp")
    writer = GGUFWriter(target, architecture)
    numbers: dict[str, int] = {}
    for key, field in reader.fields.items():
        name = key.removeprefix(f"{architecture}.")
        is_list = field.types[0] == GGUFValueType.ARRAY
        content = field.contents()
        if isinstance(content, int):
            numbers[name] = content
        if not key.startswith("GGUF.") and key not in ("general.architecture", "general.file_type"):
            writer.add_key_value(key, content, field.types[0], field.types[-1] if is_list else None)
    writer.add_file_type(1)
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, values if values.ndim == 1 else values.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return shape_of_gguf(architecture, numbers)


def save_tokenizer(gguf: Path, folder: Path) -> None:
    """As transformers writes it, and as OpenVINO reads it, whose grammars need it."""
    from openvino import save_model
    from openvino_tokenizers import convert_tokenizer
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.save_pretrained(folder)
    for part, name in zip(
        convert_tokenizer(tokenizer, with_detokenizer=True), ("tokenizer", "detokenizer"), strict=True
    ):
        save_model(part, folder / f"openvino_{name}.xml")


def save_graph(gguf: Path, folder: Path) -> None:
    """With int8 weights, each row scaled by itself."""
    import nncf
    import openvino
    import openvino_genai

    # The graph is written beside the file that it was read from.
    openvino_genai.LLMPipeline(str(gguf), "CPU", enable_save_ov_model=True)
    model = openvino.Core().read_model(gguf.with_name("openvino_model.xml"))
    compressed = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
    openvino.save_model(compressed, folder / "openvino_model.xml")


def _ids_of(text: str, folder: Path) -> list[int]:
    from tokenizers import Tokenizer

    return list(Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids)


def loss_of(folder: Path, ids: list[int]) -> float:
    import openvino

    model = openvino.Core().compile_model(folder / "openvino_model.xml", "CPU")
    length = len(ids)
    inputs = {
        "input_ids": np.array([ids]),
        "attention_mask": np.ones((1, length), np.int64),
        "position_ids": np.arange(length)[None],
        "beam_idx": np.zeros(1, np.int32),
    }
    names = {name for each in model.inputs for name in each.names}
    outputs = model({name: array for name, array in inputs.items() if name in names})
    return mean_loss(np.asarray(outputs[0][0], np.float64), ids)


def reference_loss(gguf: Path, ids: list[int]) -> float:
    """By transformers, which unpacks the weights as they are."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    with torch.inference_mode():
        logits = model.eval()(torch.tensor([ids])).logits[0]
    return mean_loss(logits.double().numpy(), ids)


def mean_loss(logits: Any, ids: list[int]) -> float:
    """How unlikely each token is after those before it, on average."""
    rows = logits[:-1] - logits[:-1].max(axis=-1, keepdims=True)
    chances = rows[np.arange(len(ids) - 1), ids[1:]] - np.log(np.exp(rows).sum(axis=-1))
    return float(-chances.mean())


if __name__ == "__main__":
    main()
