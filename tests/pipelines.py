"""Makes nine tiny diffusion pipelines with random weights, one function each, without any download.

Their widths are multiples of 64 where bitsandbytes packs rows, since its four-bit kernels read no others.
"""

from __future__ import annotations

import io
import string
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    CogView4Pipeline,
    CogView4Transformer2DModel,
    DDPMScheduler,
    EulerDiscreteScheduler,
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
    UNet2DConditionModel,
)
from diffusers.pipelines.kolors import ChatGLMModel, ChatGLMTokenizer
from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig
from PIL import Image
from sentencepiece import SentencePieceTrainer
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    GlmConfig,
    GlmModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from cluster.catalog.entry import Entry, Source
from cluster.weights.locate import locate
from cluster.worker.family import Setup
from deployments.image.loading import Loaded, load
from deployments.image.options import ImageOptions

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
