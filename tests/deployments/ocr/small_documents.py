"""A tiny model with random weights of every kind of document model, in a folder from which it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
CHAT = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}\n{% endif %}"
)


def tokenizer(**named: str) -> Any:
    """A tokenizer of bytes and of the special tokens of the kind. A named token gets the name that its processor
    uses."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<s>", "</s>", "<pad>", *named.values()]
    vocabulary = {token: place for place, token in enumerate((*special, *letters))}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        **({"extra_special_tokens": named} if named else {}),
    )


def _saved(folder: Path, model: Any, processor: Any) -> Path:
    model.generation_config.bos_token_id = 0
    model.generation_config.eos_token_id = 1
    model.generation_config.pad_token_id = 2
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _chat(image: str) -> str:
    return CHAT.replace("IMAGE", image)


def got(folder: Path) -> Path:
    words = tokenizer(image_token="<imgpad>", start="<img>", end="</img>", im_start="<|im_start|>", im_end="<|im_end|>")
    vision = {
        "hidden_size": 16, "output_channels": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 1024,
        "patch_size": 16, "window_size": 4, "global_attn_indexes": [], "mlp_dim": 24,
    }  # fmt: skip
    # Each picture becomes 256 tokens, whatever its size.
    config = transformers.GotOcr2Config(
        vision_config=vision,
        text_config={"model_type": "qwen2", "vocab_size": len(words), **TEXT},
        image_token_index=words.convert_tokens_to_ids("<imgpad>"),
        image_seq_length=256,
    )
    images = transformers.GotOcr2ImageProcessorPil(size={"height": 1024, "width": 1024})
    processor = transformers.GotOcr2Processor(images, words)
    return _saved(folder, transformers.GotOcr2ForConditionalGeneration(config), processor)


def deepseek(folder: Path) -> Path:
    words = tokenizer(image_token="<image>", ref="<|ref|>", grounding="<|grounding|>")
    sam = {
        "hidden_size": 16, "output_channels": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 768,
        "patch_size": 16, "window_size": 4, "global_attn_indexes": [], "downsample_channels": [8, 32],
    }  # fmt: skip
    config = transformers.DeepseekOcr2Config(
        vision_config={"sam_config": sam, "encoder_config": {**TEXT, "vocab_size": 8}},
        text_config={
            **TEXT,
            "vocab_size": len(words),
            "n_routed_experts": 2,
            "num_experts_per_tok": 1,
            "n_shared_experts": 1,
            "moe_intermediate_size": 16,
            "mlp_layer_types": ["dense", "sparse"],
        },
        image_token_id=words.convert_tokens_to_ids("<image>"),
    )
    images = transformers.DeepseekOcr2ImageProcessorPil(
        size={"height": 768, "width": 768}, tile_size=768, crop_to_patches=False
    )
    model = transformers.DeepseekOcr2ForConditionalGeneration(config)
    return _saved(folder, model, transformers.DeepseekOcr2Processor(images, words))


def paddle(folder: Path) -> Path:
    words = tokenizer(image_token="<|IMAGE_PLACEHOLDER|>", start="<|IMAGE_START|>", end="<|IMAGE_END|>")
    config = transformers.PaddleOCRVLConfig(
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 56, "patch_size": 14,
        },
        text_config={
            **TEXT, "vocab_size": len(words), "head_dim": 16,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
        },
        image_token_id=words.image_token_id,
        vision_start_token_id=words.convert_tokens_to_ids("<|IMAGE_START|>"),
        vision_end_token_id=words.convert_tokens_to_ids("<|IMAGE_END|>"),
    )  # fmt: skip
    images = transformers.PaddleOCRVLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 112 * 112})
    template = _chat("<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>")
    processor = transformers.PaddleOCRVLProcessor(images, words, chat_template=template)
    return _saved(folder, transformers.PaddleOCRVLForConditionalGeneration(config), processor)


def hunyuan(folder: Path) -> Path:
    words = tokenizer(image_token="<img>", image_start_token="<img_start>", image_end_token="<img_end>", line="<line>")
    config = transformers.HunYuanVLConfig(
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
            "out_hidden_size": 32, "text_hidden_size": 32, "max_image_size": 128, "min_image_size": 32,
            "img_max_token_num": 64, "patch_size": 16,
        },
        text_config={
            **TEXT, "vocab_size": len(words), "head_dim": 16,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2, 2]},
        },
        image_token_id=words.image_token_id,
        im_start_id=words.image_start_token_id,
        im_end_id=words.image_end_token_id,
        im_newline_id=words.convert_tokens_to_ids("<line>"),
    )  # fmt: skip
    images = transformers.HunYuanVLImageProcessorPil(size={"shortest_edge": 64 * 64, "longest_edge": 128 * 128})
    processor = transformers.HunYuanVLProcessor(images, words, chat_template=_chat("<img_start><img><img_end>"))
    return _saved(folder, transformers.HunYuanVLForConditionalGeneration(config), processor)


def lighton(folder: Path) -> Path:
    words = tokenizer(image_token="<|image_pad|>", image_break_token="<|break|>", image_end_token="<|image_end|>")
    config = transformers.LightOnOcrConfig(
        vision_config={
            "model_type": "pixtral", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "head_dim": 16, "image_size": 112, "patch_size": 14,
        },
        text_config={"model_type": "qwen3", **TEXT, "vocab_size": len(words), "head_dim": 16},
        image_token_id=words.image_token_id,
    )  # fmt: skip
    images = transformers.PixtralImageProcessorPil(size={"longest_edge": 112}, patch_size={"height": 28, "width": 28})
    processor = transformers.LightOnOcrProcessor(images, words, chat_template=_chat("<|image_pad|>"))
    return _saved(folder, transformers.LightOnOcrForConditionalGeneration(config), processor)


