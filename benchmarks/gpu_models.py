"""Models with random weights for the runs on a card: of real sizes there, tiny on CPU. Nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.image_gpu import sdxl_denoiser

#: Width, layers, heads and inner width of BERT-large, and of what stands for it on CPU.
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
#: Of a language model of 3 milliard parameters.
LANGUAGE = {
    **{"hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24, "num_key_value_heads": 8},
    "intermediate_size": 8192,
}


def encoder(folder: Path, is_small: bool, head: bool = False) -> Path:
    """A BERT; with a head it scores pairs."""
    from transformers import BertConfig, BertForSequenceClassification, BertModel

    kind, more = (BertForSequenceClassification, {"num_labels": 1}) if head else (BertModel, {})
    config = BertConfig(**(TINY if is_small else LARGE), max_position_embeddings=512, **more)
    return _saved(folder, kind, config, max_tokens=512)


def language(folder: Path, is_small: bool) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {**TINY, "num_key_value_heads": 2} if is_small else LANGUAGE
    return _saved(folder, LlamaForCausalLM, LlamaConfig(**sizes, max_position_embeddings=4096), max_tokens=4096)


def pictures(folder: Path, is_small: bool) -> Path:
    """SDXL, whose text encoders are two layers each: they are no part of what is measured."""
    import torch

    from tests import pipelines

    if is_small:
        return pipelines.saved("sdxl", folder)
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from tests.pipeline_parts import clip_tokenizer

    def text(kind: Any, width: int) -> Any:
        words = {"vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
        size = {"hidden_size": width, "projection_dim": 1280, "intermediate_size": 1024, "num_attention_heads": 8}
        return kind(CLIPTextConfig(**words, **size, num_hidden_layers=2))

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            denoiser = sdxl_denoiser()
            decoder = AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
                latent_channels=4,
                scaling_factor=0.13025,
            )
    finally:
        torch.set_default_dtype(before)
    StableDiffusionXLPipeline(
        vae=decoder,
        text_encoder=text(CLIPTextModel, 768).to(torch.bfloat16),
        tokenizer=clip_tokenizer(),
        text_encoder_2=text(CLIPTextModelWithProjection, 1280).to(torch.bfloat16),
        tokenizer_2=clip_tokenizer(),
        unet=denoiser,
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
    ).save_pretrained(folder)
    return folder


def documents(folder: Path) -> Path:
    """Tiny on every device: what is shown is that the family runs there."""
    from tests.deployments.ocr.small_documents import built

    return built("GOT-OCR2", folder).rename(folder / "model")


def _saved(folder: Path, kind: Any, config: Any, max_tokens: int) -> Path:
    import torch

    from tests.tiny import tokenizer

    words = tokenizer(max_tokens=max_tokens)
    config.vocab_size, config.pad_token_id = len(words), words.pad_token_id
    torch.manual_seed(0)
    device = "cuda" if config.hidden_size >= LARGE["hidden_size"] else "cpu"
    with torch.device(device):
        model = kind(config)
    model.to(torch.bfloat16 if device == "cuda" else torch.float32).eval().save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def weight_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
