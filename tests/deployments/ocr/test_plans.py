"""What launches of OCR models are expected to take of memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.catalog.catalog import Catalog
from cluster.launch import LaunchSpec
from cluster.settings import Settings
from cluster.weights.memory import PROCESS_BYTES, MemoryPlan
from cluster.worker.planning import plan_of
from deployments import resolve
from deployments.ocr.documents.plan import DocumentSizes
from deployments.ocr.pictures import OPENING_BYTES
from deployments.ocr.ppocr.family import PIXEL_BYTES
from tests.deployments.ocr.small_documents import built

SETTINGS = Settings(home=Path("/nowhere"))
MB = 10**6


def planned(on_card: bool = False, **fields: object) -> MemoryPlan:
    wanted = resolve(LaunchSpec.model_validate(fields), Catalog.builtin(), SETTINGS)
    plan = plan_of(wanted, SETTINGS, on_card=on_card)
    assert plan is not None
    return plan


def test_ppocr_is_planned_with_the_largest_page_that_the_launch_allows() -> None:
    usual, small, large = (
        planned(model_name="ppocr-v6", **more).peak_bytes for more in ({}, {"max_pixels": 10**6}, {"max_pixels": 10**8})
    )
    assert large - usual == PIXEL_BYTES * 40 * MB
    # Four pages may be under way, of a megapixel each.
    assert usual - small == PIXEL_BYTES * 56 * MB
    assert planned(on_card=True, model_name="ppocr-v6").host_bytes > PROCESS_BYTES + PIXEL_BYTES * 60 * MB - 1


@pytest.mark.parametrize(("kind", "most_mb"), [("GOT-OCR2", 520), ("TrOCR", 380), ("Florence-2", 420)])
def test_a_small_document_model_takes_little(tmp_path: Path, kind: str, most_mb: int) -> None:
    fields = {"model_name": "m", "model_type": "ocr", "model_engine": "transformers", "max_pixels": 10**6}
    fields["model_path"] = str(built(kind, tmp_path))
    plan = planned(**fields)
    assert PROCESS_BYTES < plan.peak_bytes < most_mb * MB
    assert planned(**fields, batch_pages=4).peak_bytes > plan.peak_bytes + 2 * OPENING_BYTES * MB


def test_sizes_are_those_of_the_encoder_and_of_the_decoder() -> None:
    config = {
        "vision_config": {"hidden_size": 768, "patch_size": 16, "image_size": 1024, "num_attention_heads": 12,
                          "mlp_dim": 3072, "global_attn_indexes": [2, 5]},
        "text_config": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "vocab_size": 151860},
    }  # fmt: skip
    sizes = DocumentSizes.of(config, {})
    assert sizes == DocumentSizes(1024**2, 16, 768, 3072, 12, 2 * 24 * 1024, 151860) and sizes.tokens == 4096
    assert DocumentSizes.of(config, {"size": {"height": 512, "width": 256}}).pixels == 512 * 256
    assert DocumentSizes.of(config, {"size": {"shortest_edge": 56 * 56, "longest_edge": 112 * 112}}).pixels == 112 * 112
    assert DocumentSizes.of({"vision_config": "?", "text_config": {"vocab_size": -1}}, {"size": 3}).pixels > 0
