"""Additions to a loaded pipeline that were trained separately: LoRAs, Lightning and ControlNets."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import errors

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin
    from torch import dtype as Dtype

LIGHTNING = "lightning"


def add_lora(pipe: DiffusionPipeline, name: str, path: Path, option: str = "lora_modules") -> None:
    """Loads a LoRA under that name, beside the others. Each request says which of them are in force."""
    kind = type(pipe).__name__
    if not hasattr(pipe, "load_lora_weights"):
        raise errors.BadOption(f"{kind} takes no LoRA: leave {name} out.", option)
    file = path if path.is_file() else _lora_file(path, name, option)
    try:
        pipe.load_lora_weights(
            str(file.parent), weight_name=file.name, adapter_name=name, local_files_only=True, use_safetensors=True
        )
    # A LoRA of another model makes the conversion of its names fail with any of these.
    except (ValueError, RuntimeError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise _of_another(name, kind, first_line(error), option) from error
    if not any(name in names for names in pipe.get_list_adapters().values()):
        raise _of_another(name, kind, "none of its weights has a place there", option)


def first_line(error: Exception) -> str:
    """The first line of an error: model libraries list every tensor that does not fit."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(":. ")[:200] if lines else type(error).__name__


def _lora_file(folder: Path, name: str, option: str) -> Path:
    files = sorted(folder.glob("*.safetensors"))
    usual = [file for file in files if file.name == "pytorch_lora_weights.safetensors"] or files
    if len(usual) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise errors.BadOption(
            f"The folder of the LoRA {name} should have one .safetensors file and has {names}: give the file itself.",
            option,
        )
    return usual[0]


def _of_another(name: str, kind: str, reason: str, option: str) -> errors.BadOption:
    return errors.BadOption(f"The LoRA {name} was not made for {kind} ({reason}): give one that was.", option)


def add_lightning(pipe: DiffusionPipeline, file: Path, is_packed: bool) -> int:
    """Makes the pipeline one of few steps and returns their number. The LoRA is fused with the weights; it stays beside
    packed weights, with which it cannot be fused."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    steps = re.search(r"(\d+)[-_]?steps?", file.name.lower())
    if steps is None:
        raise errors.BadOption(
            f"{file.name} does not say for how many steps it is: its name should have 4steps or 8steps in it.",
            "lightning_model_path",
        )
    add_lora(pipe, LIGHTNING, file, "lightning_model_path")
    if not is_packed:
        pipe.fuse_lora(adapter_names=[LIGHTNING])
        pipe.unload_lora_weights()
    # As the model was distilled: with the same shift for pictures of every size.
    pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(
        pipe.scheduler.config,
        base_shift=math.log(3),
        max_shift=math.log(3),
        shift=1.0,
        shift_terminal=None,
        use_dynamic_shifting=True,
        time_shift_type="exponential",
    )
    return int(steps[1])


def controlnet(folder: Path, dtype: Dtype) -> ModelMixin:
    import diffusers

    try:
        kind = getattr(diffusers, json.loads((folder / "config.json").read_text())["_class_name"])
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise errors.BadOption(f"{folder} is not a ControlNet of diffusers: {error}.", "controlnet") from error
    if "ControlNet" not in kind.__name__:
        raise errors.BadOption(f"{folder} holds a {kind.__name__}, not a ControlNet.", "controlnet")
    return kind.from_pretrained(folder, dtype=dtype, local_files_only=True, use_safetensors=True)


def with_controlnets(pipe: DiffusionPipeline, nets: Sequence[ModelMixin]) -> DiffusionPipeline:
    """A pipeline of the same parts that uses these ControlNets."""
    from diffusers import AutoPipelineForText2Image

    net = nets[0] if len(nets) == 1 else list(nets)
    try:
        made = AutoPipelineForText2Image.from_pipe(pipe, controlnet=net)
    except ValueError as error:
        reason = first_line(error)
        raise errors.BadOption(f"{type(pipe).__name__} takes no ControlNet: {reason}.", "controlnet") from error
    if "ControlNet" not in type(made).__name__:
        raise errors.BadOption(f"{type(pipe).__name__} takes no ControlNet.", "controlnet")
    return made
