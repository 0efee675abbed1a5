"""Weights in fewer bits by bitsandbytes: how the libraries are told to pack them, and their size then."""

from __future__ import annotations

import logging
import re
import sys
from typing import TYPE_CHECKING

from cluster.weights.memory import Tensor

if TYPE_CHECKING:
    from diffusers import BitsAndBytesConfig, ModelMixin
    from torch import dtype as Dtype
    from transformers import PreTrainedModel

    #: The class of what can be loaded in fewer bits: a denoiser, or a model of transformers.
    PartClass = type[ModelMixin] | type[PreTrainedModel]

#: Weights that are matrices but not of linear layers: they are looked up, or never packed.
TABLES = re.compile(
    r"(^|\.)(shared|lm_head|wte|wpe|relative_attention_bias|\w*embeddings?|embed_\w+|output_layer)\.weight$"
)


def config_for(kind: PartClass, bits: str, dtype: Dtype, packs_scales: bool = False) -> BitsAndBytesConfig:
    """The configuration with which a library loads that class in so many bits; each library knows only its own."""
    import transformers

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


def is_matrix(tensor: Tensor) -> bool:
    return len(tensor.shape) == 2 and tensor.name.endswith(".weight")


def packed_bytes(bits: str, numbers: int, rows: int) -> int:
    """Of matrices that have so many numbers and rows together."""
    if bits == "8-bit":
        return numbers + 4 * rows
    # Two numbers in a byte, and an fp32 scale for every 64 numbers.
    return int(numbers * (0.5 + 4 / 64))
