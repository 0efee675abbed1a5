from __future__ import annotations

from typing import Any

import pytest

from cluster.worker.family import Batched, Family, Stepped, Stop, Talking, Tell, load_family, path_of
from deployments import ModelType
from deployments.text.embedding.sparse import SparseEncoders
from deployments.text.rerank.cross_encoder import CrossEncoders
from tests.families import Echo, Painting


class Conversing(Talking):
    def begin(self, value: Any, tell: Tell) -> Stop:
        return lambda: None


class Undecided(Family):
    """Has the methods of two contracts and inherits none."""

    def run(self, batch: Any) -> Any:
        return batch

    def stream(self, value: Any, progress: Any) -> Any:
        return value


@pytest.mark.parametrize(
    ("family", "contract"),
    [
        (Echo, "batched"),
        (CrossEncoders, "batched"),
        (Painting, "stepped"),
        (Conversing, "talking"),
        (type("Both", (Stepped, Echo), {}), "stepped"),
        (type("Either", (Echo, Stepped), {}), "batched"),
    ],
)
def test_a_family_has_the_contract_that_it_inherits_first(family: type[Any], contract: str) -> None:
    assert family.contract == contract


@pytest.mark.parametrize("family", [Undecided, dict])
def test_a_class_without_a_contract_is_refused_by_name(family: type[Any]) -> None:
    says = rf"{family.__module__}:{family.__name__} cannot be served: .* Batched, Stepped, Talking"
    with pytest.raises(TypeError, match=says):
        load_family(path_of(family))
    with pytest.raises(TypeError, match=says):
        ModelType(name="odd", families={"odd": family})


@pytest.mark.parametrize("contract", [Batched, Stepped, Talking])
def test_a_family_that_lacks_a_method_of_its_contract_cannot_be_made(contract: type[Any]) -> None:
    half = type("Half", (contract,), {})
    with pytest.raises(TypeError, match="abstract"):
        half()


@pytest.mark.parametrize(
    ("stored", "family"),
    [
        ("deployments.rerank.cross_encoder:CrossEncoders", CrossEncoders),
        ("deployments.embedding.sparse:SparseEncoders", SparseEncoders),
    ],
)
def test_a_wish_that_an_earlier_version_stored_still_finds_its_family(stored: str, family: type[Family]) -> None:
    assert load_family(stored) is family
    assert load_family(path_of(family)) is family
