"""Language models with random weights, as transformers saves them, and what its own `generate` answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers.decoders import ByteLevel
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from tests import tiny

CONTEXT = 2048
SIZES: dict[str, Any] = {
    **{"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "head_dim": 16},
    **{"num_key_value_heads": 2, "max_position_embeddings": CONTEXT, "eos_token_id": None, "bos_token_id": None},
}
WINDOW = 20
KINDS: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZES)),
    "mistral": (MistralForCausalLM, MistralConfig(**SIZES, sliding_window=WINDOW)),
    "gemma3": (
        Gemma3ForCausalLM,
        Gemma3TextConfig(
            **SIZES, sliding_window=WINDOW, layer_types=["sliding_attention"] * 2 + ["full_attention"] * 2
        ),
    ),
    "gpt-oss": (GptOssForCausalLM, GptOssConfig(**SIZES, sliding_window=WINDOW, num_local_experts=4)),
}
TEMPLATE = (
    "{% for message in messages %}[CLS]{{ message.role }}: {{ message.content }}[SEP]{% endfor %}"
    "{% if add_generation_prompt %}[CLS]assistant: {% endif %}"
)


def save_language(folder: Path, kind: str = "llama", **sizes: int) -> Path:
    words = tiny.tokenizer(frames=False, max_tokens=CONTEXT)
    words.chat_template = TEMPLATE
    words.backend_tokenizer.decoder = ByteLevel()
    model, config = KINDS[kind]
    return tiny.saved(folder, model, type(config)(**{**config.to_dict(), **sizes}), words)


def generated(folder: Path, prompt: list[int], tokens: int, **arguments: Any) -> list[int]:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([prompt])
    written = model.generate(ids, max_new_tokens=tokens, do_sample=False, pad_token_id=0, **arguments)
    return [int(id) for id in written[0, len(prompt) :]]
