from __future__ import annotations

from typing import Any

import pytest

from cluster import errors
from cluster.launch import LaunchSpec, ReplicaPlace
from cluster.settings import Settings
from deployments import catalog_with, model_types
from deployments.ingress.bodies import checked
from deployments.ingress.control.changes import Declared
from deployments.ingress.xinference import launch_spec_of, own_type, types_called, xinference_type

#: The types of which Xinference's client makes handles.
THEIR_TYPES = {"LLM", "embedding", "rerank", "image", "audio", "video", "flexible"}

#: What xinference-client 1.x sends for `launch_model("bge-m3", "embedding")`: null for every argument that was not
#: given.
XINFERENCE_CLIENT = {
    "model_uid": None,
    "model_name": "bge-m3",
    "model_engine": None,
    "peft_model_config": None,
    "model_type": "embedding",
    "model_size_in_billions": None,
    "model_format": None,
    "quantization": None,
    "replica": 1,
    "n_worker": 1,
    "n_gpu": "auto",
    "request_limits": None,
    "worker_ip": None,
    "gpu_idx": None,
    "replica_config": None,
    "model_path": None,
    "enable_thinking": None,
    "enable_virtual_env": None,
    "virtual_env_packages": None,
    "virtual_env_find_links": None,
    "envs": None,
}


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(XINFERENCE_CLIENT, id="client"),
        pytest.param({**XINFERENCE_CLIENT, "trust_remote_code": True, "enable_thinking": False}, id="command line"),
        pytest.param({**XINFERENCE_CLIENT, "enable_virtual_env": False, "virtual_env_packages": []}, id="venv off"),
    ],
)
def test_what_xinference_always_sends_asks_for_nothing(body: dict[str, Any]) -> None:
    assert launch_spec_of(body) == LaunchSpec(model_name="bge-m3", model_type="embedding")


def test_adapters_of_xinference_are_those_of_the_launch() -> None:
    rows = [{"lora_name": "sketch", "local_path": "/loras/sketch"}]
    empty: dict[str, Any] = {"image_lora_load_kwargs": {}, "image_lora_fuse_kwargs": None}
    spec = launch_spec_of({"model_name": "m", "peft_model_config": {"lora_list": rows, **empty}})
    assert spec.options == {"lora_modules": rows}
    assert launch_spec_of({"model_name": "m", "peft_model_config": empty}).options == {}
    fused = launch_spec_of({"model_name": "m", "peft_model_config": {"image_lora_fuse_kwargs": {"lora_scale": 0.5}}})
    assert fused.options == {"peft_model_config": {"image_lora_fuse_kwargs": {"lora_scale": 0.5}}}


def test_what_has_no_use_here_is_refused_as_an_option_when_it_says_something() -> None:
    assert launch_spec_of({"model_name": "m", "enable_virtual_env": True}).options == {"enable_virtual_env": True}


def test_replica_config_of_xinference_and_a_flat_one_are_the_same() -> None:
    nested = launch_spec_of(
        {
            "model_name": "m",
            "replica": 2,
            "replica_config": [
                {"replica_uid": None, "devices": [{"worker_ip": "a:1", "n_gpu": 1, "gpu_idx": [1]}]},
                {"replica_uid": "m-1", "devices": [{"worker_ip": "b:1"}]},
            ],
        }
    )
    flat = LaunchSpec.model_validate(
        {
            "model_name": "m",
            "replica": 2,
            "replica_config": [{"worker_ip": "a:1", "n_gpu": 1, "gpu_idx": "1"}, {"worker_ip": "b:1"}],
        }
    )
    assert nested == flat
    assert [nested.place_of(index) for index in range(3)] == [
        ReplicaPlace(worker_ip="a:1", n_gpu=1, gpu_idx=(1,)),
        ReplicaPlace(worker_ip="b:1"),
        ReplicaPlace(),
    ]


@pytest.mark.parametrize("devices", [[], [{}, {}], [None], "a"])
def test_a_replica_without_exactly_one_device_is_refused(devices: object) -> None:
    body: dict[str, Any] = {"model_name": "m", "replica_config": [{"devices": devices}]}
    with pytest.raises(errors.BadOption, match="exactly one device") as caught:
        launch_spec_of(body)
    assert caught.value.param == "replica_config"
    with pytest.raises(errors.InvalidBody, match="exactly one device"):
        checked(Declared, {"models": [body]})


def test_a_declared_launch_may_be_written_as_xinference_writes_it() -> None:
    declared: Declared = checked(Declared, {"models": [{**XINFERENCE_CLIENT, "steps": 4}]})
    assert [(spec.model_name, spec.options) for spec in declared.models] == [("bge-m3", {"steps": 4})]


@pytest.mark.parametrize("body", [{}, {"model_name": "m", "replica": 0}, {"model_name": "m", "options": "steps=4"}])
def test_a_launch_that_says_nothing_useful_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(errors.BadOption):
        launch_spec_of(body)


def test_every_type_of_ours_is_one_that_xinferences_client_can_open() -> None:
    for type in model_types().values():
        for family in type.families.values():
            word = xinference_type(type.name, family.abilities)
            assert word in THEIR_TYPES
            assert word == {"ocr": "image", "classify": "flexible", "llm": "LLM"}.get(type.name, type.name)
    assert xinference_type("language", ("chat", "generate")) == "LLM"


@pytest.mark.parametrize(
    ("type", "name", "own"),
    [
        ("image", "ppocr-v6", "ocr"),
        ("image", "GOT-OCR2_0", "ocr"),
        ("IMAGE", "got-ocr2.0", "ocr"),
        ("image", "FLUX.1-dev", "image"),
        ("ocr", "ppocr-v6", "ocr"),
        ("embedding", "ppocr-v6", "embedding"),
        ("image", "bge-m3", "image"),
        ("image", "nowhere", "image"),
        ("", "ppocr-v6", ""),
    ],
)
def test_a_model_is_meant_by_xinferences_word_for_its_type(type: str, name: str, own: str) -> None:
    settings = Settings()
    assert own_type(type, name, catalog_with([], settings), settings) == own


def test_models_of_several_types_are_listed_under_one_word() -> None:
    words = {word: types_called(word, Settings()) for word in ("image", "flexible", "embedding", "ocr", "audio")}
    assert words == {
        "image": ["image", "ocr"],
        "flexible": ["flexible", "classify"],
        "embedding": ["embedding"],
        "ocr": ["ocr"],
        "audio": ["audio"],
    }
