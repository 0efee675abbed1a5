"""Every launch option of image models that Xinference documents, by its own command line, with tiny pipelines under the
names of the models that the options are documented for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from diffusers import ControlNetModel, DiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file
from xinference_client import RESTfulClient

from cluster.catalog.catalog import Catalog
from cluster.catalog.entry import Source
from tests import gguf_files
from tests.documented import IMAGE, LAUNCH, PAGES
from tests.downloaded import put, put_model
from tests.live import LiveCluster
from tests.painted import filled, opened
from tests.pipelines import saved
from tests.xinference_command import xinference

pytestmark = pytest.mark.slow

#: Which tiny pipeline stands for a model.
PIPELINES = {
    "FLUX.1-dev": "flux_wide",
    "FLUX.1-schnell": "flux_wide",
    "sd3-medium": "sd3",
    "sd3.5-medium": "sd3",
    "sd3.5-large": "sd3",
    "sd3.5-large-turbo": "sd3",
    "Qwen-Image": "qwen_image",
    "stable-diffusion-v1.5": "sd15",
}


class Files(NamedTuple):
    gguf: Path
    lightning: Path
    #: A folder with one LoRA.
    lora: Path


@pytest.fixture(scope="module")
def files(live: LiveCluster, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Puts all weights where the models' own would lie once they are downloaded."""
    root = tmp_path_factory.mktemp("image-options")
    folders = {name: saved(name, root / name) for name in dict.fromkeys(PIPELINES.values())}
    for model, name in PIPELINES.items():
        put_model(live.home, model, "image", folders[name])
    facts = {model: Catalog.builtin().find(model, "image").facts for model in PIPELINES}

    weights = load_file(folders["flux_wide"] / "transformer" / "diffusion_pytorch_model.safetensors")
    place = facts["FLUX.1-dev"]["gguf"]["huggingface"]
    (root / "gguf").mkdir()
    gguf = gguf_files.write(root / "gguf" / place["file"].format(quantization="Q2_K"), weights, "Q2_K", "flux")
    put(live.home, Source(hub="huggingface", id=place["id"], format="gguf"), gguf.parent)

    place = facts["Qwen-Image"]["lightning"]["huggingface"]
    lightning = lora_for(folders["qwen_image"], root / "lightning", place["file"].format(version="4steps-V1.0"))
    put(live.home, Source(hub="huggingface", id=place["id"]), lightning.parent)

    canny = facts["stable-diffusion-v1.5"]["controlnets"]["canny"]
    unet = DiffusionPipeline.from_pretrained(folders["sd15"], local_files_only=True).unet
    ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 8, 8)).save_pretrained(root / "canny")
    put(live.home, Source(hub="huggingface", **canny), root / "canny")
    return Files(gguf, lightning, lora_for(folders["sd15"], root / "lora", "ink.safetensors").parent)


def lora_for(pipeline: Path, folder: Path, file: str) -> Path:
    torch.manual_seed(7)
    pipe = DiffusionPipeline.from_pretrained(pipeline, local_files_only=True)
    slot = "transformer" if "transformer" in pipe.components else "unet"
    part = pipe.components[slot]
    part.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    layers = {f"{slot}_lora_layers": get_peft_model_state_dict(part)}
    pipe.save_lora_weights(folder, **layers, weight_name=file)
    return folder / file


@pytest.fixture
def client(live: LiveCluster) -> Iterator[RESTfulClient]:
    client = RESTfulClient(live.url)
    yield client
    for uid in client.list_models():
        if uid in PIPELINES:
            client.terminate_model(uid)
    client.close()


def launched(client: RESTfulClient, model: str, *options: str) -> dict[str, Any]:
    """What the model says of itself; it draws as well."""
    printed = xinference(client.base_url, "launch", "--model-name", model, "--model-type", "image", *options)
    assert f"Model uid: {model}" in printed and model in client.list_models(), printed
    described: dict[str, Any] = client.describe_model(model)
    return described


def drawn(client: RESTfulClient, model: str, **fields: Any) -> str:
    small = {"size": "64*64", "num_inference_steps": 2, "seed": 1, "response_format": "b64_json"}
    (row,) = client.get_model(model).text_to_image("an apple", **{**small, **fields})["data"]
    assert opened(row["b64_json"]).size == (64, 64)
    return str(row["b64_json"])


