"""Tokenizers and components of tiny pipelines, with random weights."""

from __future__ import annotations

import io
import string
from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    UNet2DConditionModel,
)
from diffusers.pipelines.kolors import ChatGLMTokenizer
from sentencepiece import SentencePieceTrainer
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

PRINTABLE = [letter for letter in string.printable if not letter.isspace()]


# ------------------------------------------------------------------------------------------------ tokenizers


def byte_letters() -> list[str]:
    """One visible character per byte, in the order of GPT-2's alphabet."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [*map(chr, visible), *(chr(256 + place) for place in range(256 - len(visible)))]


def clip_tokenizer() -> CLIPTokenizer:
    letters = byte_letters()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab=_numbered(tokens), merges=[], model_max_length=77)


def t5_tokenizer() -> T5Tokenizer:
    scores = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in PRINTABLE)]
    return T5Tokenizer(vocab=scores, extra_ids=0, model_max_length=512)


def qwen_tokenizer() -> Qwen2Tokenizer:
    tokenizer = Qwen2Tokenizer(vocab=_numbered(byte_letters()), merges=[], model_max_length=8192)
    marks = ["im_start", "im_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad"]
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<|{mark}|>" for mark in marks]})
    return tokenizer


def bert_tokenizer() -> BertTokenizer:
    small = string.ascii_lowercase + string.digits
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *small, *string.punctuation, *(f"##{c}" for c in small)]
    return BertTokenizer(vocab=_numbered(tokens), model_max_length=77)


def glm_tokenizer() -> PreTrainedTokenizerFast:
    made = Tokenizer(BPE(vocab=_numbered(byte_letters()), merges=[]))
    made.pre_tokenizer = ByteLevel(add_prefix_space=False)
    made.decoder = ByteLevelDecoder()
    marks = ["[gMASK]", "<sop>"]
    made.add_special_tokens(["<|endoftext|>", *marks])
    # GLM's own tokenizer adds these. Without them an empty prompt would have no tokens at all.
    made.post_processor = TemplateProcessing(
        single="[gMASK] <sop> $A", special_tokens=[(mark, made.token_to_id(mark)) for mark in marks]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        model_max_length=1024,
    )


def chatglm_tokenizer(folder: Path) -> ChatGLMTokenizer:
    """It reads a file that must exist until the pipeline is saved."""
    trained = io.BytesIO()
    words = ["a cat sits on the mat", "the quick brown fox jumps over the lazy dog"]
    SentencePieceTrainer.train(
        sentence_iterator=iter([string.printable.replace("\n", " ")] * 10 + words * 20),
        model_writer=trained,
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(trained.getvalue())
    return ChatGLMTokenizer(str(folder / "tokenizer.model"))


def _numbered(tokens: list[str]) -> dict[str, int]:
    return {token: place for place, token in enumerate(tokens)}


# ------------------------------------------------------------------------------------------------ components


def clip_encoder(kind: Any = CLIPTextModel, width: int = 32) -> Any:
    return kind(
        CLIPTextConfig(
            vocab_size=514,
            bos_token_id=512,
            # The pooled vector is taken at the end of the text.
            eos_token_id=513,
            pad_token_id=513,
            hidden_size=width,
            projection_dim=32,
            intermediate_size=64,
            num_attention_heads=4,
            num_hidden_layers=2,
        )
    )


def t5_encoder(width: int) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=128,
            d_model=width,
            d_kv=16,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
            use_cache=False,
        )
    )


def vae(latent_channels: int = 4, **options: Any) -> AutoencoderKL:
    return AutoencoderKL(
        sample_size=64,
        block_out_channels=[8] * 4,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=4,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        **options,
    )


def flow_vae(shift: float, scale: float) -> AutoencoderKL:
    return vae(16, use_quant_conv=False, use_post_quant_conv=False, shift_factor=shift, scaling_factor=scale)


def unet(**options: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        **options,
    )


def xl_unet(text_width: int, pooled_width: int) -> UNet2DConditionModel:
    """Besides the pooled text it gets the size of the picture as six numbers."""
    return unet(
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 1),
        projection_class_embeddings_input_dim=pooled_width + 6 * 8,
        cross_attention_dim=text_width,
    )


def euler(beta_end: float = 0.012) -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=beta_end,
        beta_schedule="scaled_linear",
        steps_offset=1,
        timestep_spacing="leading",
    )
