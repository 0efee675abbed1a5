"""Weights in fewer bits by bitsandbytes: how the libraries are told to pack them, how their layers are kept from
failing, and their size then."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

from cluster.weights.memory import Tensor

if TYPE_CHECKING:
    from diffusers import BitsAndBytesConfig, ModelMixin
    from torch import dtype as Dtype
    from torch.nn import Module
    from transformers import PreTrainedModel

    #: The class of what can be loaded in fewer bits: a denoiser, or a model of transformers.
    PartClass = type[ModelMixin] | type[PreTrainedModel]

#: The inputs and outputs of a four-bit layer that the fast code for CPUs takes are multiples of these.
INPUTS, OUTPUTS = 64, 32
Packed = TypeVar("Packed", bound="Module")

#: Weights that are matrices but not of linear layers: they are looked up, or never packed.
TABLES = re.compile(
    r"(^|\.)(shared|lm_head|wte|wpe|relative_attention_bias|\w*embeddings?|embed_\w+|output_layer)\.weight$"
)


def config_for(kind: PartClass, bits: str, dtype: Dtype, packs_scales: bool = False) -> BitsAndBytesConfig:
    """The configuration with which a library loads that class in so many bits; each library knows only its own."""
    import transformers

    with _without_hub_kernels():
        import bitsandbytes  # noqa: F401
    # A class of diffusers is there only where that has been imported.
    diffusers = sys.modules.get("diffusers")
    library = diffusers if diffusers is not None and issubclass(kind, diffusers.ModelMixin) else transformers
    if bits == "8-bit":
        # It warns at every multiplication that it computes in float16.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return library.BitsAndBytesConfig(load_in_8bit=True)
    return library.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4" if bits == "nf4" else "fp4",
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_use_double_quant=packs_scales,
    )


@contextmanager
def _without_hub_kernels() -> Iterator[None]:
    """On some CPUs bitsandbytes fetches code from a hub when it is imported, if the package `kernels` is there."""
    kernels: ModuleType | None = sys.modules.get("kernels")
    # It warns that it has found none.
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level, logger.level = logger.level, logging.ERROR
    # Python takes this for a package that is not installed.
    sys.modules["kernels"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["kernels"]
        if kernels is not None:
            sys.modules["kernels"] = kernels
        logger.setLevel(level)


def taking_any_width(model: Packed) -> Packed:
    """Has layers that the fast code for CPUs would fail at computed by the code that takes all of them."""
    bitsandbytes = sys.modules.get("bitsandbytes")
    if bitsandbytes is None:
        return model
    for layer in model.modules():
        is_packed = isinstance(layer, bitsandbytes.nn.Linear4bit)
        if is_packed and (layer.in_features % INPUTS or layer.out_features % OUTPUTS):
            layer.support_avx512bf16_for_cpu = False
    return model


def is_matrix(tensor: Tensor) -> bool:
    return len(tensor.shape) == 2 and tensor.name.endswith(".weight")


def packed_bytes(bits: str, numbers: int, rows: int) -> int:
    """Of matrices that have so many numbers and rows together."""
    if bits == "8-bit":
        return numbers + 4 * rows
    # Two numbers in a byte, and an fp32 scale for every 64 numbers.
    return int(numbers * (0.5 + 4 / 64))
