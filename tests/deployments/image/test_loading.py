"""Every launch option on a tiny pipeline: not that it is accepted, but what it changes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from diffusers import ControlNetModel, DiffusionPipeline
from diffusers.quantizers import auto
from diffusers.quantizers.gguf.utils import GGUFLinear
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from cluster import errors
from cluster.catalog.entry import Entry, Source
from cluster.weights.inventory import read
from cluster.weights.memory import component_bytes
from deployments.image.caches import presets_for
from deployments.image.checkpoints import rest_of
from deployments.image.options import Cache
from tests import checkpoints, gguf_files
from tests.pipelines import NINE, drawn, loaded

FolderOf = Callable[[str], Path]


def kinds_in(part: Any) -> set[str]:
    return {type(module).__name__ for module in part.modules()}


def away(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max())


@pytest.fixture(scope="module")
def plain(folder_of: FolderOf) -> Callable[[str], np.ndarray]:
    """The picture that the bare pipeline draws."""
    pictures: dict[str, np.ndarray] = {}

    def picture(name: str) -> np.ndarray:
        if name not in pictures:
            pipe = DiffusionPipeline.from_pretrained(folder_of(name), local_files_only=True)
            pipe.set_progress_bar_config(disable=True)
            pictures[name] = drawn(pipe, name)
        return pictures[name]

    return picture


# ------------------------------------------------------------------------------------------------- as it is


@pytest.mark.parametrize("name", NINE)
def test_a_folder_draws_what_the_bare_pipeline_draws(name: str, folder_of: FolderOf, plain: Any) -> None:
    found = loaded(folder_of(name))
    assert np.array_equal(drawn(found.pipe, name), plain(name))
    told = {slot: part["bytes"] for slot, part in found.about["components"].items()}
    stored = component_bytes(read(folder_of(name)))
    # Tables of positions are made anew and lie in no file.
    assert told == {slot: pytest.approx(size, rel=0.04, abs=4096) for slot, size in stored.items()}
    assert {part["lives_on"] for part in found.about["components"].values()} == {"cpu"}


def test_a_number_format_that_is_asked_for_is_taken_on_cpu_and_that_of_the_entry_is_not(folder_of: FolderOf) -> None:
    asked = loaded(folder_of("flux"), torch_dtype="bf16")
    assert asked.pipe.transformer.dtype == torch.bfloat16
    assert asked.about["dtype"] == "bfloat16"
    own = {"torch_dtype": "bfloat16"}
    assert loaded(folder_of("flux"), defaults=own).pipe.transformer.dtype == torch.float32
    assert loaded(folder_of("flux"), defaults=own, torch_dtype="bf16").pipe.transformer.dtype == torch.bfloat16


def test_a_variant_is_read_from_its_own_files(folder_of: FolderOf, tmp_path: Path) -> None:
    folder = shutil.copytree(folder_of("sd15"), tmp_path / "sd15")
    DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float16).save_pretrained(folder, variant="fp16")
    for plain_file in folder.glob("unet/diffusion_pytorch_model.safetensors"):
        plain_file.unlink()
    assert loaded(folder, variant="fp16").pipe.unet.dtype == torch.float32
    with pytest.raises(errors.BadOption, match="no weights of the variant 'fp8'"):
        loaded(folder, variant="fp8")


# --------------------------------------------------------------------------------------------- fewer bits


@pytest.mark.parametrize(("bits", "module", "share"), [("8-bit", Linear8bitLt, 0.30), ("nf4", Linear4bit, 0.20)])
def test_a_transformer_in_fewer_bits_is_smaller_and_draws_nearly_the_same(
    bits: str, module: type, share: float, folder_of: FolderOf, plain: Any
) -> None:
    found = loaded(folder_of("flux"), transformer_quantization=bits)
    told = found.about["components"]["transformer"]
    assert isinstance(found.pipe.transformer.transformer_blocks[0].attn.to_q, module)
    assert told["quantization"] == bits
    assert told["bytes"] < share * component_bytes(read(folder_of("flux")))["transformer"]
    assert 0 < away(drawn(found.pipe, "flux"), plain("flux")) < 0.2


def test_transformer_nf4_and_the_four_bits_of_xinference_differ_in_their_steps(folder_of: FolderOf) -> None:
    nf4 = loaded(folder_of("flux"), transformer_nf4=True).pipe.transformer.transformer_blocks[0].attn.to_q
    fp4 = loaded(folder_of("flux"), transformer_quantization="4-bit").pipe.transformer.transformer_blocks[0].attn.to_q
    assert (nf4.weight.quant_type, fp4.weight.quant_type) == ("nf4", "fp4")


def test_eight_bits_of_storage_are_cast_for_computing(folder_of: FolderOf, plain: Any) -> None:
    found = loaded(folder_of("flux"), transformer_quantization="fp8")
    assert found.pipe.transformer.transformer_blocks[0].attn.to_q.weight.dtype == torch.float8_e4m3fn
    assert 0 < away(drawn(found.pipe, "flux"), plain("flux")) < 0.1


@pytest.mark.parametrize(
    ("name", "slots"),
    [
        ("flux", "text_encoder_2"),
        ("sd3", "text_encoder_3"),
        ("sd3", "text_encoder,text_encoder_3"),
        ("hunyuandit", "text_encoder_2"),
        ("qwen_image", "text_encoder"),
        ("kolors", "text_encoder"),
        ("cogview4", "text_encoder"),
    ],
)
def test_the_named_text_encoders_are_in_fewer_bits_and_no_others(name: str, slots: str, folder_of: FolderOf) -> None:
    found = loaded(folder_of(name), quantize_text_encoder=slots)
    packed = [slot for slot, part in found.pipe.components.items() if "Linear8bitLt" in _kinds_of(part)]
    assert sorted(packed) == sorted(slots.split(","))
    for slot in packed:
        assert found.about["components"][slot]["bytes"] < 0.85 * component_bytes(read(folder_of(name)))[slot]
    assert drawn(found.pipe, name).shape == (64, 64, 3)


def _kinds_of(part: Any) -> set[str]:
    return kinds_in(part) if isinstance(part, torch.nn.Module) else set()


def test_a_text_encoder_in_nf4_is_smaller_than_in_int8(folder_of: FolderOf) -> None:
    sizes = {
        bits: loaded(folder_of("flux"), quantize_text_encoder="text_encoder_2", text_encoder_quantization=bits).about[
            "components"
        ]["text_encoder_2"]["bytes"]
        for bits in ("8-bit", "nf4")
    }
    assert sizes["nf4"] < sizes["8-bit"] < component_bytes(read(folder_of("flux")))["text_encoder_2"]


def test_false_switches_off_what_the_entry_quantises(folder_of: FolderOf) -> None:
    defaults = {"quantize_text_encoder": "text_encoder_2"}
    assert "Linear8bitLt" in kinds_in(loaded(folder_of("flux"), defaults=defaults).pipe.text_encoder_2)
    off = loaded(folder_of("flux"), defaults=defaults, quantize_text_encoder="False")
    assert "Linear8bitLt" not in kinds_in(off.pipe.text_encoder_2)


def test_quantising_without_a_gpu_leaves_diffusers_as_it_was(folder_of: FolderOf) -> None:
    before = dict(auto.AUTO_QUANTIZER_MAPPING)
    loaded(folder_of("flux"), transformer_quantization="8-bit")
    assert before == auto.AUTO_QUANTIZER_MAPPING


def test_quantize_is_accepted_and_said_to_change_nothing(folder_of: FolderOf) -> None:
    found = loaded(folder_of("sd15"), quantize=True)
    assert "changed nothing" in found.about["quantize"]
    assert "quantize" not in loaded(folder_of("sd15")).about
    assert found.about["components"]["unet"]["quantization"] == "none"


@pytest.mark.parametrize(("name", "slot"), [("sd3", "text_encoder_3"), ("sd3", "text_encoder_2")])
def test_a_text_encoder_of_null_is_not_loaded(name: str, slot: str, folder_of: FolderOf, tmp_path: Path) -> None:
    folder = shutil.copytree(folder_of(name), tmp_path / name)
    shutil.rmtree(folder / slot)
    found = loaded(folder, **{slot: "None"})
    assert getattr(found.pipe, slot) is None
    assert slot not in found.about["components"]
    if slot == "text_encoder_3":
        assert drawn(found.pipe, name).shape == (64, 64, 3)


# --------------------------------------------------------------------------------------------------- GGUF


@pytest.fixture(scope="module")
def gguf_of(folder_of: FolderOf, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A GGUF file of the denoiser of that pipeline."""
    root = tmp_path_factory.mktemp("gguf")

    def write(name: str, type: str, architecture: str) -> Path:
        weights = load_file(folder_of(name) / "transformer" / "diffusion_pytorch_model.safetensors")
        return gguf_files.write(root / f"{name}-{architecture}-{type}.gguf", weights, type, architecture)

    return write


