from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline
from gguf import LlamaFileType

from cluster.catalog.catalog import Catalog
from cluster.catalog.entry import Entry
from cluster.catalog.registrations import parse_registration, to_registration
from cluster.cli.options import family_options
from cluster.settings import Settings
from deployments import resolve
from deployments.image.options import ImageOptions
from deployments.ingress.xinference_launch import launch_spec_of

NAMES = """
    sd-turbo sdxl-turbo stable-diffusion-v1.5 stable-diffusion-xl-base-1.0
    stable-diffusion-inpainting stable-diffusion-2-inpainting stable-diffusion-xl-inpainting
    sd3-medium sd3.5-medium sd3.5-large sd3.5-large-turbo
    FLUX.1-schnell FLUX.1-dev FLUX.1-Kontext-dev FLUX.2-dev FLUX.2-klein-4B FLUX.2-klein-9B
    Qwen-Image Qwen-Image-2512 Qwen-Image-Edit Qwen-Image-Edit-2509 Qwen-Image-Edit-2511
    Z-Image Z-Image-Turbo Kolors hunyuandit-v1.2 hunyuandit-v1.2-distilled HunyuanImage-2.1
    cogview4 SANA-Sprint GLM-Image
""".split()

#: What a class must be given to do a task.
TASKS = {"text2image": {"prompt"}, "image2image": {"prompt", "image"}, "inpainting": {"prompt", "image", "mask_image"}}

#: A fact of an entry, and the argument of a pipeline that it becomes.
ARGUMENTS = {
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "true_cfg": "true_cfg_scale",
    "max_sequence_length": "max_sequence_length",
}

#: name, text encoder in 8 bits, quantisation of the denoiser, number format
LAUNCHED_WITH = [
    ("FLUX.1-dev", ("text_encoder_2",), None, "bfloat16"),
    ("FLUX.1-schnell", ("text_encoder_2",), None, "bfloat16"),
    ("FLUX.1-Kontext-dev", ("text_encoder_2",), None, "bfloat16"),
    ("FLUX.2-dev", ("text_encoder",), None, "bfloat16"),
    ("FLUX.2-klein-4B", (), None, "bfloat16"),
    ("sd3-medium", ("text_encoder_3",), None, "float16"),
    ("sd3.5-medium", ("text_encoder_3",), None, "bfloat16"),
    ("sd3.5-large", ("text_encoder_3",), "nf4", "bfloat16"),
    ("sd3.5-large-turbo", ("text_encoder_3",), "nf4", "bfloat16"),
    ("Qwen-Image", ("text_encoder",), None, "bfloat16"),
    ("Qwen-Image-2512", ("text_encoder",), None, "bfloat16"),
    ("Qwen-Image-Edit-2511", ("text_encoder",), None, "bfloat16"),
    ("Z-Image-Turbo", (), None, "bfloat16"),
    ("sdxl-turbo", (), None, "float16"),
    ("cogview4", (), None, "bfloat16"),
    ("GLM-Image", (), None, "bfloat16"),
]

#: name, and the defaults of a request: steps, guidance, true_cfg
ASKED_WITH = [
    ("sd-turbo", 1, 0.0, None),
    ("sd3.5-large-turbo", 4, 1.0, None),
    ("FLUX.1-schnell", 4, 0.0, None),
    ("FLUX.1-dev", 28, 3.5, None),
    ("Qwen-Image", 50, None, 1.0),
    ("Qwen-Image-Edit", 50, None, 4.0),
    ("Z-Image-Turbo", 9, 0.0, None),
    ("Z-Image", 28, 4.0, None),
    ("GLM-Image", 50, 1.5, None),
]

ENTRIES = Catalog.builtin().of_type("image")


def each(*facts: str) -> pytest.MarkDecorator:
    """Parametrizes a test with each row that has these facts."""
    rows = [entry for entry in ENTRIES if set(facts) <= entry.facts.keys()]
    return pytest.mark.parametrize("entry", rows, ids=lambda entry: entry.name)


def classes(entry: Entry) -> dict[str, type[DiffusionPipeline]]:
    return {task: getattr(diffusers, name) for task, name in entry.facts["pipelines"].items()}


def parameters(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters)


def denoiser_class(pipeline: type[DiffusionPipeline]) -> Any:
    annotation = inspect.signature(pipeline.__init__).parameters["transformer"].annotation
    return getattr(diffusers, annotation) if isinstance(annotation, str) else annotation


def test_every_expected_model_is_there_and_no_other() -> None:
    assert {entry.name for entry in ENTRIES} == set(NAMES)
    assert len(ENTRIES) == len(NAMES)
    assert {entry.family for entry in ENTRIES} == {"diffusers"}


@pytest.mark.parametrize("name", NAMES)
def test_names_match_without_regard_to_case_or_dots(name: Any) -> None:
    for spelled in (name.lower(), name.upper(), name.replace(".", ""), name.replace(".", "-")):
        assert Catalog.builtin().find(spelled, "image").name == name


