"""What launches are expected to take of main memory, beside the most that they took until they were READY.

    python -m benchmarks.memory [--only PART_OF_A_NAME]

Each launch goes to a worker of a real cluster on CPU, which warms up at the largest size that is allowed unless that
takes too long. Models that come in no package are made here, small and with random weights. Pictures are limited to the
size of the warm-up, which is small on CPU.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster import LaunchSpec, errors
from tests.live import LiveCluster, until

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: How far an estimate may be above what is measured.
ABOVE = 0.1
MADE = Callable[[Path], object]


class Launch(NamedTuple):
    name: str
    type: str
    #: Makes the folder of the model; None for one of the catalogue.
    made: MADE | None = None
    options: Mapping[str, Any] = {}
    #: Why the estimate is further above than it should be, where that is known.
    reason: str = ""


def launches() -> list[Launch]:
    any_engine = "the engine that takes most is expected, until the choice has been measured"
    alone = "as many batches at once are expected as a quiet machine computes"
    pages = "expected with a page of 60 megapixels and texts of 8,192 tokens"
    engines = ("torch", "torch_bf16", "onnx", "onnx_int8", "openvino_bf16", "openvino_int8", "auto")
    return [
        *(
            Launch(
                "all-MiniLM-L6-v2",
                "embedding",
                options={"model_engine": engine},
                reason=any_engine if engine == "auto" else "",
            )
            for engine in engines
        ),
        *(
            Launch(f"bert-{width}x{layers}", "embedding", _bert(width, layers), {"model_engine": engine}, reason=alone)
            for width, layers in ((256, 4), (768, 6))
            for engine in ("torch", "torch_bf16", "onnx", "openvino_bf16")
        ),
        Launch("bert-1024x12", "embedding", _bert(1024, 12)),
        Launch("sparse", "embedding", _sparse, reason=alone),
        Launch("static", "embedding", _static),
        Launch("clip", "embedding", _clip),
        Launch("ce-tiny", "rerank"),
        Launch("causal", "rerank", _causal),
        Launch("vision", "rerank", _vision),
        Launch("classifier", "classify", _classifier),
        Launch("ppocr-v6", "ocr"),
        Launch("tesseract", "ocr"),
        *(
            Launch(kind, "ocr", _document(kind), {"model_engine": "transformers"}, reason=pages)
            for kind in ("GOT-OCR2", "Florence-2", "TrOCR", "Donut")
        ),
        *(
            Launch(kind, "image", _pipeline(kind), {"max_pixels": 256 * 256})
            for kind in ("sd15", "sdxl", "flux_wide", "qwen_image")
        ),
    ]


def _bert(width: int, layers: int) -> MADE:
    def made(place: Path) -> None:
        from transformers import BertConfig, BertModel

        from tests.tiny import saved

        heads = width // 64
        config = BertConfig(
            hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * width
        )
        saved(place, BertModel, config, _words())

    return made


def _words() -> PreTrainedTokenizerFast:
    """A vocabulary of usual size: 30,522 words."""
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(files("deployments.text.rerank") / "ce-tiny")
    words.model_max_length = 512
    return words


def _sparse(place: Path) -> None:
    from sentence_transformers import SparseEncoder
    from transformers import BertConfig, BertForMaskedLM

    from tests.tiny import SIZES, saved, tokenizer

    body = place.with_name("sparse-body")
    saved(body, BertForMaskedLM, BertConfig(**SIZES), tokenizer(types=True))
    SparseEncoder(str(body), device="cpu").save(str(place))


def _static(place: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    from tests.tiny import tokenizer

    table = StaticEmbedding(tokenizer().backend_tokenizer, embedding_dim=256)
    SentenceTransformer(modules=[table], device="cpu").save(str(place))


def _clip(place: Path) -> None:
    from tests.deployments.text.embedding.test_clip import clip

    clip(place)


def _causal(place: Path) -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from tests.tiny import SIZES, saved, tokenizer

    words = tokenizer(pads_left=True, frames=False, max_tokens=512, extra=("yes", "no", "<|im_start|>", "<|im_end|>"))
    config = Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=8, max_position_embeddings=512)
    saved(place, Qwen3ForCausalLM, config, words)


def _vision(place: Path) -> None:
    from tests.deployments.text.rerank.test_vision import vision

    wide = {"hidden_size": 512, "intermediate_size": 1536, "num_attention_heads": 8}
    vision(place, 8192, wide, patch_size=16, hidden_size=512, intermediate_size=2048)


def _classifier(place: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    from tests.tiny import SIZES, saved, tokenizer

    saved(place, BertForSequenceClassification, BertConfig(**SIZES, num_labels=3), tokenizer(types=True))


def _document(kind: str) -> MADE:
    def made(place: Path) -> None:
        from tests.deployments.ocr.small_documents import built

        built(kind, place.parent)

    return made


def _pipeline(kind: str) -> MADE:
    def made(place: Path) -> None:
        from tests.pipelines import saved

        saved(kind, place)

    return made


def measured(cluster: LiveCluster, launch: Launch, root: Path) -> tuple[int, int, str]:
    """Bytes that were expected, bytes that it took, and what the worker says of the size of its warm-up."""
    spec = {"model_name": launch.name, "model_type": launch.type, "model_uid": "measured", **launch.options}
    if launch.made is not None:
        place = root / launch.name
        if not place.exists():
            launch.made(place)
        spec["model_path"] = str(place)
    with cluster.client() as client:
        wanted = LaunchSpec.model_validate(spec)
        expected = client.check(wanted)
        client.launch_model(**spec)
        (row,) = [line for line in client.logs("measured") if "measured at the largest size" in line][-1:] or [""]
        took = client.check(wanted)["measured"]["memory_bytes"]
        client.terminate_model("measured")
        until(lambda: not client.list_models(), within=20)
    own = expected.get("plan", {}).get("peak_bytes", expected["claim_bytes"])
    return own, took, "" if "was measured" in row else "warm-up smaller than allowed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    print(
        "| type | model | options | expected, MB | measured, MB | above | |\n|---|---|---|---|---|---|---|", flush=True
    )
    with tempfile.TemporaryDirectory() as folder:
        cluster = LiveCluster(Path(folder) / "home")
        cluster.up()
        try:
            for launch in launches():
                options = ", ".join(f"{name}={value}" for name, value in launch.options.items())
                if asked.only not in f"{launch.type} {launch.name} {options}":
                    continue
                try:
                    expected, took, note = measured(cluster, launch, Path(folder))
                except errors.LoadFailed as error:
                    print(f"| {launch.type} | {launch.name} | {options} | | | | {error.message} |", flush=True)
                    continue
                above = expected / took - 1
                verdict = "**below**" if above < 0 else launch.reason if above > ABOVE else ""
                row = (launch.type, launch.name, options, f"{expected / 1e6:.0f}", f"{took / 1e6:.0f}", f"{above:+.0%}")
                print(f"| {' | '.join(row)} | {'; '.join(filter(None, (verdict, note)))} |", flush=True)
        finally:
            cluster.down()


if __name__ == "__main__":
    main()
