from __future__ import annotations

from typing import Any

import pytest

from cluster import errors
from cluster.launch import LaunchSpec, ReplicaPlace
from deployments.ingress.bodies import checked
from deployments.ingress.control.changes import Declared
from deployments.ingress.xinference_launch import launch_spec_of

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


def peft(**parts: Any) -> dict[str, Any]:
    return {"model_name": "m", "peft_model_config": parts}


ADAPTER = {"lora_name": "sketch", "local_path": "/loras/sketch"}


def test_adapters_of_xinference_are_in_force_for_everybody() -> None:
    empty: dict[str, Any] = {"image_lora_load_kwargs": {}, "image_lora_fuse_kwargs": None}
    assert launch_spec_of(peft(lora_list=[ADAPTER], **empty)).options == {"lora_modules": [ADAPTER], "lora_scale": 1.0}
    assert launch_spec_of(peft(**empty)).options == launch_spec_of(peft(lora_list=[])).options == {}


def test_adapters_have_a_scale_and_a_file_in_their_folder() -> None:
    said = {
        "image_lora_load_kwargs": {"weight_name": "best.safetensors", "subfolder": "v2"},
        "image_lora_fuse_kwargs": {"lora_scale": 0.5, "safe_fusing": True},
    }
    row = {"lora_name": "sketch", "local_path": "/loras/sketch/v2/best.safetensors"}
    assert launch_spec_of(peft(lora_list=[ADAPTER], **said)).options == {"lora_modules": [row], "lora_scale": 0.5}


@pytest.mark.parametrize(
    "parts",
    [
        {"lora_list": 5},
        {"lora_list": [ADAPTER], "image_lora_load_kwargs": [1]},
        {"lora_list": [ADAPTER], "image_lora_fuse_kwargs": {"components": ["unet"]}},
        {"llm_lora": [ADAPTER]},
    ],
)
def test_other_words_about_adapters_are_refused(parts: dict[str, Any]) -> None:
    with pytest.raises(errors.BadOption, match="peft_model_config"):
        launch_spec_of(peft(**parts))


def test_a_virtual_environment_is_no_wish_unless_it_has_other_packages() -> None:
    asked = {
        "model_name": "m",
        "enable_virtual_env": True,
        "virtual_env_packages": ["numpy", "pydantic>=2", "#system_torch#"],
        "virtual_env_find_links": ["/wheels"],
    }
    assert launch_spec_of(asked).options == {}
    for package in ("pydantic<1", "no-such-package", "!"):
        with pytest.raises(errors.BadOption, match="is not installed, and a launch installs nothing"):
            launch_spec_of({**asked, "virtual_env_packages": [package]})


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
