"""A small trained diffusion model from a package, converted to a folder of diffusers: it draws terrain of a class from
0 (flat) to 99.

In the package it is ONNX with the names of OpenAI's consistency models, but its group norms are split into parts that
have no names. The model needs a single step and reads no words: the difficulty that it takes becomes the class.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import torch
from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline, UNet2DModel
from onnx import numpy_helper

Weights = dict[str, torch.Tensor]

SIDE = 128
CLASSES = 100
LAYERS = 4
CONFIG: dict[str, Any] = {
    "sample_size": SIDE,
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": LAYERS,
    "num_class_embeds": CLASSES,
    "block_out_channels": (32, 32, 64, 96, 128),
    "attention_head_dim": 32,
    "down_block_types": ("ResnetDownsampleBlock2D",) * 2 + ("AttnDownBlock2D",) * 3,
    "up_block_types": ("AttnUpBlock2D",) * 3 + ("ResnetUpsampleBlock2D",) * 2,
    "resnet_time_scale_shift": "scale_shift",
    "attn_norm_num_groups": 32,
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "norm_eps": 1e-5,
}
#: The amount of noise at the start and at the end.
SIGMA_MAX, SIGMA_MIN = 80.0, 0.002

#: A layer whose name the export kept, and the norm right before it.
AFTER_NORM = {"in_layers.2": "in_layers.0", "out_layers.3": "out_layers.0", "qkv": "norm", "out.2": "out.0"}
#: The names of the layers of a block in the package and in diffusers.
RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}


@cache
def onnx_file() -> Path:
    found = importlib.util.find_spec("terrain_diffusion")
    assert found is not None and found.origin is not None, "adaptive-terrain-diffusion is not installed"
    return Path(found.origin).parent / "weights" / "terrain_consistency_unet_difficulty100.onnx"


def saved(folder: Path) -> Path:
    unet = UNet2DModel(**CONFIG)
    unet.load_state_dict(converted(onnx.load(onnx_file()).graph))
    scheduler = CMStochasticIterativeScheduler(sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX)
    ConsistencyModelPipeline(unet=unet, scheduler=scheduler).save_pretrained(folder)
    return folder


def converted(graph: Any) -> Weights:
    """The weights under diffusers' names; raises if one is left over."""
    theirs = _named(graph)
    ours: Weights = {"class_embedding.weight": _class_embedding(theirs)}
    for old, new in ENDS.items():
        _move(theirs, old, ours, new)
    for old, new in _blocks():
        if f"{old}.qkv.weight" in theirs:
            _move_attention(theirs, old, ours, new)
        else:
            for old_layer, new_layer in RESNET.items():
                _move(theirs, f"{old}.{old_layer}", ours, f"{new}.{new_layer}")
    assert not theirs, f"no place was found for {sorted(theirs)}"
    return ours


def _named(graph: Any) -> Weights:
    """All weights by name. The norms are in the order of the layers that follow them."""
    listed = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in graph.initializer}
    found = {name.removeprefix("network."): value for name, value in listed.items() if name.startswith("network.")}
    names = [
        layer.removesuffix(after) + norm
        for layer in (name.removesuffix(".weight") for name in found if name.endswith(".weight"))
        for after, norm in AFTER_NORM.items()
        if layer.endswith(after)
    ]
    for name, (weight, bias) in zip(names, _norms(graph, listed), strict=True):
        found[f"{name}.weight"], found[f"{name}.bias"] = weight.flatten(), bias.flatten()
    return found


def _norms(graph: Any, listed: Weights) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """In the export a norm is four operations: normalise, reshape, multiply, add."""
    reader = {name: node for node in reversed(graph.node) for name in node.input}

    def constant(node: Any) -> torch.Tensor:
        return next(listed[name] for name in node.input if name in listed)

    for node in graph.node:
        if node.op_type == "InstanceNormalization":
            times = reader[reader[node.output[0]].output[0]]
            yield constant(times), constant(reader[times.output[0]])


def _blocks() -> Iterator[tuple[str, str]]:
    """The blocks of both: the package numbers one list down and one up, diffusers numbers them per level."""
    levels = len(CONFIG["block_out_channels"])
    place = 1
    for level, kind in enumerate(CONFIG["down_block_types"]):
        for layer in range(LAYERS):
            yield f"input_blocks.{place}.0", f"down_blocks.{level}.resnets.{layer}"
            if kind.startswith("Attn"):
                yield f"input_blocks.{place}.1", f"down_blocks.{level}.attentions.{layer}"
            place += 1
        if level < levels - 1:
            yield f"input_blocks.{place}.0", f"down_blocks.{level}.downsamplers.0"
            place += 1
    yield "middle_block.0", "mid_block.resnets.0"
    yield "middle_block.1", "mid_block.attentions.0"
    yield "middle_block.2", "mid_block.resnets.1"
    place = 0
    for level, kind in enumerate(CONFIG["up_block_types"]):
        for layer in range(LAYERS + 1):
            yield f"output_blocks.{place}.0", f"up_blocks.{level}.resnets.{layer}"
            if kind.startswith("Attn"):
                yield f"output_blocks.{place}.1", f"up_blocks.{level}.attentions.{layer}"
            place += 1
        if level < levels - 1:
            last = 2 if kind.startswith("Attn") else 1
            yield f"output_blocks.{place - 1}.{last}", f"up_blocks.{level}.upsamplers.0"


def _move(theirs: Weights, old: str, ours: Weights, new: str) -> None:
    for part in ("weight", "bias"):
        if f"{old}.{part}" in theirs:
            ours[f"{new}.{part}"] = theirs.pop(f"{old}.{part}")


def _move_attention(theirs: Weights, old: str, ours: Weights, new: str) -> None:
    """Its layers are convolutions of a single pixel, and three of them are in one."""
    _move(theirs, f"{old}.norm", ours, f"{new}.group_norm")
    for part in ("weight", "bias"):
        for letter, third in zip("qkv", theirs.pop(f"{old}.qkv.{part}").chunk(3), strict=True):
            ours[f"{new}.to_{letter}.{part}"] = third.squeeze().clone()
        ours[f"{new}.to_out.0.{part}"] = theirs.pop(f"{old}.proj_out.{part}").squeeze()


def _class_embedding(theirs: Weights) -> torch.Tensor:
    """The output of the two layers for difficulties from 0 to 1, one for each class."""
    first, bias, second, last_bias = (
        theirs.pop(f"label_emb.{layer}.{part}") for layer in (0, 2) for part in ("weight", "bias")
    )
    difficulties = torch.linspace(0, 1, CLASSES)[:, None]
    return torch.nn.functional.silu(difficulties @ first.T + bias) @ second.T + last_bias