@pytest.mark.parametrize("type", gguf_files.TYPES)
def test_a_gguf_file_of_every_type_draws_nearly_the_same(
    type: str, folder_of: FolderOf, gguf_of: Any, plain: Any
) -> None:
    file = gguf_of("flux_wide", type, "flux")
    found = loaded(folder_of("flux_wide"), gguf_model_path=str(file))
    packed = [module for module in found.pipe.transformer.modules() if isinstance(module, GGUFLinear)]
    size = found.about["components"]["transformer"]["bytes"]
    if type == "F16":  # the only one that is unpacked when it is read
        assert (len(packed), size) == (0, component_bytes(read(folder_of("flux_wide")))["transformer"])
    else:
        assert len(packed) > 20
        assert size == pytest.approx(file.stat().st_size, rel=0.02)
    difference = away(drawn(found.pipe, "flux_wide", steps=1), drawn(_bare(folder_of), "flux_wide", steps=1))
    assert 0 < difference < (0.3 if type in ("Q2_K", "Q3_K_S") else 0.1)


_kept: dict[str, Any] = {}


def _bare(folder_of: FolderOf) -> Any:
    if "pipe" not in _kept:
        _kept["pipe"] = loaded(folder_of("flux_wide")).pipe
    return _kept["pipe"]


