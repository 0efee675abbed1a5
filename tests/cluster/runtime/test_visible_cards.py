from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.runtime.visible_cards import VARIABLES

ROOT = Path(__file__).parents[3]
#: Ray's managers look at the machine, once; here it is told that there are cards of AMD's.
SHOW = """
import json, os, sys
from cluster.runtime import visible_cards
device, kind, cards = sys.argv[1], sys.argv[2], sys.argv[3:]
if kind == "amd":
    from ray._private.accelerators import AMDGPUAcceleratorManager, get_accelerator_manager_for_resource
    vars(get_accelerator_manager_for_resource).clear()
    AMDGPUAcceleratorManager.get_current_node_num_accelerators = staticmethod(lambda: 2)
names = visible_cards.names()
visible_cards.show_only(device, cards)
seen = {name: os.environ[name] for name in visible_cards.VARIABLES if name in os.environ}
print(json.dumps([names, seen]))
"""


def shown(device: str, kind: str, *cards: str, **variables: str) -> tuple[list[str], dict[str, str]]:
    """The names that the node has, and what a worker has in its environment that is given these cards."""
    environment = {name: text for name, text in os.environ.items() if name not in VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", SHOW, device, kind, *cards],
        env={**environment, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    names, seen = json.loads(done.stdout)
    return names, seen


@pytest.mark.parametrize(
    ("device", "kind", "variables", "names", "seen"),
    [
        pytest.param("cuda", "nvidia", {}, [], {"CUDA_VISIBLE_DEVICES": "1,3"}, id="NVIDIA"),
        pytest.param(
            "cuda",
            "nvidia",
            {"CUDA_VISIBLE_DEVICES": "MIG-a,MIG-b"},
            ["MIG-a", "MIG-b"],
            {"CUDA_VISIBLE_DEVICES": "1,3"},
            id="slices",
        ),
        pytest.param(
            "cuda",
            "amd",
            {"HIP_VISIBLE_DEVICES": "4,5"},
            ["4", "5"],
            {"HIP_VISIBLE_DEVICES": "1,3", "CUDA_VISIBLE_DEVICES": "1,3"},
            id="AMD",
        ),
        pytest.param("xpu", "intel", {}, [], {"ZE_AFFINITY_MASK": "1,3", "CUDA_VISIBLE_DEVICES": ""}, id="Intel"),
        pytest.param(
            "xpu",
            "intel",
            {"ONEAPI_DEVICE_SELECTOR": "level_zero:1,3"},
            [],
            {"ZE_AFFINITY_MASK": "1,3", "CUDA_VISIBLE_DEVICES": ""},
            id="Intel, chosen by the other variable",
        ),
        pytest.param(
            "npu",
            "ascend",
            {"ASCEND_RT_VISIBLE_DEVICES": "6,7"},
            ["6", "7"],
            {"ASCEND_RT_VISIBLE_DEVICES": "1,3", "CUDA_VISIBLE_DEVICES": ""},
            id="Ascend",
        ),
        pytest.param("mps", "apple", {}, [], {"CUDA_VISIBLE_DEVICES": "1,3"}, id="Apple has one, and no variable"),
    ],
)
def test_a_worker_sees_its_cards_by_the_variable_of_their_maker(
    device: str, kind: str, variables: dict[str, str], names: list[str], seen: dict[str, str]
) -> None:
    assert shown(device, kind, "1", "3", **variables) == (names, seen)


def test_a_worker_without_cards_sees_none() -> None:
    assert shown("cuda", "nvidia")[1] == {"CUDA_VISIBLE_DEVICES": ""}