@each()
def test_rows_are_whole(entry: Any) -> None:
    assert entry.description.endswith(".") and entry.licence
    assert entry.sources[0].hub == "huggingface"
    assert entry.facts["resolution"] % entry.facts["multiple_of"] == 0


@each()
def test_revisions_are_commits(entry: Any) -> None:
    pinned = [source.revision for source in entry.sources]
    pinned += [place["revision"] for place in entry.facts.get("controlnets", {}).values()]
    assert all(revision is None or re.fullmatch("[0-9a-f]{40}", revision) for revision in pinned)


@each()
def test_classes_exist_and_can_do_their_tasks(entry: Any) -> None:
    assert entry.facts["pipelines"]
    for task, pipeline in classes(entry).items():
        assert issubclass(pipeline, DiffusionPipeline)
        assert TASKS[task] <= parameters(pipeline.__call__), pipeline


@each()
def test_what_draws_without_a_picture_can_be_called_without_one(entry: Any) -> None:
    if "text2image" in entry.facts["pipelines"]:
        image = inspect.signature(classes(entry)["text2image"].__call__).parameters.get("image")
        assert image is None or image.default is None


@each()
def test_defaults_of_a_request_are_arguments_of_every_class(entry: Any) -> None:
    for pipeline in classes(entry).values():
        for fact in ARGUMENTS.keys() & entry.facts.keys():
            assert ARGUMENTS[fact] in parameters(pipeline.__call__), (pipeline, fact)


@each()
def test_no_default_is_left_to_the_class(entry: Any) -> None:
    """The pipeline classes of one model have different defaults: 3.5 and 7.0 for the guidance of FLUX.1."""
    takes = set.intersection(*(parameters(pipeline.__call__) for pipeline in classes(entry).values()))
    assert "steps" in entry.facts
    assert "guidance" in entry.facts or "true_cfg" in entry.facts or "guidance_scale" not in takes
    assert "max_sequence_length" in entry.facts or "max_sequence_length" not in takes


@each()
def test_components_are_parts_of_every_class(entry: Any) -> None:
    components = entry.facts["components"]
    assert len(components.keys() & {"transformer", "unet"}) == 1 and "vae" in components
    assert all(0.05 < billions < 40 for billions in components.values())
    for pipeline in classes(entry).values():
        assert components.keys() <= parameters(pipeline.__init__), pipeline


@each()
def test_every_text_encoder_is_listed_with_its_size(entry: Any) -> None:
    listed = set(entry.facts["text_encoders"])
    assert listed <= entry.facts["components"].keys()
    for pipeline in classes(entry).values():
        assert {name for name in parameters(pipeline.__init__) if name.startswith("text_encoder")} <= listed


@pytest.mark.parametrize(
    "name, denoiser, config",
    [
        ("FLUX.1-schnell", "FluxTransformer2DModel", {}),
        ("FLUX.1-dev", "FluxTransformer2DModel", {"guidance_embeds": True}),
        ("FLUX.2-dev", "Flux2Transformer2DModel", {}),
        ("Qwen-Image", "QwenImageTransformer2DModel", {}),
        ("Z-Image", "ZImageTransformer2DModel", {}),
        ("HunyuanImage-2.1", "HunyuanImageTransformer2DModel", {}),
        ("stable-diffusion-v1.5", "UNet2DConditionModel", {"cross_attention_dim": 768}),
    ],
)
def test_sizes_are_those_of_the_denoisers(name: str, denoiser: str, config: dict[str, Any]) -> None:
    with torch.device("meta"):
        model = getattr(diffusers, denoiser)(**config)
    components = Catalog.builtin().find(name, "image").facts["components"]
    told = components.get("transformer", components.get("unet"))
    assert model.num_parameters() / 1e9 == pytest.approx(told, abs=0.001)


@each()
def test_launch_options_are_known_and_quantise_what_is_there(entry: Any) -> None:
    options = ImageOptions.model_validate(entry.options)
    assert options.torch_dtype in ("float16", "bfloat16")
    assert set(options.quantize_text_encoder) <= set(entry.facts["text_encoders"])
    assert options.transformer_quantization is None or "transformer" in entry.facts["components"]


@pytest.mark.parametrize("name, encoders, denoiser, dtype", LAUNCHED_WITH)
def test_defaults_of_a_launch(name: Any, encoders: Any, denoiser: Any, dtype: Any) -> None:
    options = ImageOptions.model_validate(Catalog.builtin().find(name, "image").options)
    assert (options.quantize_text_encoder, options.text_encoder_quantization) == (encoders, "8-bit")
    assert (options.transformer_quantization, options.torch_dtype) == (denoiser, dtype)


@pytest.mark.parametrize("name, steps, guidance, true_cfg", ASKED_WITH)
def test_defaults_of_a_request(name: Any, steps: Any, guidance: Any, true_cfg: Any) -> None:
    facts = Catalog.builtin().find(name, "image").facts
    assert (facts["steps"], facts.get("guidance"), facts.get("true_cfg")) == (steps, guidance, true_cfg)


