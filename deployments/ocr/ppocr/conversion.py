"""The nets of PP-OCR as modules of transformers, converted from the ONNX files in which their weights come.

The names in an ONNX graph do not say what a weight is for, so weights are matched by the order in which the graph uses
them. Tests compare the answers of the module with those of the graph, which would differ after a wrong match.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from cluster.value import JsonObject

if TYPE_CHECKING:
    from onnx import NodeProto
    from torch import Tensor
    from torch.nn import Module

    Weights: TypeAlias = dict[str, Tensor]

#: Of a block of the backbone: size of its kernel, channels in and out, stride (by direction where they differ), and
#: whether it squeezes.
BlockConfig: TypeAlias = tuple[int, int, int, int | list[int], bool]

#: Where a batch norm was folded into its convolution, the module gets one that only adds the bias.
EPSILON = 1e-5
BACKBONE = "model.backbone.encoder"
#: Convolutions before the first block of the backbone.
STEM = ("stem1", "stem2a", "stem2b", "stem3", "stem4")
#: Blocks of the reading net's backbone, stage by stage.
READING_STAGES = (1, 2, 7, 3)
READING_LAYERS = 2


@dataclass(frozen=True)
class Convolution:
    weight: Tensor
    bias: Tensor | None
    #: Scale, shift, mean and variance of the batch norm behind it, where that is not folded in.
    norm: tuple[Tensor, ...] | None
    group: int
    strides: tuple[int, ...]
    is_transposed: bool

    @property
    def outputs(self) -> int:
        return int(self.weight.shape[1 if self.is_transposed else 0])

    @property
    def begins_block(self) -> bool:
        """A block begins with a depthwise convolution of 3 x 3."""
        count, each, height, _ = self.weight.shape
        return bool(not self.is_transposed and self.group == count and each == 1 and height == 3)


class Graph:
    """The constants and convolutions of an ONNX file."""

    def __init__(self, file: Path) -> None:
        import onnx
        import torch
        from onnx import numpy_helper

        self._model = onnx.load(str(file))
        graph = self._model.graph
        self._same = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Identity"}
        self.values = {
            constant.name: torch.from_numpy(numpy_helper.to_array(constant).copy()) for constant in graph.initializer
        }
        self._users: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            if node.op_type != "Identity":
                for name in node.input:
                    self._users.setdefault(self._real(name), []).append(node)

    @property
    def characters(self) -> str:
        return next(str(entry.value) for entry in self._model.metadata_props if entry.key == "character")

    def convolutions(self) -> list[Convolution]:
        nodes = (node for node in self._model.graph.node if node.op_type in ("Conv", "ConvTranspose"))
        return [self._convolution(node) for node in nodes]

    def _real(self, name: str) -> str:
        while name in self._same:
            name = self._same[name]
        return name

    def _convolution(self, node: NodeProto) -> Convolution:
        bias, norm = None, None
        for user in self._users.get(node.output[0], []):
            if user.op_type == "Add":
                constants = [self.values[real] for name in user.input if (real := self._real(name)) in self.values]
                bias = constants[0].flatten() if constants else bias
            if user.op_type == "BatchNormalization":
                norm = tuple(self.values[self._real(name)] for name in user.input[1:5])
        named: JsonObject = {attribute.name: list(attribute.ints) or attribute.i for attribute in node.attribute}
        return Convolution(
            weight=self.values[self._real(node.input[1])],
            bias=bias,
            norm=norm,
            group=int(named.get("group", 1)),
            strides=tuple(named.get("strides", (1, 1))),
            is_transposed=node.op_type == "ConvTranspose",
        )


def detecting(file: Path) -> Module:
    """The net that finds lines."""
    from transformers import PPOCRV6SmallDetConfig, PPOCRV6SmallDetForObjectDetection

    graph = Graph(file)
    parts = graph.convolutions()
    blocks, used = blocks_of(parts)
    # Each stage but the first begins with a block that makes the picture smaller.
    cuts = [0, *(index for index, block in enumerate(blocks) if block[3] != 1), len(blocks)]
    stages = [blocks[start:end] for start, end in zip(cuts, cuts[1:], strict=False)]
    backbone = {
        "model_type": "pp_lcnet_v4",
        "stem_channels": [3, parts[0].outputs, parts[4].outputs],
        "block_configs": [[list(block) for block in stage] for stage in stages],
        "out_features": [f"stage{number + 1}" for number in range(len(stages))],
    }
    config = PPOCRV6SmallDetConfig(
        backbone_config=backbone, layer_list_out_channels=[stage[-1][2] for stage in stages], neck_out_channels=96
    )
    weights = dict(_backbone(BACKBONE, parts[:used], stages))
    weights |= _neck(iter(parts[used:]))
    return _loaded(PPOCRV6SmallDetForObjectDetection(config), weights)


def reading(file: Path) -> tuple[Module, str]:
    """The net that reads a line, and its alphabet, with a letter on each line."""
    from transformers import PPOCRV6SmallRecConfig, PPOCRV6SmallRecForTextRecognition

    graph = Graph(file)
    parts = graph.convolutions()
    blocks, used = blocks_of(parts)
    config = PPOCRV6SmallRecConfig(head_out_channels=graph.values["linear_8.w_0"].shape[1])
    inner = iter(blocks)
    stages = [[next(inner) for _ in range(count)] for count in READING_STAGES]
    weights = dict(_backbone(BACKBONE, parts[:used], stages))
    for number, part in enumerate(parts[used : used + 3]):
        weights |= _normed(f"head.encoder.conv_block.{number}", part)
    weights |= _attention(graph.values)
    return _loaded(PPOCRV6SmallRecForTextRecognition(config), weights), graph.characters


def blocks_of(parts: Sequence[Convolution]) -> tuple[list[BlockConfig], int]:
    """The blocks of the backbone as its configuration has them, and the number of convolutions in it."""
    blocks: list[BlockConfig] = []
    index = len(STEM)
    while index < len(parts) and parts[index].begins_block:
        first = parts[index]
        squeezes = parts[index + 1].outputs < first.outputs
        last = index + (3 if squeezes else 1) + 1
        height, width = first.strides
        stride = height if height == width else [height, width]
        blocks.append((first.weight.shape[2], first.outputs, parts[last].outputs, stride, squeezes))
        index = last + 1
    return blocks, index


def _backbone(
    name: str, parts: Sequence[Convolution], stages: Sequence[Sequence[BlockConfig]]
) -> Iterator[tuple[str, Tensor]]:
    convolutions = iter(parts)
    for stem in STEM:
        yield from _normed(f"{name}.convolution.{stem}", next(convolutions)).items()
    for number, stage in enumerate(stages):
        for index, (_, inputs, outputs, stride, squeezes) in enumerate(stage):
            block = f"{name}.blocks.{number}.blocks.{index}"
            mixing = next(convolutions)
            if stride == 1 and inputs == outputs:
                yield from _plain(f"{block}.token_conv", mixing).items()
            else:
                yield from _normed(f"{block}.token_conv", mixing).items()
            if squeezes:
                for layer in (0, 2):
                    squeeze = f"{block}.token_squeeze_excitation.convolutions.{layer}"
                    yield from _plain(squeeze, next(convolutions)).items()
            yield from _normed(f"{block}.channel_conv1", next(convolutions)).items()
            yield from _normed(f"{block}.channel_conv2", next(convolutions)).items()


def _neck(convolutions: Iterator[Convolution]) -> Weights:
    weights: Weights = {}

    def squeezed(name: str) -> None:
        for layer in ("conv1", "conv2"):
            weights.update(_plain(f"{name}.{layer}", next(convolutions)))

    for stage in (3, 2, 1, 0):
        name = f"model.neck.insert_conv.{stage}"
        weights[f"{name}.in_conv.weight"] = next(convolutions).weight
        squeezed(f"{name}.squeeze_excitation_block")
    for stage in (3, 2, 1, 0):
        name = f"model.neck.input_conv.{stage}"
        weights |= _plain(f"{name}.depthwise_convolution", next(convolutions))
        weights[f"{name}.pointwise_convolution.weight"] = next(convolutions).weight
        squeezed(f"{name}.squeeze_excitation_module")
    weights |= _normed("head.conv_down", next(convolutions), "norm")
    upwards = next(convolutions)
    weights |= _normed("head.conv_up", upwards, "norm")
    weights["head.conv_up.convolution.bias"] = upwards.weight.new_zeros(upwards.outputs)
    return weights | _plain("head.conv_final", next(convolutions))


def _attention(values: Mapping[str, Tensor]) -> Weights:
    """The layers behind the convolutions. The graph numbers them."""
    weights: Weights = {}

    def linear(name: str, number: int) -> None:
        weights[f"{name}.weight"] = values[f"linear_{number}.w_0"].T.contiguous()
        weights[f"{name}.bias"] = values[f"linear_{number}.b_0"]

    def norm(name: str, number: int) -> None:
        weights[f"{name}.weight"] = values[f"helper.reshape.{2 * number}"].flatten()
        weights[f"{name}.bias"] = values[f"helper.reshape.{2 * number + 1}"].flatten()

    for layer in range(READING_LAYERS):
        block = f"head.encoder.svtr_block.{layer}"
        for index, part in enumerate(("self_attn.qkv", "self_attn.projection", "mlp.fc1", "mlp.fc2")):
            linear(f"{block}.{part}", 4 * layer + index)
        for index in (0, 1):
            norm(f"{block}.layer_norm{index + 1}", 2 * layer + index)
    norm("head.encoder.norm", 2 * READING_LAYERS)
    linear("head.head", 4 * READING_LAYERS)
    return weights


def _plain(name: str, part: Convolution) -> Weights:
    return {f"{name}.weight": part.weight, f"{name}.bias": part.bias}


def _normed(name: str, part: Convolution, norm: str = "normalization") -> Weights:
    like, count = part.weight.new_ones, part.outputs
    scale, shift, mean, variance = part.norm or (
        like(count),
        part.bias,
        like(count) * 0,
        like(count) * (1 - EPSILON),
    )
    return {
        f"{name}.convolution.weight": part.weight,
        f"{name}.{norm}.weight": scale,
        f"{name}.{norm}.bias": shift,
        f"{name}.{norm}.running_mean": mean,
        f"{name}.{norm}.running_var": variance,
    }


def _loaded(net: Module, weights: Mapping[str, Tensor]) -> Module:
    keys = net.load_state_dict(weights, strict=False)
    missing = [name for name in keys.missing_keys if not name.endswith("num_batches_tracked")]
    if missing or keys.unexpected_keys:
        raise ValueError(f"the graph lacks {missing[:3]} and has {keys.unexpected_keys[:3]}: it is of another version")
    return net.eval()
