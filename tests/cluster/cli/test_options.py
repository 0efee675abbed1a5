"""Flags from fields, and the values of family options."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click
import pytest
from click.testing import CliRunner
from pydantic import Field

from cluster.cli.options import family_options, flags_of, nearest_flag, parse_value, with_dashes
from cluster.launch import LaunchSpec


class Wider(LaunchSpec):
    urgency: int | None = Field(default=None, description="A field somebody adds.")
    eager: bool = Field(default=False, description="Another.")
    share: float = Field(default=0.5, description="A third.")
    mode: Literal["fast", "exact"] | None = Field(default=None, description="A fourth.")
    root: Path | None = Field(default=None, description="A fifth.")


def flags_given(*words: str) -> dict[str, Any]:
    @click.command(context_settings={"token_normalize_func": with_dashes})
    @flags_of(Wider, {"model_name": ("-n",), "model_path": ("-mp",)})
    def command(**flags: Any) -> dict[str, Any]:
        return {name: value for name, value in flags.items() if value is not None}

    done = CliRunner().invoke(command, ["-n", "m", *words], standalone_mode=False)
    if done.exception:
        raise done.exception
    given: dict[str, Any] = done.return_value
    del given["model_name"]
    return given


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ([], {}),
        (["--urgency", "3"], {"urgency": 3}),
        (["--eager"], {"eager": True}),
        (["--no-eager"], {"eager": False}),
        (["--share", "0.25"], {"share": 0.25}),
        (["--mode", "fast"], {"mode": "fast"}),
        (["--root", "/w"], {"root": "/w"}),
        (["--replica", "2"], {"replica": 2}),
        (["--n-gpu", "0.5"], {"n_gpu": "0.5"}),
        (["--n_gpu", "none"], {"n_gpu": "none"}),
        (["-mp", "/w"], {"model_path": "/w"}),
        (["--model_path=/w"], {"model_path": "/w"}),
        (["--gpu-idx", "0,1"], {"gpu_idx": "0,1"}),
        (["--replica-config", '[{"worker_ip":"a"}]'], {"replica_config": [{"worker_ip": "a"}]}),
        (["--envs", "A=1", "--envs", "B=x=y"], {"envs": {"A": "1", "B": "x=y"}}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_field_is_a_flag(words: list[str], given: dict[str, Any]) -> None:
    assert flags_given(*words) == given
    Wider.model_validate({"model_name": "m", **given})


@pytest.mark.parametrize(
    "words", [["--urgency", "x"], ["--mode", "slow"], ["--envs", "A"], ["--replica-config", "[oops"]], ids=" ".join
)
def test_a_bad_value_is_refused_at_once(words: list[str]) -> None:
    with pytest.raises(click.UsageError):
        flags_given(*words)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("None", None),
        ("true", True),
        ("False", False),
        ("12", 12),
        ("-3", -3),
        ("0.5", 0.5),
        ("1e-3", 0.001),
        ("1_8", "1_8"),
        ("1.2.3", "1.2.3"),
        ("nan", "nan"),
        ("1e999", "1e999"),
        ('{"a": [1]}', {"a": [1]}),
        ("[1, 2]", [1, 2]),
        ("[oops", "[oops"),
        ("bf16", "bf16"),
        ("", ""),
    ],
)
def test_values_are_read_as_xinference_reads_them(text: str, value: Any) -> None:
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("--cpu_offload True", {"cpu_offload": True}),
        ("--cpu-offload=true", {"cpu_offload": True}),
        ("--seed -1 --torch-dtype bf16", {"seed": -1, "torch_dtype": "bf16"}),
        ("--text_encoder_3 None", {"text_encoder_3": None}),
        ("--prompt=--x", {"prompt": "--x"}),
        ("--cpu-offload", {"cpu_offload": True}),
        ("--cpu-offload --seed -1", {"cpu_offload": True, "seed": -1}),
        (
            "--vae_tiling --lora-modules a /a -lm b /b --steps 2",
            {
                "vae_tiling": True,
                "lora_modules": [{"name": "a", "path": "/a"}, {"name": "b", "path": "/b"}],
                "steps": 2,
            },
        ),
        (
            "--quantization-config load_in_4bit true --quantization_config bnb_4bit_quant_type nf4 --slots 2",
            {"quantization_config": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "slots": 2},
        ),
        (
            '--quantization-config {"load_in_8bit":true} --slots 2',
            {"quantization_config": {"load_in_8bit": True}, "slots": 2},
        ),
        ("", {}),
    ],
)
def test_other_pairs_are_options_of_the_family(words: str, options: dict[str, Any]) -> None:
    assert family_options(words.split()) == options


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--lora-modules sketch", "--lora-modules needs a name and a path"),
        ("bge-m3", "name the model with --model-name"),
        ("-x 1", "'-x' does not belong to any option"),
    ],
)
def test_what_is_no_pair_is_refused(words: str, said: str) -> None:
    with pytest.raises(click.UsageError, match=said):
        family_options(words.split())


@pytest.mark.parametrize(
    ("key", "flag"), [("replcas", "--replica"), ("modelname", "--model-name"), ("cpu_offload", None)]
)
def test_the_nearest_flag(key: str, flag: str | None) -> None:
    assert nearest_flag(key, LaunchSpec) == flag
