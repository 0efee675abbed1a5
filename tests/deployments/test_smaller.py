from __future__ import annotations

from typing import Any

import pytest

from cluster.catalog.catalog import Catalog
from cluster.control.placement import NoRoom, Placement, demand_of, is_for_cards
from cluster.control.room import Room
from cluster.launch import LaunchSpec, Wanted
from cluster.settings import Settings
from cluster.status import Node
from deployments import resolve
from deployments.smaller import as_options, smaller, ways
from tests.make import GIB, make_node

SETTINGS = Settings(home="/nowhere")
CPU = make_node("cpu", memory_gib=24)
ONE = make_node("one", gpus=1, card_gib=24, memory_gib=64)
EIGHT = make_node("eight", gpus=8, card_gib=80, memory_gib=512)
#: Two cards, and less main memory than an offloaded model needs.
NARROW = make_node("narrow", gpus=2, card_gib=24, memory_gib=16)


def launched(name: str = "FLUX.1-dev", **fields: Any) -> Wanted:
    asked = {"model_name": name, "model_type": "image", **fields}
    return resolve(LaunchSpec.model_validate(asked), Catalog.builtin(), SETTINGS)


def placed(wanted: Wanted, *nodes: Node) -> Placement | NoRoom:
    return Room.beside(nodes, []).place(demand_of(wanted, 0, {}))


@pytest.mark.parametrize(
    ("fields", "nodes", "where"),
    [
        pytest.param({}, (CPU, EIGHT), "eight", id="auto, mixed"),
        pytest.param({"n_gpu": None}, (EIGHT, ONE), "eight", id="none, where there are cards"),
        pytest.param({"n_gpu": 2}, (CPU, ONE, EIGHT), "eight", id="two cards"),
        pytest.param({"gguf_quantization": "Q4_K_S"}, (ONE,), "one", id="quantised, one card"),
        pytest.param({"cpu_offload": "group"}, (NARROW, ONE), "one", id="offloaded, where main memory is"),
    ],
)
def test_the_claim_is_what_the_launch_needs_on_the_kind_of_node_it_is_placed_on(
    fields: dict[str, Any], nodes: tuple[Node, ...], where: str
) -> None:
    wanted = launched(**fields)
    offer = placed(wanted, *nodes)
    assert isinstance(offer, Placement), str(offer)
    on_card = bool(offer.claim.cards)
    assert on_card == (wanted.spec.n_gpu is not None)
    needs = wanted.needs(on_card=on_card)
    assert offer.node == where
    assert (offer.claim.memory_bytes, offer.claim.card_bytes) == (needs.memory_bytes, needs.card_bytes)


def test_without_cards_auto_claims_main_memory_and_in_fp32() -> None:
    """Weights of 17 billion parameters, four bytes each, and not two as on a card."""
    refused = placed(launched(), CPU)
    assert isinstance(refused, NoRoom)
    assert "memory free" in str(refused)
    assert launched().claim_bytes > 60 * GIB > 2 * launched().needs(on_card=True).card_bytes * 0.7


def test_offload_saves_nothing_where_there_is_no_card() -> None:
    assert launched(cpu_offload="model").claim_bytes == launched().claim_bytes
    assert launched(cpu_offload="model").needs(on_card=True).memory_bytes > 25 * 10**9


def test_the_ladder_is_made_of_launches_that_claim_what_it_says() -> None:
    wanted = launched()
    assert is_for_cards(demand_of(wanted, 0, {}), [ONE])
    assert isinstance(placed(wanted, ONE), NoRoom)
    ladder = smaller(wanted, Catalog.builtin(), SETTINGS, on_card=True)
    fitting = [changes for changes, variant in ladder if isinstance(placed(variant, ONE), Placement)]
    assert {"gguf_quantization": "Q4_0"} in fitting
    for changes, variant in ladder:
        if "n_gpu" not in changes:
            again = launched(**changes)
            assert (again.claim_bytes, again.on_card) == (variant.claim_bytes, variant.on_card)
            assert variant.needs(on_card=True).card_bytes < wanted.needs(on_card=True).card_bytes
    assert ladder[-1].changes == {"n_gpu": None} and ladder[-1].wanted.spec.n_gpu is None


def test_what_the_launch_chose_itself_stays() -> None:
    wanted = launched(model_uid="mine", max_pixels=512 * 512, gguf_quantization="Q8_0", replica=2)
    for changes, variant in smaller(wanted, Catalog.builtin(), SETTINGS, on_card=False):
        assert (variant.uid, variant.replica) == ("mine", 2)
        assert variant.spec.options == {**wanted.spec.options, **changes}


def test_a_type_without_smaller_variants_has_main_memory_instead_of_a_card() -> None:
    wanted = resolve(LaunchSpec(model_name="ppocr-v6"), Catalog.builtin(), SETTINGS)
    assert smaller(wanted, Catalog.builtin(), SETTINGS, on_card=False) == []
    assert [changes for changes, _ in smaller(wanted, Catalog.builtin(), SETTINGS, on_card=True)] == [{"n_gpu": None}]


def test_a_text_encoder_is_smaller_in_16_bits_unless_it_has_them_already() -> None:
    asked: dict[str, Any] = {"model_name": "all-MiniLM-L6-v2", "model_type": "embedding"}
    wanted = resolve(LaunchSpec.model_validate(asked), Catalog.builtin(), SETTINGS)
    (variant,) = smaller(wanted, Catalog.builtin(), SETTINGS, on_card=False)
    assert variant.changes == {"torch_dtype": "bfloat16"}
    assert variant.wanted.claim_bytes < wanted.claim_bytes - 40 * 10**6, "two bytes for each of 22.7 million parameters"
    assert smaller(variant.wanted, Catalog.builtin(), SETTINGS, on_card=False) == []


def test_each_change_is_tried_by_itself_and_then_with_all_before_it() -> None:
    assert list(ways([{"a": 1}, {"b": 2}, {"a": 3}])) == [
        {"a": 1},
        {"b": 2},
        {"a": 1, "b": 2},
        {"a": 3},
        {"a": 3, "b": 2},
    ]
    assert list(ways([{"a": 1}, {"n_gpu": None}])) == [{"a": 1}, {"n_gpu": None}]


def test_changes_are_written_as_people_write_options() -> None:
    assert as_options({"vae_tiling": True, "n_gpu": None, "cpu_offload": "model"}) == (
        "vae_tiling=true, n_gpu=none, cpu_offload=model"
    )
