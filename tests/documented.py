"""What the documentation of other servers and clients shows of the kinds of models that are served here, by page, and
the table of which of it runs. Words are ours; a test that runs some of it says so by the marker `documented`."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

LAUNCH, IMAGE, COMMANDS = "xinference launch", "xinference launch, image models", "other commands of xinference"
CLIENT, PAGES, A1111 = "Xinference's client", "Xinference's pages", "Xinference's A1111 routes"
ROUTES = "other routes of Xinference"
LITELLM, INFINITY = "LiteLLM for Xinference", "LiteLLM for Infinity"

DOCUMENTED: Mapping[str, Sequence[str]] = {
    LAUNCH: (
        *("--model-name", "--model-type", "--model-engine", "--model-uid", "--size-in-billions", "--model-format"),
        *("--quantization", "--replica", "--replica-config", "--n-worker", "--n-gpu", "--gpu-idx", "--worker-ip"),
        *("--lora-modules", "--image-lora-load-kwargs", "--image-lora-fuse-kwargs", "--quantization-config"),
        *("--trust-remote-code", "--model-path", "--enable-thinking", "--enable-virtual-env", "--disable-virtual-env"),
        *("--virtual-env-package", "--virtual-env-find-link", "--env", "--endpoint", "--api-key"),
        *("--download_hub", "--request_limits"),
    ),
    IMAGE: (
        *("--cpu_offload", "--sequential_cpu_offload", "--attention_slicing", "--vae_tiling", "--vae_slicing"),
        *("--torch_dtype", "--device_map", "--quantize_text_encoder", "--text_encoder_quantize_method"),
        *("--text_encoder_quantization", "--transformer_quantization", "--transformer_quantize_method"),
        *("--transformer_nf4", "--text_encoder_3", "--quantize", "--gguf_quantization", "--gguf_model_path"),
        *("--lightning_version", "--lightning_model_path", "--controlnet", "--deepcache"),
        *("--deepcache_cache_interval", "--deepcache_cache_branch_id", "--max_num_images"),
        *("defaults off: FLUX.1-dev", "defaults off: FLUX.1-schnell", "defaults off: sd3-medium"),
        *("defaults off: sd3.5-medium", "defaults off: sd3.5-large", "defaults off: sd3.5-large-turbo"),
    ),
    COMMANDS: (
        *("list", "terminate", "register", "unregister", "registrations", "cached", "remove-cache", "login"),
        *("engine", "generate", "chat", "vllm-models", "cal-model-mem", "stop-cluster"),
        *("reload", "relaunch-api", "relaunch-supervisor"),
    ),
    CLIENT: (
        *("launch_model", "list_models", "get_model", "describe_model", "terminate_model"),
        *("get_launch_model_progress", "cancel_launch_model", "get_instance_info", "add_model_replica"),
        *("terminate_model_replica", "register_model", "unregister_model", "list_model_registrations"),
        *("get_model_registration", "query_engine_by_model_name", "list_cached_models", "list_deletable_models"),
        *("confirm_and_remove_model", "abort_request", "get_progress", "get_workers_info", "get_supervisor_info"),
        *("create_embedding", "convert_ids_to_tokens", "rerank", "text_to_image", "image_to_image", "image_edit"),
        *("inpainting", "ocr", "infer", "chat", "generate", "login", "vllm_models", "abort_cluster", "autostart"),
        *("reload_model", "relaunch_api", "relaunch_supervisor", "relaunch_worker"),
        "the same awaited",
    ),
    PAGES: (
        *("using: a model is launched, by command, curl and client", "using: a chat, by command, curl and clients"),
        *("using: registrations, by command, curl and client", "using: models that run, by command, curl and client"),
        *("using: a model is terminated, by command, curl and client", "launching: gte-base by command"),
        *("launching: a language model by command and client", "client: embedding models are listed"),
        *("client: an embedding model from launch to vector", "client: image models are listed"),
        *("client: an image model from launch to picture", "client: a language model from launch to answer"),
        *("launching: environment variables", "embeddings: curl", "embeddings: openai", "embeddings: client"),
        *("embeddings: truncated by curl", "embeddings: sparse by the engine flag", "rerank: curl", "rerank: client"),
        *("rerank: pictures", "images: curl", "images: openai", "images: client", "images: variations"),
        *("images: FLUX.1-dev with a quantised encoder", "images: sd3-medium with a quantised encoder"),
        *("images: sd3-medium without its third encoder", "images: FLUX.1-dev from GGUF", "images: a GGUF file"),
        *("images: text is read by curl", "images: text is read by client", "registration: embedding"),
        *("registration: rerank", "registration: image", "registration: a model that reads"),
    ),
    ROUTES: (
        *("models/{uid}/events", "models/{uid}/replicas", "models/{type}/{name}/versions", "models/instance"),
        *("models/families", "models/prompts", "models/update_type", "models/llm/auto-register"),
        *("model_registrations/{type}?detailed=true", "launch_history", "virtualenvs", "status", "address"),
        *("cluster/auth", "cluster/info", "cluster/version", "cluster/devices", "metrics", "token", "auth/refresh"),
        *("admin/users", "messages", "anthropic/messages", "anthropic/models", "anthropic/models/{uid}"),
    ),
    A1111: ("options", "sd-models", "samplers", "txt2img", "img2img"),
    LITELLM: (
        *("embedding, with the address in the environment", "embedding, with api_base", "a picture, with api_base"),
        *("a picture, with every option of the page", "the proxy draws", "the names of the page's embedding models"),
    ),
    INFINITY: ("rerank by the package", "rerank by the proxy", "embedding by the package"),
}

#: What of it does not run, by the reason.
NOT_YET: Mapping[str, Mapping[str, Sequence[str]]] = {}
LEFT_OUT: Mapping[str, Mapping[str, Sequence[str]]] = {
    "a cluster is stopped where it was started": {COMMANDS: ("stop-cluster",), CLIENT: ("abort_cluster",)},
    "what fails comes back by itself, and a launch with other options replaces the one before": {
        COMMANDS: ("reload", "relaunch-api", "relaunch-supervisor"),
        CLIENT: ("reload_model", "relaunch_api", "relaunch_supervisor", "relaunch_worker"),
    },
    "only a web page of its own reads it": {
        ROUTES: ("models/prompts", "models/update_type", "models/llm/auto-register", "launch_history")
    },
    "models share one installation": {ROUTES: ("virtualenvs",)},
    "keys are made by /v1/keys, and do not expire in half an hour": {ROUTES: ("auth/refresh", "admin/users")},
    "the command computes by itself and asks no server: a launch with dry_run says what it takes": {
        COMMANDS: ("cal-model-mem",)
    },
    "whatever was launched comes back by itself": {CLIENT: ("autostart",)},
}

Item = tuple[str, str]


def everything() -> list[Item]:
    return [(page, item) for page, items in DOCUMENTED.items() for item in items]


def excused() -> dict[Item, str]:
    """Why something is not run, for all that is not."""
    rows = [(f"not yet: {reason}", pages) for reason, pages in NOT_YET.items()]
    rows += [(f"left out: {reason}", pages) for reason, pages in LEFT_OUT.items()]
    return {(page, item): reason for reason, pages in rows for page, items in pages.items() for item in items}


def claimed(folder: Path) -> Iterator[Item]:
    """What the tests of a folder say that they run, by the arguments of their markers."""
    for file in sorted(folder.rglob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "documented":
                page = node.args[0]
                name = globals().get(page.attr if isinstance(page, ast.Attribute) else getattr(page, "id", ""))
                yield from ((str(name), ast.literal_eval(argument)) for argument in node.args[1:])


def table(passed: Mapping[Item, bool]) -> Iterator[str]:
    """How much of each page ran, and what did not."""
    excuses = excused()
    counted = [item for item in everything() if item not in excuses]
    yield f"{sum(passed.get(item, False) for item in counted)} of {len(counted)} documented things ran"
    for page, items in DOCUMENTED.items():
        wanted = [item for item in items if (page, item) not in excuses]
        good = [item for item in wanted if passed.get((page, item))]
        yield f"  {page:<34} {len(good):>3} of {len(wanted)}"
        for word, names in (
            ("failed", [item for item in wanted if passed.get((page, item)) is False]),
            ("not run", [item for item in wanted if (page, item) not in passed]),
        ):
            if names:
                yield f"    {word}: {', '.join(names)}"
    for reason in dict.fromkeys(excuses.values()):
        yield f"  {reason}: {', '.join(item for (_, item), why in excuses.items() if why == reason)}"