@pytest.mark.parametrize(("name", "architecture"), [("sd3", "sd3"), ("qwen_image", "qwen_image")])
def test_other_transformers_read_gguf_too(name: str, architecture: str, folder_of: FolderOf, gguf_of: Any) -> None:
    found = loaded(folder_of(name), gguf_model_path=str(gguf_of(name, "Q8_0", architecture)))
    assert "GGUFLinear" in kinds_in(found.pipe.transformer)
    assert drawn(found.pipe, name).shape == (64, 64, 3)


def test_the_model_s_own_gguf_file_is_fetched_by_quantisation(folder_of: FolderOf, gguf_of: Any) -> None:
    file = gguf_of("flux", "Q8_0", "flux")
    place = {"id": str(file.parent), "file": "flux-flux-{quantization}.gguf"}
    facts = {"gguf": {"local": place, "architecture": "flux", "quantizations": ["Q8_0", "Q4_0"]}}
    found = loaded(folder_of("flux"), facts=facts, gguf_quantization="q8_0")
    assert "GGUFLinear" in kinds_in(found.pipe.transformer)
    with pytest.raises(errors.BadOption, match="no GGUF file in 'Q2_K'; there is Q8_0, Q4_0"):
        loaded(folder_of("flux"), facts=facts, gguf_quantization="Q2_K")


def test_gguf_goes_before_what_the_entry_does_to_the_transformer(folder_of: FolderOf, gguf_of: Any) -> None:
    file = gguf_of("flux", "Q8_0", "flux")
    found = loaded(folder_of("flux"), defaults={"transformer_quantization": "nf4"}, gguf_model_path=str(file))
    assert "GGUFLinear" in kinds_in(found.pipe.transformer)
    assert "Linear4bit" not in kinds_in(found.pipe.transformer)