@pytest.mark.documented(PAGES, "images: FLUX.1-dev with a quantised encoder")
@pytest.mark.documented(IMAGE, "--quantize_text_encoder")
def test_an_encoder_of_flux_is_quantised(client: RESTfulClient, files: Files) -> None:
    parts = launched(client, "FLUX.1-dev", "--quantize_text_encoder", "text_encoder_2")["components"]
    assert parts["text_encoder_2"]["quantization"] == "8-bit" and parts["text_encoder"]["quantization"] == "none"
    drawn(client, "FLUX.1-dev")


@pytest.mark.documented(PAGES, "images: sd3-medium with a quantised encoder")
@pytest.mark.documented(IMAGE, "--vae_tiling", "--vae_slicing", "--max_num_images", "--quantize")
def test_an_encoder_of_stable_diffusion_3_is_quantised(client: RESTfulClient, files: Files) -> None:
    more = ["--vae_tiling", "True", "--vae_slicing", "True", "--max_num_images", "2"]
    described = launched(client, "sd3-medium", "--quantize_text_encoder", "text_encoder_3", "--quantize", "True", *more)
    assert described["components"]["text_encoder_3"]["quantization"] == "8-bit"
    assert "changed nothing" in described["quantize"]
    drawn(client, "sd3-medium")
    with pytest.raises(RuntimeError, match="2"):
        client.get_model("sd3-medium").text_to_image("a", n=3, size="64*64")


@pytest.mark.documented(PAGES, "images: sd3-medium without its third encoder")
@pytest.mark.documented(IMAGE, "--text_encoder_3", "--torch_dtype", "--device_map")
def test_an_encoder_is_left_out(client: RESTfulClient, files: Files) -> None:
    described = launched(
        client, "sd3-medium", "--text_encoder_3", "None", "--torch_dtype", "float32", "--device_map", "cpu"
    )
    assert "text_encoder_3" not in described["components"] and described["dtype"] == "float32"
    drawn(client, "sd3-medium")


@pytest.mark.documented(PAGES, "images: FLUX.1-dev from GGUF")
@pytest.mark.documented(IMAGE, "--gguf_quantization", "--cpu_offload")
def test_a_denoiser_comes_from_gguf(client: RESTfulClient, files: Files) -> None:
    described = launched(client, "FLUX.1-dev", "--gguf_quantization", "Q2_K", "--cpu_offload", "True")
    assert described["components"]["transformer"]["quantization"] == "GGUF Q2_K" and described["offload"] == "model"
    drawn(client, "FLUX.1-dev")


@pytest.mark.documented(PAGES, "images: a GGUF file")
@pytest.mark.documented(IMAGE, "--gguf_model_path", "--sequential_cpu_offload")
def test_a_denoiser_comes_from_a_file(client: RESTfulClient, files: Files) -> None:
    described = launched(client, "FLUX.1-dev", "--gguf_model_path", str(files.gguf), "--sequential_cpu_offload", "True")
    assert described["components"]["transformer"]["quantization"] == "GGUF" and described["offload"] == "sequential"
    drawn(client, "FLUX.1-dev")


@pytest.mark.documented(IMAGE, "--transformer_nf4", "--text_encoder_quantize_method", "--text_encoder_quantization")
def test_a_denoiser_is_packed(client: RESTfulClient, files: Files) -> None:
    encoders = ["--text_encoder_quantize_method", "bnb", "--text_encoder_quantization", "nf4"]
    parts = launched(client, "sd3.5-large", "--transformer_nf4", "True", *encoders)["components"]
    assert [parts[slot]["quantization"] for slot in ("transformer", "text_encoder_3")] == ["nf4", "nf4"]
    drawn(client, "sd3.5-large")


