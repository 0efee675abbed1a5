"""Writes a Stable Diffusion pipeline as a single file with the original names, as its authors and most fine-tunes
publish it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

#: Names within each residual block of the denoiser.
RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ENDS = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
}
DECODER = {
    r"mid_block\.resnets\.0": "mid.block_1",
    r"mid_block\.resnets\.1": "mid.block_2",
    r"mid_block\.attentions\.0": "mid.attn_1",
    r"down_blocks\.(\d+)\.resnets": r"down.\1.block",
    r"down_blocks\.(\d+)\.downsamplers\.0": r"down.\1.downsample",
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    r"attn_1\.to_([qkv])": r"attn_1.\1",
    r"attn_1\.to_out\.0": "attn_1.proj_out",
}


def write(path: Path, pipe: Any) -> Path:
    """Writes the file for a pipeline with one layer per block."""
    count = len(pipe.vae.config.block_out_channels)
    named = {f"model.diffusion_model.{_unet(name)}": value for name, value in pipe.unet.state_dict().items()}
    named |= {f"first_stage_model.{_vae(name, count)}": value for name, value in pipe.vae.state_dict().items()}
    named |= {f"cond_stage_model.transformer.{_clip(name)}": v for name, v in pipe.text_encoder.state_dict().items()}
    save_file({name: value.contiguous() for name, value in named.items()}, path)
    return path


def _unet(name: str) -> str:
    for ours, theirs in ENDS.items():
        if name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    if match := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", name):
        way, block, kind, layer, rest = match.groups()
        place = int(block) * 2 + int(layer) + (1 if way == "down" else 0)
        blocks = "input_blocks" if way == "down" else "output_blocks"
        return f"{blocks}.{place}.{_inside(kind, rest)}"
    if match := re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", name):
        kind, layer, rest = match.groups()
        return f"middle_block.{1 if kind == 'attentions' else 2 * int(layer)}.{_inside(kind, rest)[2:]}"
    if match := re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.*)", name):
        return f"input_blocks.{int(match[1]) * 2 + 2}.0.op.{match[2]}"
    match = re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.(.*)", name)
    assert match, name
    return f"output_blocks.{int(match[1]) * 2 + 1}.2.{match[2]}"


def _inside(kind: str, rest: str) -> str:
    if kind == "attentions":
        return f"1.{rest}"
    layer, _, value = rest.rpartition(".")
    return f"0.{RESIDUAL[layer]}.{value}"


def _vae(name: str, count: int) -> str:
    for ours, theirs in DECODER.items():
        name = re.sub(ours, theirs, name)
    # Here from the smallest to the largest resolution, in the file the other way round.
    name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda found: f"up.{count - 1 - int(found[1])}.block", name)
    return re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda found: f"up.{count - 1 - int(found[1])}.upsample", name)


def _clip(name: str) -> str:
    return name if name.startswith("text_model.") else f"text_model.{name}"