def test_a_transformer_from_gguf_needs_none_in_the_folder(folder_of: FolderOf, gguf_of: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(folder_of("flux"), tmp_path / "flux")
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    assert "GGUFLinear" in kinds_in(
        loaded(folder, gguf_model_path=str(gguf_of("flux", "Q8_0", "flux"))).pipe.transformer
    )


def test_a_gguf_file_of_another_architecture_is_refused_before_anything_is_read(
    folder_of: FolderOf, gguf_of: Any, tmp_path: Path
) -> None:
    index_only = tmp_path / "flux"
    index_only.mkdir()
    shutil.copy(folder_of("flux") / "model_index.json", index_only)
    with pytest.raises(errors.BadOption, match="architecture 'sd3', and FluxTransformer2DModel takes flux"):
        loaded(index_only, gguf_model_path=str(gguf_of("sd3", "Q8_0", "sd3")))


def test_a_gguf_file_of_the_right_name_and_other_weights_is_refused(folder_of: FolderOf, gguf_of: Any) -> None:
    with pytest.raises(errors.LoadFailed, match="does not hold the weights of this FluxTransformer2DModel"):
        loaded(folder_of("flux"), gguf_model_path=str(gguf_of("flux_wide", "Q8_0", "flux")))


def test_a_transformer_that_diffusers_reads_from_no_gguf_says_so(folder_of: FolderOf, gguf_of: Any) -> None:
    with pytest.raises(errors.BadOption, match="CogView4Transformer2DModel cannot be read from GGUF"):
        loaded(folder_of("cogview4"), gguf_model_path=str(gguf_of("cogview4", "F16", "cogview4")))


def test_a_file_outside_of_the_roots_is_refused(folder_of: FolderOf, gguf_of: Any, tmp_path: Path) -> None:
    with pytest.raises(errors.BadRequest, match="not in a folder that models may be loaded from"):
        loaded(folder_of("flux"), roots=(tmp_path,), gguf_model_path=str(gguf_of("flux", "Q8_0", "flux")))


def test_a_cut_gguf_file_is_refused(folder_of: FolderOf, gguf_of: Any, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(gguf_of("flux", "Q8_0", "flux").read_bytes()[:-5000])
    with pytest.raises(errors.LoadFailed, match="not a complete GGUF file"):
        loaded(folder_of("flux"), gguf_model_path=str(cut))


# ------------------------------------------------------------------------------------------------ one file


def checkpoint(folder: Path, source: Path) -> Path:
    folder.mkdir()
    return Path(shutil.copy(source / "transformer" / "diffusion_pytorch_model.safetensors", folder / "own.safetensors"))


@pytest.mark.parametrize("names_the_file", [True, False])
def test_a_denoiser_in_one_file_takes_the_rest_from_where_the_entry_says(
    names_the_file: bool, folder_of: FolderOf, plain: Any, tmp_path: Path
) -> None:
    file = checkpoint(tmp_path / "own", folder_of("flux"))
    found = loaded(file if names_the_file else file.parent, base=folder_of("flux"))
    assert away(drawn(found.pipe, "flux"), plain("flux")) < 1e-6


def test_one_file_goes_with_a_packed_text_encoder_and_fp8_and_not_with_packing_itself(
    folder_of: FolderOf, tmp_path: Path
) -> None:
    file = checkpoint(tmp_path / "own", folder_of("flux"))
    options = {"quantize_text_encoder": "text_encoder_2", "transformer_quantization": "fp8"}
    found = loaded(file, base=folder_of("flux"), **options)
    assert "Linear8bitLt" in kinds_in(found.pipe.text_encoder_2)
    assert found.pipe.transformer.transformer_blocks[0].attn.to_q.weight.dtype == torch.float8_e4m3fn
    with pytest.raises(errors.BadOption, match="transformer of own.safetensors cannot be packed"):
        loaded(file, base=folder_of("flux"), transformer_nf4=True)


def test_a_file_of_another_model_and_a_folder_of_many_files_are_refused(folder_of: FolderOf, tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "own", folder_of("flux_wide"))
    with pytest.raises(errors.LoadFailed, match="own.safetensors does not hold the weights of this Flux"):
        loaded(file, base=folder_of("flux"))
    shutil.copy(file, file.with_name("other.safetensors"))
    with pytest.raises(errors.LoadFailed, match="has other.safetensors, own.safetensors, and no model_index.json"):
        loaded(file.parent, base=folder_of("flux"))


def test_a_whole_pipeline_in_one_file_takes_only_its_settings_from_elsewhere(
    folder_of: FolderOf, plain: Any, tmp_path: Path
) -> None:
    pipe = DiffusionPipeline.from_pretrained(folder_of("sd15"), local_files_only=True)
    file = checkpoints.write(tmp_path / "sd15.safetensors", pipe)
    settings = shutil.copytree(folder_of("sd15"), tmp_path / "settings", ignore=shutil.ignore_patterns("*.safetensors"))
    found = loaded(file, base=settings, vae_tiling=True)
    assert found.pipe.vae.use_tiling
    assert away(drawn(found.pipe, "sd15"), plain("sd15")) < 1e-5
    with pytest.raises(errors.BadOption, match="text_encoder of sd15.safetensors cannot be packed"):
        loaded(file, base=settings, quantize_text_encoder="text_encoder")


def test_what_a_file_has_is_not_downloaded_again(folder_of: FolderOf, tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "own", folder_of("flux"))
    hub = Source(hub="huggingface", id="org/flux")
    entry = Entry(name="m", type="image", family="diffusers", sources=(hub,))
    own = Source(hub="local", id=str(file.parent))
    assert "transformer/*.safetensors" in rest_of(file, entry, own).exclude
    whole = tmp_path / "whole.safetensors"
    save_file({"cond_stage_model.a": torch.zeros(2)}, whole)
    assert rest_of(whole, entry, own).exclude == ("*.safetensors", "*.bin")
    bare = Entry(name="m", type="image", family="diffusers", sources=(own,))
    assert rest_of(whole, bare, own).id == "stable-diffusion-v1-5/stable-diffusion-v1-5"


# ---------------------------------------------------------------------------------------------- placement


@pytest.mark.parametrize(
    ("asked", "hook"),
    [
        ({"cpu_offload": True}, "_hf_hook"),
        ({"cpu_offload": "group"}, "_diffusers_hook"),
        ({"sequential_cpu_offload": True}, "_diffusers_hook"),
    ],
)
@pytest.mark.parametrize("name", ["flux", "sdxl", "hunyuandit"])
def test_offloaded_parts_have_their_hooks_and_draw_the_same(
    asked: dict[str, Any], hook: str, name: str, folder_of: FolderOf, plain: Any
) -> None:
    found = loaded(folder_of(name), **asked)
    denoiser = found.pipe.components.get("transformer") or found.pipe.components["unet"]
    assert any(hasattr(module, hook) for module in denoiser.modules())
    assert not any(hasattr(module, hook) for module in loaded(folder_of(name)).pipe.vae.modules())
    assert "offload" in found.about["components"]["vae"]["lives_on"]
    assert away(drawn(found.pipe, name), plain(name)) < 1e-5


@pytest.mark.parametrize("offload", ["model", "group", "sequential"])
@pytest.mark.parametrize("transformer", ["nf4", "GGUF"])
def test_quantised_text_encoder_transformer_and_offload_go_together(
    offload: str, transformer: str, folder_of: FolderOf, gguf_of: Any
) -> None:
    asked = {"transformer_nf4": True}
    if transformer == "GGUF":
        asked = {"gguf_model_path": str(gguf_of("flux", "Q4_0", "flux"))}  # type: ignore[dict-item]
    found = loaded(folder_of("flux"), quantize_text_encoder="text_encoder_2", cpu_offload=offload, **asked)
    without = loaded(folder_of("flux"), quantize_text_encoder="text_encoder_2", **asked)
    assert "Linear8bitLt" in kinds_in(found.pipe.text_encoder_2)
    assert {"nf4": "Linear4bit", "GGUF": "GGUFLinear"}[transformer] in kinds_in(found.pipe.transformer)
    assert away(drawn(found.pipe, "flux"), drawn(without.pipe, "flux")) < 1e-5


def test_a_map_to_cards_is_the_cpu_where_there_are_none(folder_of: FolderOf, plain: Any) -> None:
    found = loaded(folder_of("flux"), device_map="balanced")
    assert found.pipe.transformer.device.type == "cpu"
    with pytest.raises(errors.BadOption, match="device_map=cuda needs a GPU"):
        loaded(folder_of("flux"), device_map="cuda")


# ------------------------------------------------------------------------------------------- how it computes


def test_another_scheduler_takes_the_settings_of_the_model_s_own(folder_of: FolderOf, plain: Any) -> None:
    found = loaded(folder_of("sd15"), scheduler="EulerDiscreteScheduler")
    assert type(found.pipe.scheduler).__name__ == "EulerDiscreteScheduler"
    assert found.pipe.scheduler.config.beta_end == 0.012
    assert away(drawn(found.pipe, "sd15"), plain("sd15")) > 0


@pytest.mark.parametrize(
    ("name", "scheduler", "told"),
    [
        ("sd15", "EulerDiscreteSchedulr", "did you mean EulerDiscreteScheduler"),
        ("flux", "DDIMScheduler", "cannot be replaced by 'DDIMScheduler'"),
    ],
)
def test_a_scheduler_that_does_not_go_with_the_model_is_refused(
    name: str, scheduler: str, told: str, folder_of: FolderOf
) -> None:
    with pytest.raises(errors.BadOption, match=told):
        loaded(folder_of(name), scheduler=scheduler)


def test_a_flow_model_takes_other_flow_schedulers(folder_of: FolderOf) -> None:
    found = loaded(folder_of("sd3"), scheduler="FlowMatchHeunDiscreteScheduler")
    assert type(found.pipe.scheduler).__name__ == "FlowMatchHeunDiscreteScheduler"
    assert drawn(found.pipe, "sd3").shape == (64, 64, 3)


def test_an_attention_backend_that_runs_is_taken(folder_of: FolderOf, plain: Any) -> None:
    found = loaded(folder_of("flux"), attention_backend="_native_math")
    assert found.about["attention_backend"] == "_native_math"
    assert found.pipe.transformer.transformer_blocks[0].attn.processor._attention_backend.value == "_native_math"
    assert away(drawn(found.pipe, "flux"), plain("flux")) < 1e-5


def test_an_attention_backend_that_cannot_run_is_native_and_said_to_be(folder_of: FolderOf, plain: Any) -> None:
    found = loaded(folder_of("flux"), attention_backend="sage")
    assert found.about["attention_backend"] == "native (sage cannot run here)"
    assert found.pipe.transformer.transformer_blocks[0].attn.processor._attention_backend.value == "native"
    assert np.array_equal(drawn(found.pipe, "flux"), plain("flux"))
    with pytest.raises(errors.BadOption, match="'flashy' is not known; there is flash"):
        loaded(folder_of("flux"), attention_backend="flashy")


def test_attention_in_slices_draws_the_same(folder_of: FolderOf, plain: Any) -> None:
    found = loaded(folder_of("sd15"), attention_slicing=True)
    kinds = {type(processor).__name__ for processor in found.pipe.unet.attn_processors.values()}
    assert kinds == {"SlicedAttnProcessor"}
    assert away(drawn(found.pipe, "sd15"), plain("sd15")) < 1e-4
    with pytest.raises(errors.BadOption, match="FluxTransformer2DModel cannot compute attention in slices"):
        loaded(folder_of("flux"), attention_slicing=True)


def test_the_vae_takes_tiles_and_slices_when_asked(folder_of: FolderOf) -> None:
    vae = loaded(folder_of("sdxl"), vae_tiling=True, vae_slicing=True).pipe.vae
    assert (vae.use_tiling, vae.use_slicing) == (True, True)
    plain = loaded(folder_of("sdxl")).pipe.vae
    assert (plain.use_tiling, plain.use_slicing) == (False, False)


def test_a_cache_is_left_to_each_request(folder_of: FolderOf) -> None:
    found = loaded(folder_of("flux"), cache="first-block")
    assert not found.pipe.transformer.is_cache_enabled
    assert get_args(Cache) == presets_for(found.pipe.transformer)


@pytest.mark.parametrize("name", ["sd15", "sd3", "hunyuandit"])
def test_a_cache_is_refused_by_denoisers_that_keep_nothing(name: str, folder_of: FolderOf) -> None:
    with pytest.raises(errors.BadOption, match="keeps nothing between steps: leave cache out"):
        loaded(folder_of(name), cache="first-block")


@pytest.mark.parametrize(("name", "told"), [("flux", "blocks"), ("sd3", "whole")])
def test_the_blocks_that_repeat_are_compiled_where_they_are_known(name: str, told: str, folder_of: FolderOf) -> None:
    found = loaded(folder_of(name), compile=True)
    transformer = found.pipe.transformer
    compiled = [module for module in transformer.modules() if module._compiled_call_impl is not None]
    assert found.about["compile"] == told
    assert (transformer in compiled) == (told == "whole")
    assert compiled


# -------------------------------------------------------------------------------------------------- adapters


@pytest.fixture(scope="module")
def lora_of(folder_of: FolderOf, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A LoRA file for the transformer of that pipeline."""
    root = tmp_path_factory.mktemp("loras")

    def save(name: str, file: str) -> Path:
        torch.manual_seed(7)
        pipe = DiffusionPipeline.from_pretrained(folder_of(name), local_files_only=True)
        part = pipe.components.get("transformer") or pipe.unet
        part.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
        layers = get_peft_model_state_dict(part)
        slot = "transformer_lora_layers" if "transformer" in pipe.components else "unet_lora_layers"
        pipe.save_lora_weights(root, **{slot: layers}, weight_name=file)
        return root / file

    return save


def test_loras_count_when_a_request_names_them_and_not_before(folder_of: FolderOf, lora_of: Any, plain: Any) -> None:
    file = lora_of("flux", "ink.safetensors")
    found = loaded(folder_of("flux"), lora_modules={"ink": str(file), "wash": str(file)})
    assert found.about["loras"] == ["ink", "wash"]
    assert np.array_equal(drawn(found.pipe, "flux"), plain("flux"))
    found.pipe.enable_lora()
    found.pipe.set_adapters(["ink"], [1.0])
    assert away(drawn(found.pipe, "flux"), plain("flux")) > 0.001


def test_a_lora_goes_on_a_packed_transformer(folder_of: FolderOf, lora_of: Any) -> None:
    file = lora_of("flux", "ink.safetensors")
    found = loaded(folder_of("flux"), transformer_nf4=True, lora_modules={"ink": str(file)})
    before = drawn(found.pipe, "flux")
    found.pipe.enable_lora()
    found.pipe.set_adapters(["ink"], [1.0])
    assert away(drawn(found.pipe, "flux"), before) > 0.001


def test_the_folder_of_a_lora_will_do_when_it_has_one_file(folder_of: FolderOf, lora_of: Any, tmp_path: Path) -> None:
    folder = tmp_path / "v1.0"
    folder.mkdir()
    shutil.copy(lora_of("flux", "ink.safetensors"), folder)
    assert loaded(folder_of("flux"), lora_modules={"ink": str(folder)}).about["loras"] == ["ink"]
    shutil.copy(folder / "ink.safetensors", folder / "other.safetensors")
    with pytest.raises(errors.BadOption, match="has ink.safetensors, other.safetensors: give the file itself"):
        loaded(folder_of("flux"), lora_modules={"ink": str(folder)})


@pytest.mark.parametrize("name", ["sd15", "flux_wide", "qwen_image"])
def test_a_lora_of_another_architecture_is_refused(name: str, folder_of: FolderOf, lora_of: Any) -> None:
    file = lora_of(name, f"{name}.safetensors")
    with pytest.raises(errors.BadOption, match="was not made for FluxPipeline") as refused:
        loaded(folder_of("flux"), lora_modules={"ink": str(file)})
    assert "\n" not in refused.value.message


def test_a_file_that_is_no_lora_and_a_model_that_takes_none_are_refused(
    folder_of: FolderOf, lora_of: Any, tmp_path: Path
) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(errors.BadOption, match="was not made for FluxPipeline"):
        loaded(folder_of("flux"), lora_modules={"ink": str(tmp_path / "a.safetensors")})
    with pytest.raises(errors.BadOption, match="HunyuanDiTPipeline takes no LoRA"):
        loaded(folder_of("hunyuandit"), lora_modules={"ink": str(lora_of("flux", "ink.safetensors"))})


def test_lightning_is_melted_in_and_says_how_many_steps_it_takes(folder_of: FolderOf, lora_of: Any, plain: Any) -> None:
    file = lora_of("qwen_image", "Lightning-4steps-V1.0.safetensors")
    found = loaded(folder_of("qwen_image"), lightning_model_path=str(file))
    assert found.about["steps"] == 4
    assert found.pipe.get_list_adapters() == {}
    assert found.pipe.scheduler.config.base_shift == pytest.approx(1.0986, abs=1e-4)
    assert away(drawn(found.pipe, "qwen_image"), plain("qwen_image")) > 0


def test_lightning_is_found_by_version(folder_of: FolderOf, lora_of: Any) -> None:
    file = lora_of("qwen_image", "Lightning-8steps-V1.1.safetensors")
    place = {"id": str(file.parent), "file": "Lightning-{version}.safetensors"}
    facts = {"lightning": {"local": place, "versions": ["8steps-V1.1"]}}
    assert loaded(folder_of("qwen_image"), facts=facts, lightning_version="8steps-V1.1").about["steps"] == 8
    with pytest.raises(errors.BadOption, match="no Lightning LoRA '2steps'; there is 8steps-V1.1"):
        loaded(folder_of("qwen_image"), facts=facts, lightning_version="2steps")


def test_lightning_stays_beside_packed_weights_and_always_counts(
    folder_of: FolderOf, lora_of: Any, gguf_of: Any
) -> None:
    file = lora_of("qwen_image", "Lightning-4steps-V1.0.safetensors")
    gguf = str(gguf_of("qwen_image", "Q8_0", "qwen_image"))
    found = loaded(folder_of("qwen_image"), lightning_model_path=str(file), gguf_model_path=gguf)
    assert found.about["always"] == ["lightning"]
    assert found.pipe.get_active_adapters() == ["lightning"]
    bare = loaded(folder_of("qwen_image"), gguf_model_path=gguf)
    assert away(drawn(found.pipe, "qwen_image"), drawn(bare.pipe, "qwen_image")) > 0


@pytest.fixture(scope="module")
def controlnet(folder_of: FolderOf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    unet = DiffusionPipeline.from_pretrained(folder_of("sd15"), local_files_only=True).unet
    folder = tmp_path_factory.mktemp("controlnets") / "canny"
    ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("count", [1, 2])
def test_one_controlnet_or_several_make_the_pipeline_one_that_listens(
    count: int, controlnet: Path, folder_of: FolderOf
) -> None:
    found = loaded(folder_of("sd15"), controlnet=[str(controlnet)] * count)
    assert found.about["pipeline"] == "StableDiffusionControlNetPipeline"
    assert "controlnet" in found.about["components"]
    assert found.pipe.controlnet.dtype == torch.float32
    assert len(getattr(found.pipe.controlnet, "nets", [found.pipe.controlnet])) == count


def test_controlnets_that_are_not_there_or_do_not_go_with_the_model_are_refused(
    controlnet: Path, folder_of: FolderOf
) -> None:
    facts = {"controlnets": {"canny": {"id": "lllyasviel/sd-controlnet-canny"}}}
    with pytest.raises(errors.BadOption, match="no ControlNet 'cany'; there is canny"):
        loaded(folder_of("sd15"), facts=facts, controlnet="cany")
    with pytest.raises(errors.BadOption, match="HunyuanDiTPipeline takes no ControlNet|CogView4Pipeline takes"):
        loaded(folder_of("cogview4"), controlnet=str(controlnet))
    with pytest.raises(errors.BadOption, match="holds a UNet2DConditionModel, not a ControlNet"):
        loaded(folder_of("sd15"), controlnet=str(folder_of("sd15") / "unet"))


# --------------------------------------------------------------------------------------------------- refusals


def test_a_text_encoder_that_is_not_there_is_refused_with_those_that_are(folder_of: FolderOf) -> None:
    with pytest.raises(errors.BadOption, match="no text encoder 'text_encoder_9'.*; it has text_encoder, text_enc"):
        loaded(folder_of("flux"), quantize_text_encoder="text_encoder_9")
    with pytest.raises(errors.BadOption, match="no text encoder 'text_encoder_3' for text_encoder_3"):
        loaded(folder_of("flux"), text_encoder_3=None)


def test_pickled_weights_are_loaded_only_where_the_server_allows_it(folder_of: FolderOf, tmp_path: Path) -> None:
    folder = shutil.copytree(folder_of("sd15"), tmp_path / "sd15")
    unet = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(unet), unet.with_suffix(".bin"))
    unet.unlink()
    with pytest.raises(errors.LoadFailed, match="unet of .* only as a pickle"):
        loaded(folder)
    with pytest.raises(errors.BadOption, match="allow_pickle is refused"):
        loaded(folder, defaults={"allow_pickle": True})
    assert drawn(loaded(folder, allow_pickle=True).pipe, "sd15").shape == (64, 64, 3)


def test_a_folder_without_an_index_and_one_that_is_broken_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(errors.LoadFailed, match="has no model_index.json"):
        loaded(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps({"unet": ["diffusers", "UNet2DConditionModel"]}))
    with pytest.raises(errors.LoadFailed, match="cannot be read"):
        loaded(tmp_path)
