from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from safetensors.numpy import save_file

from cluster import errors
from cluster.launch import Needs
from cluster.weights.inventory import read
from cluster.weights.memory import (
    CUDA_CONTEXT_BYTES,
    HOST_BYTES,
    PROCESS_BYTES,
    component_bytes,
    encoder_plan,
    gguf_architecture,
    gguf_bytes,
    parameters,
    tensors,
    weight_bytes,
)


def save(path: Path, dtype: str = "float32", **shapes: tuple[int, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.zeros(shape, dtype) for name, shape in shapes.items()}, path, metadata={"format": "pt"})


def test_weights_are_counted_from_the_header(tmp_path: Path) -> None:
    save(tmp_path / "model.safetensors", a=(10, 20), b=(30,))
    assert weight_bytes(read(tmp_path)) == 230 * 4
    assert parameters(read(tmp_path)) == 230


def test_weights_are_counted_as_they_will_be_loaded(tmp_path: Path) -> None:
    save(tmp_path / "model.safetensors", "float16", a=(10, 20))
    assert weight_bytes(read(tmp_path), 4) == 800
    assert weight_bytes(read(tmp_path), 0.5) == 100


def test_quantised_tensors_keep_their_size(tmp_path: Path) -> None:
    tensors = {"packed": np.zeros(100, "uint8"), "scale": np.zeros(10, "float32")}
    save_file(tensors, tmp_path / "model.safetensors")
    assert weight_bytes(read(tmp_path), 2) == 100 + 20


def test_copies_are_not_counted(tmp_path: Path) -> None:
    save(tmp_path / "model.safetensors", a=(100,))
    save(tmp_path / "model.fp16.safetensors", "float16", a=(100,))
    save(tmp_path / "original" / "model.safetensors", a=(100,))
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(400))
    assert weight_bytes(read(tmp_path)) == 400


def test_modules_in_folders_are_counted(tmp_path: Path) -> None:
    save(tmp_path / "model.safetensors", a=(100,))
    save(tmp_path / "2_Dense" / "model.safetensors", a=(10,))
    assert weight_bytes(read(tmp_path)) == 440


def test_the_index_says_which_parts_count(tmp_path: Path) -> None:
    save(tmp_path / "model-00001-of-00002.safetensors", a=(100,))
    save(tmp_path / "model-00002-of-00002.safetensors", b=(100,))
    save(tmp_path / "model-00001-of-00001.safetensors", a=(100,), b=(100,))
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert weight_bytes(read(tmp_path)) == 800

    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(errors.LoadFailed, match="lacks model-00002-of-00002.safetensors"):
        weight_bytes(read(tmp_path))


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save(path, a=(1000,))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(errors.LoadFailed, match="where its header claims"):
        weight_bytes(read(tmp_path))


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 100, b"\x04" + bytes(7) + b"nope" + bytes(20)])
def test_what_is_not_safetensors_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(errors.LoadFailed, match=r"model\.safetensors"):
        weight_bytes(read(tmp_path))


def test_pickles_are_counted_by_size_and_stored_type(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(1000))
    assert weight_bytes(read(tmp_path)) == 1000
    assert parameters(read(tmp_path)) == 250
    (tmp_path / "config.json").write_text('{"torch_dtype": "float16"}')
    assert parameters(read(tmp_path)) == 500
    assert weight_bytes(read(tmp_path), 4) == 2000


def test_of_several_gguf_files_the_largest_counts(tmp_path: Path) -> None:
    (tmp_path / "m-Q4_K_M.gguf").write_bytes(bytes(100))
    (tmp_path / "m-Q8_0-00001-of-00002.gguf").write_bytes(bytes(150))
    (tmp_path / "m-Q8_0-00002-of-00002.gguf").write_bytes(bytes(50))
    assert weight_bytes(read(tmp_path), 2) == 200
    assert parameters(read(tmp_path)) is None


def test_tensors_are_told_by_name_shape_and_whether_they_are_packed(tmp_path: Path) -> None:
    save_file({"packed": np.zeros(100, "uint8"), "plain": np.zeros((2, 5), "float32")}, tmp_path / "model.safetensors")
    found = {tensor.name: tensor for tensor in tensors(read(tmp_path))}
    assert found == {"packed": ("packed", (100,), 100, False), "plain": ("plain", (2, 5), 40, True)}
    assert found["plain"].numbers == 10


def gguf_file(path: Path) -> Path:
    writer = GGUFWriter(path, "flux")
    writer.add_tensor(
        "a", quantize(np.ones((4, 64), "float32"), GGMLQuantizationType.Q4_0), raw_dtype=GGMLQuantizationType.Q4_0
    )
    writer.add_tensor("b", np.ones(8, "float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_says_whose_weights_it_has_and_what_they_take(tmp_path: Path) -> None:
    file = gguf_file(tmp_path / "m.gguf")
    assert gguf_architecture(read(file)) == "flux"
    # 32 numbers to a block of 16 bytes and a scale of two.
    assert gguf_bytes(read(file)) == 4 * 64 // 32 * 18 + 8 * 4


@pytest.mark.parametrize(
    "spoil", [lambda data: data[:-40], lambda data: data[:20], lambda data: b"", lambda data: b"GGUF" * 9]
)
def test_what_is_not_a_whole_gguf_file_is_refused(spoil: Callable[[bytes], bytes], tmp_path: Path) -> None:
    file = gguf_file(tmp_path / "m.gguf")
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(errors.LoadFailed, match="not a complete GGUF file"):
        gguf_architecture(read(file))


def test_a_pipeline_has_one_number_per_component(tmp_path: Path) -> None:
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "safety_checker": [None, None],
    }
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    save(tmp_path / "unet" / "diffusion_pytorch_model.safetensors", a=(100,))
    save(tmp_path / "unet" / "diffusion_pytorch_model.fp16.safetensors", "float16", a=(100,))
    save(tmp_path / "text_encoder" / "model.safetensors", "float16", a=(100,))
    save(tmp_path / "safety_checker" / "model.safetensors", a=(100,))
    save(tmp_path / "everything-in-one-file.safetensors", a=(1000,))
    assert component_bytes(read(tmp_path)) == {"unet": 400, "text_encoder": 200}
    assert component_bytes(read(tmp_path), 2) == {"unet": 200, "text_encoder": 200}
    assert weight_bytes(read(tmp_path)) == 600


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.LoadFailed, match="has no weights"):
        weight_bytes(read(tmp_path))


def test_the_plan_of_an_encoder_is_the_sum_of_its_parts_and_what_is_claimed_for_it() -> None:
    plan = encoder_plan("sentence-transformers", "float32", 90_000_000, on_card=False)
    assert plan.peak_bytes == 90_000_000 + plan.activation_bytes + PROCESS_BYTES + plan.spare_bytes
    assert plan.needs(on_card=False) == Needs(memory_bytes=plan.peak_bytes)
    assert [(part.bytes, part.lives_on) for part in plan.parts] == [(90_000_000, "main memory")]


def test_an_encoder_on_a_card_takes_main_memory_for_its_process() -> None:
    plan = encoder_plan("sentence-transformers", "bfloat16", 90_000_000, on_card=True)
    assert plan.peak_bytes == 90_000_000 + plan.activation_bytes + CUDA_CONTEXT_BYTES + plan.spare_bytes
    assert plan.needs(on_card=True) == Needs(memory_bytes=HOST_BYTES, card_bytes=plan.peak_bytes)
