"""Makes nine tiny diffusion pipelines with random weights, one function each, without any download.

Their widths are multiples of 64 where bitsandbytes packs rows, since its four-bit kernels read no others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKLQwenImage,
    CogView4Pipeline,
    CogView4Transformer2DModel,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    KolorsPipeline,
    PNDMScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.pipelines.kolors import ChatGLMModel
from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig
from PIL import Image
from transformers import (
    BertConfig,
    BertModel,
    CLIPTextModelWithProjection,
    GlmConfig,
    GlmModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from cluster.catalog.entry import Entry, Source
from cluster.weights.locate import locate
from cluster.worker.family import Setup
from deployments.image.loading import Loaded, load
from deployments.image.options import ImageOptions
from tests.pipeline_parts import (
    bert_tokenizer,
    chatglm_tokenizer,
    clip_encoder,
    clip_tokenizer,
    euler,
    flow_vae,
    glm_tokenizer,
    qwen_tokenizer,
    t5_encoder,
    t5_tokenizer,
    unet,
    vae,
    xl_unet,
)

# ------------------------------------------------------------------------------------------------- pipelines


def sd15(folder: Path) -> Any:
    return StableDiffusionPipeline(
        vae=vae(),
        text_encoder=clip_encoder(),
        tokenizer=clip_tokenizer(),
        unet=unet(cross_attention_dim=32, attention_head_dim=4),
        scheduler=PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl(folder: Path) -> Any:
    return StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=clip_encoder(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip_encoder(CLIPTextModelWithProjection),
        tokenizer_2=clip_tokenizer(),
        unet=xl_unet(text_width=64, pooled_width=32),
        scheduler=euler(),
    )


def sd3(folder: Path) -> Any:
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=8,
            in_channels=16,
            out_channels=16,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=4,
            caption_projection_dim=64,
            joint_attention_dim=64,
            pooled_projection_dim=64,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=flow_vae(0.0609, 1.5305),
        text_encoder=clip_encoder(CLIPTextModelWithProjection),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip_encoder(CLIPTextModelWithProjection),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5_encoder(64),
        tokenizer_3=t5_tokenizer(),
    )


def flux(folder: Path, kind: Any = FluxPipeline, width: int = 64, layers: int = 2) -> Any:
    head = width // 4
    return kind(
        transformer=FluxTransformer2DModel(
            in_channels=64,
            num_layers=layers,
            num_single_layers=layers,
            attention_head_dim=head,
            num_attention_heads=4,
            joint_attention_dim=width,
            pooled_projection_dim=width,
            guidance_embeds=True,
            axes_dims_rope=(head // 4, head * 3 // 8, head * 3 // 8),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=flow_vae(0.1159, 0.3611),
        text_encoder=clip_encoder(width=width),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5_encoder(width),
        tokenizer_2=t5_tokenizer(),
    )


def flux_wide(folder: Path) -> Any:
    """Its rows have 256 numbers, as the K types of GGUF need."""
    return flux(folder, width=256, layers=1)


def flux_kontext(folder: Path) -> Any:
    return flux(folder, FluxKontextPipeline)


def qwen_image(folder: Path) -> Any:
    tokenizer = qwen_tokenizer()
    marks = ("vision_start", "vision_end", "image_pad", "video_pad")
    start, end, image, video = (tokenizer.convert_tokens_to_ids(f"<|{mark}|>") for mark in marks)
    encoder = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
            "rope_theta": 1e6,
        },
        vision_config={"depth": 2, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16},
        vision_start_token_id=start,
        vision_end_token_id=end,
        image_token_id=image,
        video_token_id=video,
    )
    return QwenImagePipeline(
        transformer=QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=3,
            joint_attention_dim=16,
            axes_dims_rope=(8, 4, 4),
        ),
        vae=AutoencoderKLQwenImage(
            base_dim=24,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        text_encoder=Qwen2_5_VLForConditionalGeneration(encoder),
        tokenizer=tokenizer,
    )


def cogview4(folder: Path) -> Any:
    tokenizer = glm_tokenizer()
    encoder = GlmConfig(
        vocab_size=len(tokenizer) + 8,
        hidden_size=32,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CogView4Pipeline(
        tokenizer=tokenizer,
        text_encoder=GlmModel(encoder),
        vae=vae(),
        transformer=CogView4Transformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=4,
            num_attention_heads=4,
            text_embed_dim=32,
            time_embed_dim=8,
            condition_dim=4,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(
            base_shift=0.25, max_shift=0.75, use_dynamic_shifting=True, time_shift_type="linear"
        ),
    )


def hunyuandit(folder: Path) -> Any:
    tokenizer = bert_tokenizer()
    encoder = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=37,
        max_position_embeddings=128,
    )
    return HunyuanDiTPipeline(
        vae=vae(),
        text_encoder=BertModel(encoder),
        tokenizer=tokenizer,
        transformer=HunyuanDiT2DModel(
            sample_size=8,
            num_layers=2,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=3,
            in_channels=4,
            hidden_size=24,
            cross_attention_dim=32,
            cross_attention_dim_t5=32,
            pooled_projection_dim=16,
            activation_fn="gelu-approximate",
        ),
        scheduler=DDPMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        text_encoder_2=t5_encoder(32),
        tokenizer_2=t5_tokenizer(),
    )


def kolors(folder: Path) -> Any:
    encoder = ChatGLMModel(
        ChatGLMConfig(
            num_layers=2,
            padded_vocab_size=512,
            hidden_size=32,
            ffn_hidden_size=37,
            kv_channels=8,
            num_attention_heads=4,
            seq_length=256,
            multi_query_attention=True,
            multi_query_group_num=2,
            add_qkv_bias=True,
            rmsnorm=True,
            apply_residual_connection_post_layernorm=False,
            post_layer_norm=True,
            original_rope=True,
        )
    )
    for values in encoder.parameters():
        # Its own constructor leaves this uninitialised.
        torch.nn.init.normal_(values, 0, 0.02)
    return KolorsPipeline(
        vae=vae(),
        text_encoder=encoder,
        tokenizer=chatglm_tokenizer(folder / "trained"),
        unet=xl_unet(text_width=32, pooled_width=32),
        scheduler=euler(0.0146),
    )


#: The nine pipelines; each function takes the folder in which the pipeline is to be saved.
NINE: Mapping[str, Callable[[Path], Any]] = {
    made.__name__: made for made in (sd15, sdxl, sd3, flux, flux_kontext, qwen_image, cogview4, hunyuandit, kolors)
}
EVERY: Mapping[str, Callable[[Path], Any]] = {**NINE, "flux_wide": flux_wide}

#: The arguments for a picture of 64 x 64 besides the prompt.
SMALL: Mapping[str, Mapping[str, Any]] = {
    "hunyuandit": {"use_resolution_binning": False},
    "flux_kontext": {"_auto_resize": False, "max_area": 64 * 64},
}


def saved(name: str, folder: Path) -> Path:
    """Saves the pipeline of that name in a folder as a hub would have it, with the same numbers every time."""
    torch.manual_seed(0)
    pipe = EVERY[name](folder)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    pipe.save_pretrained(folder)
    return folder


def setup_of(
    folder: Path,
    *,
    facts: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
    base: Path | None = None,
    allow_pickle: bool = False,
    **options: Any,
) -> Setup:
    """A launch of that folder on a CPU. `defaults` are the options of the catalogue entry, `base` is the folder with
    its other files."""
    source = Source(hub="local", id=str(folder))
    entry = Entry(
        name=folder.name,
        type="image",
        family="diffusers",
        sources=(Source(hub="local", id=str(base)) if base else source,),
        facts=dict(facts or {}),
        options=dict(defaults or {}),
    )
    asked = ImageOptions.model_validate({**entry.options, **options})
    return Setup(entry, source, asked, folder, "cpu", threads=1, asked=frozenset(options), allow_pickle=allow_pickle)


def loaded(folder: Path, roots: tuple[Path, ...] = (), **launch: Any) -> Loaded:
    """Loads it as a worker does, without any download."""
    return load(setup_of(folder, **launch), lambda source: locate(source, home=folder, offline=True, roots=roots))


def drawn(pipe: Any, name: str, steps: int = 2, **params: Any) -> np.ndarray:
    """Draws a picture of 64 x 64, with numbers from 0 to 1."""
    if name == "flux_kontext":
        params.setdefault("image", Image.new("RGB", (64, 64), "red"))
    given = {
        "prompt": "a cat",
        "height": 64,
        "width": 64,
        "num_inference_steps": steps,
        **SMALL.get(name, {}),
        **params,
    }
    return pipe(**given, generator=torch.Generator().manual_seed(1), output_type="np").images[0]