def glm(folder: Path) -> Path:
    words = tokenizer(
        image_token="<|image|>", video_token="<|video|>", start="<|begin_of_image|>", end="<|end_of_image|>",
        video_start="<|begin_of_video|>", video_end="<|end_of_video|>",
    )  # fmt: skip
    config = transformers.GlmOcrConfig(
        vision_config={
            "depth": 2, "hidden_size": 32, "num_heads": 2, "image_size": 56, "patch_size": 14, "out_hidden_size": 32,
            "intermediate_size": 48,
        },
        text_config={
            **TEXT, "vocab_size": len(words), "head_dim": 16,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
        },
        image_token_id=words.image_token_id,
        video_token_id=words.video_token_id,
        image_start_token_id=words.convert_tokens_to_ids("<|begin_of_image|>"),
        image_end_token_id=words.convert_tokens_to_ids("<|end_of_image|>"),
        video_start_token_id=words.convert_tokens_to_ids("<|begin_of_video|>"),
        video_end_token_id=words.convert_tokens_to_ids("<|end_of_video|>"),
    )  # fmt: skip
    images = transformers.Glm46VImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 112 * 112 * 2})
    template = _chat("<|begin_of_image|><|image|><|end_of_image|>")
    # A complete processor of this kind can only be made with torchvision.
    words.chat_template = template
    images.save_pretrained(folder)
    return _saved(folder, transformers.GlmOcrForConditionalGeneration(config), words)


def docling(folder: Path) -> Path:
    grid = {f"row_{row}": f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)}
    words = tokenizer(image_token="<image>", around="<fake_token_around_image>", whole="<global-img>", **grid)
    config = transformers.GraniteDoclingConfig(
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 64, "patch_size": 16, "out_hidden_size": 32, "scale_factor": 2,
            "deepstack_visual_indexes": [0],
        },
        text_config={**TEXT, "vocab_size": len(words)},
        image_token_id=words.convert_tokens_to_ids("<image>"),
        pad_token_id=2,
    )  # fmt: skip
    images = transformers.GraniteDoclingImageProcessorPil(size={"height": 64, "width": 64}, crop_to_patches=False)
    processor = transformers.GraniteDoclingProcessor(images, words, image_seq_len=4, chat_template=_chat("<image>"))
    return _saved(folder, transformers.GraniteDoclingForConditionalGeneration(config), processor)


def florence(folder: Path) -> Path:
    words = tokenizer(image_token="<image>", loc="<loc_0>")
    config = transformers.Florence2Config(
        vision_config={
            "depths": [1, 1], "patch_size": [7, 3], "patch_stride": [4, 2], "patch_padding": [3, 1],
            "patch_prenorm": [False, True], "embed_dim": [16, 32], "num_heads": [2, 2], "num_groups": [2, 2],
            "window_size": 4, "projection_dim": 32,
        },
        text_config={
            "model_type": "bart", "vocab_size": len(words), "d_model": 32, "encoder_layers": 1, "decoder_layers": 1,
            "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
            "max_position_embeddings": 512, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
            "decoder_start_token_id": 1,
        },
        image_token_id=words.image_token_id,
    )  # fmt: skip
    images = transformers.CLIPImageProcessorPil(
        size={"height": 64, "width": 64}, crop_size={"height": 64, "width": 64}, do_center_crop=False
    )
    images.image_seq_length = 65
    return _saved(
        folder, transformers.Florence2ForConditionalGeneration(config), transformers.Florence2Processor(images, words)
    )


def _pair(folder: Path, encoder: Any, processor: Any) -> Path:
    """An encoder of pictures and a decoder whose text begins with the task."""
    words = processor.tokenizer
    decoder = transformers.MBartConfig(
        vocab_size=len(words), d_model=32, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=32,
        max_position_embeddings=512, is_decoder=True, add_cross_attention=True, bos_token_id=0, eos_token_id=1,
        pad_token_id=2,
    )  # fmt: skip
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id = 0, 2
    model = transformers.VisionEncoderDecoderModel(config)
    model.generation_config.decoder_start_token_id = 0
    return _saved(folder, model, processor)


def _swin() -> Any:
    return transformers.DonutSwinConfig(
        image_size=[64, 64], embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4, patch_size=4
    )


def donut(folder: Path) -> Path:
    images = transformers.DonutImageProcessorPil(size={"height": 64, "width": 64})
    return _pair(folder, _swin(), transformers.DonutProcessor(images, tokenizer()))


def nougat(folder: Path) -> Path:
    images = transformers.NougatImageProcessorPil(size={"height": 64, "width": 64})
    return _pair(folder, _swin(), transformers.NougatProcessor(images, tokenizer()))


def trocr(folder: Path) -> Path:
    encoder = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=64, patch_size=16
    )
    images = transformers.ViTImageProcessorPil(size={"height": 64, "width": 64})
    return _pair(folder, encoder, transformers.TrOCRProcessor(images, tokenizer()))


BUILD: Mapping[str, Callable[[Path], Path]] = {
    "GOT-OCR2": got,
    "DeepSeek-OCR-2": deepseek,
    "PaddleOCR-VL": paddle,
    "HunyuanOCR": hunyuan,
    "LightOnOCR": lighton,
    "GLM-OCR": glm,
    "Granite-Docling": docling,
    "Florence-2": florence,
    "Nougat": nougat,
    "TrOCR": trocr,
    "Donut": donut,
}


def built(name: str, folder: Path) -> Path:
    torch.manual_seed(0)
    return BUILD[name](folder / name)
