"""Compares the memory that a launch is said to take with what it takes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from cluster import errors
from cluster.catalog.catalog import Catalog
from cluster.launch import LaunchSpec, Wanted
from cluster.settings import Settings
from cluster.value import JsonObject
from cluster.weights.memory import CUDA_CONTEXT_BYTES, HOST_BYTES, MemoryPlan, Tensor
from cluster.worker.planning import plan_of
from deployments import resolve
from deployments.image.options import ImageOptions
from deployments.image.plan import PROCESS_BYTES, USUAL_PIXELS, Case, Weights, plan, rungs, weights_told
from deployments.image.sizes import Sizes
from deployments.smaller import ways
from tests import gguf_files
from tests.live import LiveCluster
from tests.pipelines import NINE, loaded

FolderOf = Callable[[str], Path]

#: Billions of parameters, as the catalogue has FLUX.1's.
FLUX = {"transformer": 11.9, "text_encoder": 0.123, "text_encoder_2": 4.762, "vae": 0.084}


def case(components: Mapping[str, float] = FLUX, on_gpu: bool = True, has_gguf: bool = True, **options: Any) -> Case:
    return Case(
        options=ImageOptions.model_validate(options),
        dtype="bfloat16" if on_gpu else "float32",
        on_gpu=on_gpu,
        weights=weights_told({"components": components}),
        sizes=Sizes(side=1024, tile=512),
        has_gguf=has_gguf,
    )


def sizes(asked: Case) -> dict[str, float]:
    """The gigabytes of each part."""
    return {row.slot: round(row.bytes / 1e9, 1) for row in plan(asked).parts}


def launched(folder: Path, *, roots: tuple[Path, ...] = (), **fields: Any) -> Wanted:
    settings = Settings(home="/nowhere", model_roots=roots)
    asked = {"model_name": "tiny", "model_type": "image", "model_path": str(folder), **fields}
    return resolve(LaunchSpec.model_validate(asked), Catalog.builtin(), settings)


def told(wanted: Wanted, *, on_card: bool = False) -> MemoryPlan:
    made = plan_of(wanted, Settings(home="/nowhere"), on_card=on_card)
    assert made is not None
    return made


# ------------------------------------------------------------------------------------------- beside the real thing


@pytest.mark.parametrize("name", NINE)
def test_the_parts_of_a_folder_weigh_what_they_weigh_once_loaded(name: str, folder_of: FolderOf) -> None:
    planned = told(launched(folder_of(name), n_gpu=None))
    weighed = {slot: part["bytes"] for slot, part in loaded(folder_of(name)).about["components"].items()}
    for row in planned.parts:
        # Tables of positions are computed at load and are in no file.
        assert row.bytes == pytest.approx(weighed[row.slot], rel=0.04, abs=4096)
    assert {row.slot for row in planned.parts} == set(weighed)


@pytest.mark.parametrize(
    "options",
    [
        {"transformer_quantization": "8-bit", "quantize_text_encoder": "text_encoder_2"},
        {"transformer_nf4": True, "quantize_text_encoder": "text_encoder_2", "text_encoder_quantization": "nf4"},
        {"transformer_quantization": "4-bit", "quantize_text_encoder": "text_encoder,text_encoder_2"},
        {"transformer_quantization": "fp8"},
        {"torch_dtype": "bfloat16"},
        {"torch_dtype": "bfloat16", "transformer_nf4": True},
    ],
)
def test_packed_parts_weigh_what_they_weigh_once_loaded(options: dict[str, Any], folder_of: FolderOf) -> None:
    planned = told(launched(folder_of("flux_wide"), n_gpu=None, **options))
    weighed = loaded(folder_of("flux_wide"), **options).about["components"]
    for row in planned.parts:
        part = weighed[row.slot]
        assert row.quantization == part["quantization"]
        assert row.bytes == pytest.approx(part["bytes"], rel=0.06, abs=8192)


@pytest.mark.parametrize("type", ["Q4_0", "Q6_K", "F16", "BF16"])
def test_a_gguf_file_weighs_what_it_weighs_once_loaded(type: str, folder_of: FolderOf, tmp_path: Path) -> None:
    weights = load_file(folder_of("flux_wide") / "transformer" / "diffusion_pytorch_model.safetensors")
    file = gguf_files.write(tmp_path / f"flux-{type}.gguf", weights, type, "flux")
    wanted = launched(folder_of("flux_wide"), n_gpu=None, gguf_model_path=str(file))
    row = next(row for row in told(wanted).parts if row.slot == "transformer")
    weighed = loaded(folder_of("flux_wide"), gguf_model_path=str(file)).about["components"]["transformer"]["bytes"]
    assert row.quantization == f"GGUF {type}"
    assert row.bytes == pytest.approx(weighed, rel=0.02)


# ------------------------------------------------------------------------------------------------- arithmetic


def test_parts_weigh_by_number_format_and_bits() -> None:
    assert sizes(case()) == {"transformer": 23.8, "text_encoder": 0.2, "text_encoder_2": 9.5, "vae": 0.2}
    assert sizes(case(on_gpu=False))["transformer"] == 47.6
    assert sizes(case(transformer_quantization="8-bit"))["transformer"] == 11.9
    assert sizes(case(transformer_nf4=True))["transformer"] == 6.7
    assert sizes(case(transformer_quantization="fp8"))["transformer"] == 15.5
    # The parts of T5 that cannot be packed stay in 16 bits.
    assert sizes(case(quantize_text_encoder="text_encoder_2"))["text_encoder_2"] == 5.9
    assert sizes(case(text_encoder_2=None)) == {"transformer": 23.8, "text_encoder": 0.2, "vae": 0.2}


@pytest.mark.parametrize(
    ("type", "gigabytes"), [("Q2_K", 3.9), ("Q4_K_S", 6.7), ("Q5_0", 8.2), ("Q6_K", 9.8), ("Q8_0", 12.6), ("F16", 23.8)]
)
def test_a_gguf_file_that_is_not_there_yet_weighs_what_such_files_do(type: str, gigabytes: float) -> None:
    assert sizes(case(gguf_quantization=type))["transformer"] == gigabytes


def test_the_peak_is_everything_and_the_largest_picture_and_something_to_spare() -> None:
    made = plan(case())
    assert made.fixed_bytes == CUDA_CONTEXT_BYTES
    whole = sum(row.bytes for row in made.parts) + made.activation_bytes + made.fixed_bytes
    assert made.peak_bytes == whole + made.spare_bytes
    assert made.spare_bytes == pytest.approx(whole / 10, abs=2)
    assert made.activation_bytes == 2 * 768 * 2 * USUAL_PIXELS
    assert plan(case(max_pixels=1024 * 1024)).activation_bytes == 2 * 768 * 2 * 1024 * 1024
    assert plan(case(on_gpu=False)).fixed_bytes == PROCESS_BYTES


@pytest.mark.parametrize(
    ("offload", "gigabytes"),
    [
        pytest.param(None, 0, id="all on the card"),
        pytest.param("model", 34, id="parts"),
        pytest.param("group", 34, id="layers"),
    ],
)
def test_what_is_offloaded_takes_main_memory(offload: str | None, gigabytes: float) -> None:
    made = plan(case(cpu_offload=offload))
    assert made.host_bytes - HOST_BYTES == pytest.approx(gigabytes * 1e9, rel=0.02)
    assert plan(case(on_gpu=False, cpu_offload=offload)).host_bytes == 0


def test_offload_leaves_the_largest_part_on_the_card_or_only_its_layers() -> None:
    whole, model, group = (plan(case(cpu_offload=offload)).peak_bytes for offload in (False, "model", "group"))
    assert whole > 40e9
    assert 26e9 < model < 28.5e9
    assert group < 9e9


def test_packed_parts_stay_on_the_card_when_layers_come_and_go() -> None:
    made = plan(case(cpu_offload="group", quantize_text_encoder="text_encoder_2"))
    homes = {row.slot: row.lives_on for row in made.parts}
    assert homes["text_encoder_2"] == "card"
    assert homes["transformer"] == "main memory, layers on the card while they run"
    assert made.peak_bytes > 5.9e9


def test_without_a_gpu_offload_saves_nothing_and_everything_is_in_main_memory() -> None:
    assert plan(case(on_gpu=False, cpu_offload=True)).peak_bytes == plan(case(on_gpu=False)).peak_bytes
    assert {row.lives_on for row in plan(case(on_gpu=False, cpu_offload=True)).parts} == {"main memory"}


def test_tiles_bound_what_decoding_takes() -> None:
    tiled = plan(case(vae_tiling=True, max_pixels=1024 * 1024))
    assert tiled.activation_bytes == 2 * 768 * 2 * 512 * 512
    assert plan(case(vae_tiling=True)).activation_bytes < plan(case()).activation_bytes


# --------------------------------------------------------------------------------------------------- the ladder


def fitting(asked: Case, room_bytes: int) -> tuple[JsonObject, int] | None:
    """The first change of the ladder with which it fits, and what it needs then."""
    for changes in ways(list(rungs(asked))):
        named = {name: getattr(asked.options, name) for name in asked.options.model_fields_set}
        changed = replace(asked, options=ImageOptions.model_validate({**named, **changes}))
        if plan(changed).peak_bytes <= room_bytes:
            return changes, plan(changed).peak_bytes
    return None


T5 = {"quantize_text_encoder": "text_encoder_2"}
GGUF = {"gguf_quantization": "Q4_0"}


@pytest.mark.parametrize(
    ("card_gb", "change"),
    [
        (42, T5),
        (28, GGUF),
        (22, {**T5, **GGUF}),
        (17, {**T5, **GGUF, "vae_tiling": True}),
        (12, {**T5, **GGUF, "vae_tiling": True, "max_pixels": 1024 * 1024, "cpu_offload": "model"}),
        (8.2, {"cpu_offload": "group"}),
        (3, None),
    ],
)
def test_the_smallest_change_that_makes_it_fit_is_told(card_gb: float, change: JsonObject | None) -> None:
    asked = case()
    assert plan(asked).peak_bytes > card_gb * 1e9
    found = fitting(asked, int(card_gb * 1e9))
    assert (found and found[0]) == change


def test_what_is_chosen_already_is_not_advised() -> None:
    assert {"quantize_text_encoder": "text_encoder_2"} in list(rungs(case()))
    left = list(rungs(case(quantize_text_encoder="text_encoder_2", gguf_quantization="Q4_0", vae_tiling=True)))
    assert left[0] == {"max_pixels": 1024 * 1024}


def test_tiles_are_advised_where_only_the_picture_is_too_large() -> None:
    small = case(
        {"unet": 0.86, "text_encoder": 0.12, "vae": 0.084}, quantize_text_encoder="text_encoder", transformer_nf4=True
    )
    assert next(rungs(small)) == {"vae_tiling": True}


def test_without_a_card_nothing_is_advised_that_needs_one() -> None:
    assert not any("cpu_offload" in changes for changes in rungs(case(on_gpu=False)))


def test_blocks_that_come_and_go_are_counted_from_their_names() -> None:
    tensors = [Tensor(f"blocks.{place}.to_q.weight", (10, 10), 400, True) for place in range(18)]
    tensors += [Tensor("proj.weight", (20, 10), 800, True)]
    weights = Weights.of("T", tensors, None)
    assert (weights.packable, weights.rows) == (2000, 200)
    assert weights.block_share == pytest.approx((800 + 2 * 400) / 8000)


# ------------------------------------------------------------------------------------------------- at the door


def test_a_launch_claims_what_its_plan_says(folder_of: FolderOf) -> None:
    wanted = launched(folder_of("flux"))
    assert wanted.claim_bytes == told(wanted).peak_bytes
    assert wanted.on_card == told(wanted, on_card=True).needs(on_card=True)
    assert launched(folder_of("flux"), n_gpu=None, memory="3GB").claim_bytes == 3 * 10**9


def test_a_narrow_decoder_claims_little_more_than_its_process(folder_of: FolderOf) -> None:
    for name in NINE:
        assert PROCESS_BYTES < launched(folder_of(name), n_gpu=None).claim_bytes < 5 * 10**9


def test_a_launch_that_allows_large_pictures_claims_memory_for_them(folder_of: FolderOf) -> None:
    usual, large = (launched(folder_of("sd15"), max_pixels=pixels).claim_bytes for pixels in (64 * 64, 4096 * 4096))
    assert large > usual + 10**9


@pytest.mark.parametrize("name", ["FLUX.1-dev", "sd3.5-large", "Qwen-Image", "sdxl-turbo", "kolors"])
def test_a_model_of_the_catalogue_is_planned_without_its_weights(name: str) -> None:
    settings = Settings(home="/nowhere")
    wanted = resolve(LaunchSpec(model_name=name, model_type="image"), Catalog.builtin(), settings)
    planned = told(wanted, on_card=True)
    assert [row.slot for row in planned.parts] == list(wanted.entry.facts["components"])
    assert planned.peak_bytes > sum(row.bytes for row in planned.parts)


def test_what_a_launch_replaces_or_leaves_out_is_not_downloaded() -> None:
    settings = Settings(home="/nowhere")
    asked = LaunchSpec.model_validate(
        {
            "model_name": "sd3.5-large",
            "model_type": "image",
            "gguf_quantization": "Q4_0",
            "text_encoder_3": None,
            "quantize_text_encoder": False,
        }
    )
    source = resolve(asked, Catalog.builtin(), settings).source
    assert source.exclude == (
        "text_encoder_3/*",
        "transformer/*.safetensors",
        "transformer/*.bin",
        "transformer/*.index.json",
    )
    plain = resolve(LaunchSpec(model_name="sd3.5-large", model_type="image"), Catalog.builtin(), settings)
    assert plain.source.exclude == ()


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"gguf_model_path": "/etc/model.gguf"}, "gguf_model_path /etc/model.gguf is outside of the folders"),
        ({"lora_modules": {"ink": "/etc/ink.safetensors"}}, "lora_modules /etc/ink.safetensors is outside"),
        ({"controlnet": "/etc"}, "controlnet /etc is outside"),
        ({"quantize_text_encoder": "text_encoder_9"}, "no text encoder 'text_encoder_9'"),
        ({"text_encoder_3": "None"}, "no text encoder 'text_encoder_3'"),
        ({"gguf_quantization": "Q4_0"}, "has no GGUF files that are known here"),
        ({"lightning_version": "4steps"}, "has no Lightning LoRA '4steps'"),
        ({"controlnet": "canny"}, "has no ControlNet 'canny'"),
        ({"gguf_model_path": "model.bin"}, "takes a file that ends in .gguf"),
        ({"lora_modules": {"ink": "~/ink.ckpt"}}, "outside of the folders"),
        ({"cpu_offloud": True}, "did you mean 'cpu_offload'"),
    ],
)
def test_a_launch_that_cannot_load_is_refused_at_the_door(
    options: dict[str, Any], refused: str, folder_of: FolderOf
) -> None:
    root = folder_of("flux").parent
    if options == {"gguf_model_path": "model.bin"}:
        options = {"gguf_model_path": str(root / "model.bin")}
    with pytest.raises(errors.BadOption, match=refused):
        launched(folder_of("flux"), roots=(root,), **options)


def test_a_gguf_file_of_another_model_is_refused_at_the_door(folder_of: FolderOf, tmp_path: Path) -> None:
    weights = load_file(folder_of("sd3") / "transformer" / "diffusion_pytorch_model.safetensors")
    file = gguf_files.write(tmp_path / "sd3.gguf", weights, "Q8_0", "sd3")
    with pytest.raises(errors.BadOption, match="architecture 'sd3', and FluxTransformer2DModel takes flux"):
        launched(folder_of("flux"), gguf_model_path=str(file))


def test_a_folder_whose_transformer_is_replaced_is_planned_without_one(folder_of: FolderOf, tmp_path: Path) -> None:
    folder = shutil.copytree(folder_of("flux"), tmp_path / "flux")
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    file = gguf_files.write(tmp_path / "flux-Q8_0.gguf", load_file(weights), "Q8_0", "flux")
    weights.unlink()
    planned = told(launched(folder, n_gpu=None, gguf_model_path=str(file)))
    row = next(row for row in planned.parts if row.slot == "transformer")
    assert row.bytes == pytest.approx(file.stat().st_size, rel=0.05)


def test_one_file_is_launched_by_its_own_path_and_weighed(folder_of: FolderOf, tmp_path: Path) -> None:
    file = Path(shutil.copy(folder_of("flux") / "transformer" / "diffusion_pytorch_model.safetensors", tmp_path))
    wanted = launched(file, n_gpu=None)
    assert (wanted.source.id, wanted.source.path) == (str(tmp_path), file.name)
    rows = told(wanted).parts
    assert [row.slot for row in rows] == ["checkpoint"]
    assert rows[0].bytes == pytest.approx(file.stat().st_size, rel=0.05)


def test_a_dry_run_against_a_server_tells_the_parts_and_the_advice(live: LiveCluster, folder_of: FolderOf) -> None:
    asked = {"model_name": "dry", "model_type": "image", "model_path": str(folder_of("sd15")), "model_uid": "dry"}
    with live.client() as client:
        fit = client.check(LaunchSpec.model_validate(asked))
        assert "dry" not in client.list_models()
    assert fit["fits"]
    assert {row["component"] for row in fit["plan"]["components"]} == {"unet", "vae", "text_encoder"}
    assert {row["lives_on"] for row in fit["plan"]["components"]} == {"main memory"}
    assert "main memory has" in fit["plan"]["advice"]
    assert fit["claim_bytes"] == fit["plan"]["peak_bytes"] and fit["nodes"]
