"""The launch options of diffusion models. They are read leniently, because people, clients and files write them in
different ways.

Knows nothing of pipelines: whether an option makes sense for one is checked when its parts are known.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from cluster.names import quoted
from deployments.adapters import adapters_in

#: Formats of packed weights. `4-bit` is fp4; nf4 has the same size and is closer to the original weights.
Bits = Literal["8-bit", "4-bit", "nf4"]
Offload = Literal["model", "group", "sequential"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Cache = Literal["first-block-careful", "first-block", "first-block-fast", "taylorseer"]

_NOTHING = ("none", "null", "false", "no", "off", "")
_DTYPES = {"fp32": "float32", "float": "float32", "fp16": "float16", "half": "float16", "bf16": "bfloat16"}
_BITS = {"8bit": "8-bit", "int8": "8-bit", "8": "8-bit", "4bit": "4-bit", "fp4": "4-bit", "4": "4-bit"}


def _said(value: object) -> object:
    """`"None"`, `"False"` and False all mean None; other words are stripped."""
    if value is False or (isinstance(value, str) and value.strip().lower() in _NOTHING):
        return None
    return value.strip() if isinstance(value, str) else value


def _flag(value: object) -> object:
    """A word for no and null are false, which is not the same as to say nothing."""
    return False if _said(value) is None else value


def _method(value: object) -> object:
    return "bnb" if _said(value) is None else value


def _words(value: object) -> object:
    """`a,b` or `["a", "b"]`."""
    value = _said(value)
    if value is None:
        return ()
    if value is True:
        raise ValueError("it takes names, separated by commas")
    pieces = value.split(",") if isinstance(value, str) else value
    return tuple(piece.strip() for piece in pieces) if isinstance(pieces, (list, tuple)) else pieces


def _bits(value: object) -> object:
    value = _said(value)
    return _BITS.get(str(value).lower(), value) if value is not None else None


def _dtype(value: object) -> object:
    value = _said(value)
    if not isinstance(value, str):
        return "auto" if value is None else value
    name = value.lower().removeprefix("torch.")
    return _DTYPES.get(name, name)


def _offload(value: object) -> object:
    value = _said(value)
    return "model" if value is True or str(value).lower() in ("true", "1") else value


def _adapters(value: object) -> object:
    return adapters_in(_said(value))


Word = Annotated[str | None, BeforeValidator(_said)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Method = Annotated[Literal["bnb"], BeforeValidator(_method)]
Words = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_words)]
#: A part of the pipeline: loaded, or left out when null.
Slot = Annotated[Literal["load"] | None, BeforeValidator(_said)]


class ImageOptions(BaseModel):
    """Launch options of every diffusion model."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    torch_dtype: Annotated[Dtype, BeforeValidator(_dtype)] = Field(
        default="auto", description="Number format; auto is float32 on CPU and the model's own on a GPU."
    )
    variant: Word = Field(default=None, description="Which set of the weight files to load, e.g. fp16.")
    device_map: Annotated[Literal["balanced", "cuda", "cpu"] | None, BeforeValidator(_said)] = Field(
        default=None, description="Where the parts go; balanced spreads them over several cards, without cpu_offload."
    )
    cpu_offload: Annotated[Offload | None, BeforeValidator(_offload)] = Field(
        default=None, description="Keep weights in main memory until needed: by model, by group of layers, by layer."
    )
    sequential_cpu_offload: Flag = Field(default=False, description="The same as cpu_offload=sequential.")
    quantize_text_encoder: Words = Field(
        default=(), description="Text encoders to keep in fewer bits, e.g. text_encoder_2; false for none."
    )
    text_encoder_quantization: Annotated[Bits | None, BeforeValidator(_bits)] = Field(
        default="8-bit", description="In how many bits they are kept; none keeps none of them in fewer."
    )
    text_encoder_quantize_method: Method = Field(default="bnb", description="By which library.")
    transformer_quantization: Annotated[Bits | Literal["fp8"] | None, BeforeValidator(_bits)] = Field(
        default=None, description="Keep the denoiser in fewer bits; fp8 stores so and computes in the number format."
    )
    transformer_quantize_method: Method = Field(default="bnb", description="By which library.")
    transformer_nf4: Annotated[bool | Literal["auto"], BeforeValidator(_flag)] = Field(
        default="auto", description="true is transformer_quantization=nf4; false switches off nf4 of the catalogue."
    )
    quantize: bool | int | str | None = Field(
        default=None, description="Accepted for MLX's sake and changes nothing here; the model's description says so."
    )
    gguf_quantization: Word = Field(
        default=None, description="Take the denoiser from the model's GGUF files, e.g. Q4_K_S."
    )
    gguf_model_path: Word = Field(default=None, description="Take the denoiser from this GGUF file.")
    text_encoder: Slot = Field(default="load", description="null leaves this part of the pipeline out.")
    text_encoder_2: Slot = Field(default="load", description="null leaves this part of the pipeline out.")
    text_encoder_3: Slot = Field(default="load", description="null leaves this part of the pipeline out.")
    attention_backend: Word = Field(
        default=None, description="Kernel for attention, e.g. flash, sage, _native_cudnn; native where it cannot run."
    )
    attention_slicing: Flag = Field(default=False, description="Compute attention in slices: slower, less memory.")
    vae_tiling: Flag = Field(default=False, description="Decode large pictures in tiles.")
    vae_slicing: Flag = Field(default=False, description="Decode several pictures one after the other.")
    compile: Flag = Field(default=False, description="Compile the denoiser's blocks; the first pictures take longer.")
    cache: Annotated[Cache | None, BeforeValidator(_said)] = Field(
        default=None, description="What requests get that do not say how much may be reused between steps."
    )
    lora_modules: Annotated[dict[str, str], BeforeValidator(_adapters)] = Field(
        default_factory=dict, description="LoRA adapters that requests may name: names with paths."
    )
    lora_scale: Annotated[Annotated[float, Field(ge=-10, le=10)] | None, BeforeValidator(_said)] = Field(
        default=None, description="Scale of the adapters for requests that name none; these get none by default."
    )
    deepcache: bool | None = Field(
        default=None,
        description="Accepted and changes nothing: pictures are exact; see cache for models that have one.",
    )
    deepcache_cache_interval: int | None = Field(default=None, description="As deepcache.")
    deepcache_cache_branch_id: int | None = Field(default=None, description="As deepcache.")
    controlnet: Words = Field(default=(), description="ControlNets, by the model's own names or by path.")
    scheduler: Word = Field(default=None, description="Class of the scheduler, e.g. EulerDiscreteScheduler.")
    lightning_version: Word = Field(default=None, description="Distilled LoRA for few steps, as the model lists them.")
    lightning_model_path: Word = Field(default=None, description="File of such a LoRA.")
    max_pixels: int | None = Field(default=None, gt=0, description="Pixels that one picture may have.")
    max_num_images: int = Field(default=16, gt=0, le=1024, description="Pictures that one request may ask for.")
    allow_pickle: bool = Field(default=False, description="Load weights that are pickles, where the server allows it.")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.text_encoder_quantization is None:
            self.quantize_text_encoder = ()
        if self.device_map == "balanced" and self.offload is not None:
            raise ValueError("device_map=balanced and cpu_offload both say where weights live: give one of them")
        if self.lightning_version is not None and self.lightning_model_path is not None:
            raise ValueError("lightning_version and lightning_model_path are two sources of one LoRA: give one of them")
        if self.lora_scale is not None and not self.lora_modules:
            raise ValueError("lora_scale is the scale of lora_modules, and there are none")
        for name in self.lora_modules:
            # The names become attributes of modules, which cannot contain dots.
            if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", name):
                raise ValueError(f"lora_modules: {quoted(name)} is no name of letters, digits, '_' and '-'")
        return self

    @property
    def usual_adapters(self) -> tuple[tuple[str, float], ...]:
        """Those of requests that name none, with their scales."""
        return tuple((name, self.lora_scale) for name in sorted(self.lora_modules) if self.lora_scale)

    @property
    def offload(self) -> Offload | None:
        return self.cpu_offload or ("sequential" if self.sequential_cpu_offload else None)

    @property
    def takes_gguf(self) -> bool:
        return self.gguf_quantization is not None or self.gguf_model_path is not None

    @property
    def denoiser_quantization(self) -> str | None:
        """None for a GGUF file, which is quantised already, whatever the catalogue's default says."""
        if self.takes_gguf:
            return None
        if self.transformer_nf4 is True:
            return "nf4"
        # The catalogue's own default is written as transformer_quantization.
        is_off = self.transformer_nf4 is False and self.transformer_quantization == "nf4"
        return None if is_off else self.transformer_quantization

    @property
    def dropped(self) -> tuple[str, ...]:
        slots = ("text_encoder", "text_encoder_2", "text_encoder_3")
        return tuple(slot for slot in slots if getattr(self, slot) is None)