@pytest.mark.documented(IMAGE, "--transformer_quantization", "--transformer_quantize_method", "--lightning_version")
def test_a_few_steps_come_from_the_hub(client: RESTfulClient, files: Files) -> None:
    few = ["--lightning_version", "4steps-V1.0", "--quantize_text_encoder", "False"]
    how = ["--transformer_quantization", "None", "--transformer_quantize_method", "bnb"]
    assert launched(client, "Qwen-Image", *few, *how)["steps"] == 4
    drawn(client, "Qwen-Image")


@pytest.mark.documented(IMAGE, "--lightning_model_path")
def test_a_few_steps_come_from_a_file(client: RESTfulClient, files: Files) -> None:
    few = ["--lightning_model_path", str(files.lightning), "--quantize_text_encoder", "False"]
    assert launched(client, "Qwen-Image", *few)["steps"] == 4


@pytest.mark.documented(IMAGE, "--controlnet", "--deepcache", "--deepcache_cache_interval")
@pytest.mark.documented(IMAGE, "--deepcache_cache_branch_id", "--attention_slicing")
def test_a_controlnet_listens(client: RESTfulClient, files: Files) -> None:
    cache = ["--deepcache", "True", "--deepcache_cache_interval", "3", "--deepcache_cache_branch_id", "0"]
    described = launched(
        client, "stable-diffusion-v1.5", "--controlnet", "canny", "--attention_slicing", "True", *cache
    )
    assert "ControlNet" in described["pipeline"] and "pictures are exact" in described["deepcache"]
    (row,) = client.get_model("stable-diffusion-v1.5").image_to_image(
        filled("white", (64, 64)), "an apple", size="64*64", num_inference_steps=2, response_format="b64_json"
    )["data"]
    assert opened(row["b64_json"]).size == (64, 64)


@pytest.mark.documented(LAUNCH, "--lora-modules", "--image-lora-load-kwargs", "--image-lora-fuse-kwargs")
def test_adapters_are_in_force(client: RESTfulClient, files: Files) -> None:
    shutil.copy(files.lora / "ink.safetensors", files.lora / "other.safetensors")
    where = ["--lora-modules", "ink", str(files.lora), "--image-lora-load-kwargs", "weight_name", "ink.safetensors"]
    launched(client, "stable-diffusion-v1.5", *where, "--image-lora-fuse-kwargs", "lora_scale", "0.8")
    usual, without = drawn(client, "stable-diffusion-v1.5"), drawn(client, "stable-diffusion-v1.5", loras=[])
    named = drawn(client, "stable-diffusion-v1.5", loras=[{"name": "ink", "scale": 0.8}])
    assert usual == named != without


OFF = {"quantize_text_encoder": False, "quantize": False, "transformer_nf4": False}
OFFS: list[Any] = [
    pytest.param("FLUX.1-dev", marks=pytest.mark.documented(IMAGE, "defaults off: FLUX.1-dev")),
    pytest.param("FLUX.1-schnell", marks=pytest.mark.documented(IMAGE, "defaults off: FLUX.1-schnell")),
    pytest.param("sd3-medium", marks=pytest.mark.documented(IMAGE, "defaults off: sd3-medium")),
    pytest.param("sd3.5-medium", marks=pytest.mark.documented(IMAGE, "defaults off: sd3.5-medium")),
    pytest.param("sd3.5-large", marks=pytest.mark.documented(IMAGE, "defaults off: sd3.5-large")),
    pytest.param("sd3.5-large-turbo", marks=pytest.mark.documented(IMAGE, "defaults off: sd3.5-large-turbo")),
]


@pytest.mark.parametrize("model", OFFS)
def test_what_is_quantised_by_default_is_not_where_it_is_switched_off(
    live: LiveCluster, files: Files, model: str
) -> None:
    """Dry, since a launch of each would take long; `test_a_denoiser_is_packed` launches one of them."""
    asked = {"model_name": model, "model_type": "image"}

    def kinds(**options: Any) -> set[str]:
        answer = live.post("/v1/models?dry_run=true", {**asked, **options})
        assert answer.status_code == 200, answer.text
        return {part["quantization"] for part in answer.json()["plan"]["components"]}

    assert "8-bit" in kinds()
    for off in (OFF, {name: "false" for name in OFF}, {name: "False" for name in OFF}, dict.fromkeys(OFF)):
        assert kinds(**off) == {"none"}
