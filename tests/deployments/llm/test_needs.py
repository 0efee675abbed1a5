"""What is claimed for language models whose weights are not on this machine yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.catalog.catalog import Catalog
from cluster.catalog.sources import choose_source
from cluster.launch import LaunchSpec
from cluster.settings import Settings
from cluster.worker.family import Prospect
from deployments.llm.transformers import TransformersLanguage
from deployments.llm.vllm import VllmLanguage


@pytest.fixture
def gigabytes(tmp_path: Path) -> Any:
    """Of the weights, in the plan of a launch."""

    def planned(
        family: Any, name: str, size: object, format: str = "pytorch", *, on_card: bool = True, **options: Any
    ) -> float:
        entry = Catalog.builtin().find(name, "llm")
        source = choose_source(entry, hub=None, format=format, quantization=None, size=size)
        given, spec = family.Options.model_validate(options), LaunchSpec(model_name=name)
        plan = family.plan(Prospect(spec, entry, source, given, Settings(home=tmp_path), on_card))
        return float(plan.parts[0].bytes / 1e9)

    return planned


@pytest.mark.parametrize("family", [VllmLanguage, TransformersLanguage])
def test_weights_that_are_packed_keep_their_size_and_others_take_that_of_their_numbers(
    family: Any, gigabytes: Any
) -> None:
    assert gigabytes(family, "qwen3", 8) == pytest.approx(16)
    assert gigabytes(family, "qwen3", 8, on_card=False) == pytest.approx(32)
    assert gigabytes(family, "qwen3", 8, torch_dtype="float32") == pytest.approx(32)
    for on_card in (True, False):
        assert gigabytes(family, "gpt-oss", 20, on_card=on_card) == pytest.approx(12.8 * 1.024**3, rel=0.01)
        assert gigabytes(family, "gpt-oss", 120, on_card=on_card) == pytest.approx(60.8 * 1.024**3, rel=0.01)


def test_vllm_packs_what_is_not_packed(gigabytes: Any) -> None:
    for on_card in (True, False):
        assert gigabytes(VllmLanguage, "qwen3", 8, on_card=on_card, quantize="fp8") == pytest.approx(8)
        packed = gigabytes(VllmLanguage, "qwen3", 8, "awq", on_card=on_card)
        assert packed == gigabytes(VllmLanguage, "qwen3", 8, "awq", on_card=on_card, quantize="fp8")
        assert 4 < packed < 5


def test_models_whose_name_hides_weights_claim_all_of_them(gigabytes: Any) -> None:
    assert gigabytes(VllmLanguage, "gemma-4", "E2B") == pytest.approx(10.2)
    assert gigabytes(VllmLanguage, "gemma-4", "E4B") == pytest.approx(16)
    assert 680 < gigabytes(VllmLanguage, "DeepSeek-V3.2", None) < 740
