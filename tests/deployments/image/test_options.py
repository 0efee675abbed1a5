from __future__ import annotations

from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

from cluster import errors
from deployments import check_options
from deployments.image.options import ImageOptions


class Family:
    Options = ImageOptions
    lacks: ClassVar[dict[str, str]] = {}


@pytest.mark.parametrize(
    ("name", "written", "read"),
    [
        ("cpu_offload", "True", "model"),
        ("cpu_offload", True, "model"),
        ("cpu_offload", "1", "model"),
        ("cpu_offload", "group", "group"),
        ("cpu_offload", "False", None),
        ("cpu_offload", False, None),
        ("sequential_cpu_offload", "True", True),
        ("quantize_text_encoder", "text_encoder_2, text_encoder_3", ("text_encoder_2", "text_encoder_3")),
        ("quantize_text_encoder", ["text_encoder"], ("text_encoder",)),
        ("quantize_text_encoder", "False", ()),
        ("quantize_text_encoder", None, ()),
        ("text_encoder_quantization", "4bit", "4-bit"),
        ("transformer_quantization", "int8", "8-bit"),
        ("transformer_quantization", 8, "8-bit"),
        ("transformer_quantization", "none", None),
        ("transformer_nf4", "True", True),
        ("transformer_nf4", "False", False),
        ("transformer_nf4", "off", False),
        ("transformer_nf4", "None", False),
        ("transformer_nf4", False, False),
        ("transformer_nf4", None, False),
        ("text_encoder_3", "None", None),
        ("text_encoder_3", None, None),
        ("torch_dtype", "bf16", "bfloat16"),
        ("torch_dtype", "torch.float16", "float16"),
        ("torch_dtype", None, "auto"),
        ("gguf_quantization", "None", None),
        ("controlnet", "canny,depth", ("canny", "depth")),
        ("lora_modules", [{"lora_name": "ink", "local_path": "/l/ink"}], {"ink": "/l/ink"}),
        ("lora_modules", [{"name": "ink", "path": "/l/ink"}], {"ink": "/l/ink"}),
        ("lora_modules", {"ink": "/l/ink"}, {"ink": "/l/ink"}),
        ("max_num_images", "4", 4),
        ("vae_tiling", "1", True),
        ("vae_slicing", None, False),
        ("attention_slicing", "None", False),
        ("text_encoder_quantize_method", None, "bnb"),
        ("transformer_quantize_method", "None", "bnb"),
        ("deepcache", "False", False),
        ("lora_scale", "None", None),
    ],
)
def test_an_option_is_read_however_it_is_written(name: str, written: object, read: object) -> None:
    assert getattr(ImageOptions.model_validate({name: written}), name) == read


def test_what_was_read_is_read_again_as_it_is_kept() -> None:
    options = ImageOptions(
        cpu_offload=True, text_encoder_3="None", quantize_text_encoder="text_encoder", controlnet="a"
    )
    assert ImageOptions.model_validate(options.model_dump(mode="json")) == options


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"cpu_offload": "disk"}, "cpu_offload"),
        ({"transformer_quantization": "2-bit"}, "transformer_quantization"),
        ({"quantize_text_encoder": True}, "names, separated by commas"),
        ({"lora_modules": [{"name": "a"}]}, "a name of its own and a path"),
        ({"lora_modules": [{"name": "a", "path": "x"}, {"name": "a", "path": "y"}]}, "a name of its own"),
        ({"lora_modules": {"a.b": "x"}}, "is no name"),
        ({"lora_modules": "ink"}, "takes names with paths"),
        ({"device_map": "balanced", "cpu_offload": True}, "both say where weights live"),
        ({"lightning_version": "a", "lightning_model_path": "b"}, "two sources of one LoRA"),
        ({"max_pixels": 0}, "greater than 0"),
        ({"text_encoder_2": "T5"}, "text_encoder_2"),
        ({"cache": "deep"}, "cache"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        ImageOptions.model_validate(options)


def test_a_misspelt_option_is_refused_with_the_right_one() -> None:
    with pytest.raises(errors.BadOption, match="did you mean 'cpu_offload'"):
        check_options(Family, {"cpu_ofload": True})


def test_two_spellings_of_one_wish_are_one_wish() -> None:
    assert ImageOptions(sequential_cpu_offload=True).offload == "sequential"
    assert ImageOptions(transformer_nf4=True).denoiser_quantization == "nf4"
    assert ImageOptions(transformer_nf4=True, gguf_quantization="Q4_0").denoiser_quantization is None


def test_nf4_of_the_catalogue_is_switched_off_and_no_other_quantisation_with_it() -> None:
    assert ImageOptions(transformer_quantization="nf4", transformer_nf4=False).denoiser_quantization is None
    assert ImageOptions(transformer_quantization="nf4").denoiser_quantization == "nf4"
    assert ImageOptions(transformer_quantization="8-bit", transformer_nf4=False).denoiser_quantization == "8-bit"


def test_no_bits_for_text_encoders_are_no_quantised_text_encoders() -> None:
    options = ImageOptions(quantize_text_encoder="text_encoder_3", text_encoder_quantization="False")
    assert options.quantize_text_encoder == ()


def test_every_option_says_what_it_is_for() -> None:
    assert [name for name, field in ImageOptions.model_fields.items() if not field.description] == []
