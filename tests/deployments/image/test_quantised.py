"""Parts in fewer bits and from GGUF files, on tiny pipelines: what changes, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from diffusers.quantizers import auto
from diffusers.quantizers.gguf.utils import GGUFLinear

from cluster import errors
from cluster.weights.inventory import read
from cluster.weights.memory import component_bytes
from tests import gguf_files
from tests.deployments.image.compared import FolderOf, away, kinds_in
from tests.pipelines import drawn, loaded


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