def test_models_behind_a_gate_say_so() -> None:
    free = {"FLUX.2-klein-4B"}
    gated = {name for name in NAMES if name.startswith(("sd3", "FLUX"))} - free
    assert {entry.name for entry in ENTRIES if entry.gated} == gated


@each("gguf")
def test_gguf_files_are_of_a_denoiser_that_can_be_loaded_from_them(entry: Any) -> None:
    gguf = entry.facts["gguf"]
    assert all(hasattr(denoiser_class(pipeline), "from_single_file") for pipeline in classes(entry).values())
    assert {f"MOSTLY_{quantization}" for quantization in gguf["quantizations"]} <= set(LlamaFileType.__members__)
    assert len(set(gguf["quantizations"])) == len(gguf["quantizations"])
    assert gguf["architecture"] in ("flux", "sd3", "qwen_image", "lumina2")
    assert gguf["huggingface"]["file"].endswith("-{quantization}.gguf")


@pytest.mark.parametrize(
    "name, id, file",
    [
        ("FLUX.1-dev", "city96/FLUX.1-dev-gguf", "flux1-dev-Q4_0.gguf"),
        ("sd3.5-large-turbo", "city96/stable-diffusion-3.5-large-turbo-gguf", "sd3.5_large_turbo-Q4_0.gguf"),
        ("Qwen-Image-Edit", "QuantStack/Qwen-Image-Edit-GGUF", "Qwen_Image_Edit-Q4_0.gguf"),
        ("FLUX.2-dev", "city96/FLUX.2-dev-gguf", "flux2-dev-Q4_0.gguf"),
        ("Z-Image-Turbo", "unsloth/Z-Image-Turbo-GGUF", "z-image-turbo-Q4_0.gguf"),
    ],
)
def test_gguf_file_of_a_quantization(name: str, id: str, file: str) -> None:
    gguf = Catalog.builtin().find(name, "image").facts["gguf"]
    assert "Q4_0" in gguf["quantizations"]
    assert (gguf["huggingface"]["id"], gguf["huggingface"]["file"].format(quantization="Q4_0")) == (id, file)


@each("lightning")
def test_distilled_adapters_name_their_steps_and_fit_a_class_that_takes_adapters(entry: Any) -> None:
    lightning = entry.facts["lightning"]
    assert all(hasattr(pipeline, "load_lora_weights") for pipeline in classes(entry).values())
    assert all(re.match(r"[48]steps-", version) for version in lightning["versions"])
    assert all("{version}" in lightning[hub]["file"] for hub in ("huggingface", "modelscope"))


def test_controlnets_by_name() -> None:
    facts = {entry.name: entry.facts["controlnets"] for entry in ENTRIES if "controlnets" in entry.facts}
    assert {name: list(nets) for name, nets in facts.items()} == {
        "stable-diffusion-v1.5": ["canny", "mlsd", "hed", "scribble", "openpose", "normal", "seg"],
        "stable-diffusion-xl-base-1.0": ["canny", "depth", "zoe-depth"],
    }
    assert facts["stable-diffusion-xl-base-1.0"]["canny"]["id"] == "diffusers/controlnet-canny-sdxl-1.0"


@each()
def test_what_is_listed_can_be_registered_again(entry: Any) -> None:
    listed = {**to_registration(entry), "model_name": "copy", "aliases": []}
    again = parse_registration("image", json.dumps(listed))
    assert (again.facts, again.options, again.gated) == (entry.facts, entry.options, entry.gated)


#: Options that catalogue entries set, each as people switch it off, and what is left of it then.
SWITCHED_OFF: list[tuple[str, list[Any], Callable[[ImageOptions], bool]]] = [
    ("quantize_text_encoder", ["False", "None", False], lambda options: options.quantize_text_encoder == ()),
    ("transformer_quantization", ["False", "None", False], lambda options: options.denoiser_quantization is None),
    ("transformer_nf4", ["False", "none", False], lambda options: options.denoiser_quantization is None),
    ("torch_dtype", ["None", "auto", False], lambda options: options.torch_dtype == "auto"),
    ("variant", ["None", "False", False], lambda options: options.variant is None),
]


def test_every_option_that_an_entry_sets_has_its_form_for_off() -> None:
    assert {name for entry in ENTRIES for name in entry.options} <= {name for name, _, _ in SWITCHED_OFF}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_what_an_entry_sets_can_be_switched_off_by_a_launch(entry: Entry) -> None:
    settings = Settings(home=Path("/nowhere"))
    for name, forms, is_off in SWITCHED_OFF:
        # As REST and Python write it, and as the command line reads it.
        for form in [*forms, *family_options([f"--{name}", forms[0]]).values()]:
            spec = launch_spec_of({"model_name": entry.name, "model_type": "image", name: form})
            wanted = resolve(spec, Catalog.builtin(), settings)
            # What is stored of a launch is all that its worker is given.
            assert is_off(ImageOptions.model_validate({**entry.options, **wanted.spec.options})), (name, form)
