"""The sources of a launch's further weights: GGUF files, LoRAs, ControlNets; and the weights that they replace."""

from __future__ import annotations

from pathlib import Path

from cluster import errors
from cluster.catalog.entry import Entry, Source
from cluster.names import quoted
from cluster.paths import local_path
from cluster.value import JsonObject
from cluster.weights.locate import PICKLES
from deployments.image.options import ImageOptions


def gguf_source(entry: Entry, options: ImageOptions, hub: str) -> Source | None:
    """The GGUF file of the denoiser, if the launch wants one."""
    if options.gguf_model_path is not None:
        return file_source(options.gguf_model_path, "gguf_model_path", (".gguf",))
    if options.gguf_quantization is None:
        return None
    facts: JsonObject = entry.facts.get("gguf") or {}
    if not facts:
        raise errors.BadOption(
            f"{entry.name} has no GGUF files that are known here: give one as gguf_model_path.",
            "gguf_quantization",
        )
    spellings = {name.lower(): name for name in facts.get("quantizations", ())}
    quantization = spellings.get(options.gguf_quantization.lower())
    if quantization is None:
        raise errors.BadOption(
            f"{entry.name} has no GGUF file in {quoted(options.gguf_quantization)}; "
            f"there is {', '.join(spellings.values())}.",
            "gguf_quantization",
        )
    return _offered(facts, hub, "gguf", quantization=quantization)


def lightning_source(entry: Entry, options: ImageOptions, hub: str) -> Source | None:
    """The LoRA with which a model needs only few steps, if the launch wants one."""
    if options.lightning_model_path is not None:
        return file_source(options.lightning_model_path, "lightning_model_path", (".safetensors",))
    if options.lightning_version is None:
        return None
    facts: JsonObject = entry.facts.get("lightning") or {}
    versions = tuple(facts.get("versions", ()))
    if options.lightning_version not in versions:
        raise errors.BadOption(
            f"{entry.name} has no Lightning LoRA {quoted(options.lightning_version)}; there is "
            f"{', '.join(versions) or 'none'}.",
            "lightning_version",
        )
    return _offered(facts, hub, "pytorch", version=options.lightning_version)


def _offered(facts: JsonObject, hub: str, format: str, **words: str) -> Source:
    """A file that the catalogue lists, at the hub that the model itself comes from, else at Hugging Face."""
    hub = hub if hub in facts else "huggingface"
    file = facts[hub]
    return Source(
        hub=hub,  # type: ignore[arg-type]
        id=file["id"],
        revision=file.get("revision"),
        path=file["file"].format(**words),
        format=format,
    )


def controlnet_source(entry: Entry, name: str, hub: str) -> Source:
    listed: JsonObject = entry.facts.get("controlnets") or {}
    if name in listed:
        return Source(hub="huggingface", id=listed[name]["id"], revision=listed[name].get("revision"))
    if not _is_path(name) and "/" not in name:
        raise errors.BadOption(
            f"{entry.name} has no ControlNet {quoted(name)}; there is {', '.join(listed) or 'none'}, or give a folder.",
            "controlnet",
        )
    return any_source(name, "controlnet", hub)


def any_source(text: str, option: str, hub: str) -> Source:
    """A file, a folder, or a repository of the hub."""
    if not _is_path(text):
        return Source(hub="modelscope" if hub == "modelscope" else "huggingface", id=text)
    if Path(text).suffix.lower() in (".safetensors", *PICKLES):
        return file_source(text, option, (".safetensors",))
    return Source(hub="local", id=str(local_path(text, option)))


def file_source(text: str, option: str, suffixes: tuple[str, ...]) -> Source:
    path = local_path(text, option)
    if path.suffix.lower() not in suffixes:
        raise errors.BadOption(
            f"{option} takes a file that ends in {' or '.join(suffixes)}, not {quoted(text)}.", option
        )
    return Source(hub="local", id=str(path.parent), path=path.name, format=path.suffix[1:])


def _is_path(text: str) -> bool:
    return text.startswith(("/", ".", "~")) or text.endswith(".safetensors")


def paths_in(options: ImageOptions) -> list[tuple[str, Path]]:
    """Every local path that a launch names, with the name of the option."""
    named = [
        ("gguf_model_path", options.gguf_model_path),
        ("lightning_model_path", options.lightning_model_path),
        *(("controlnet", name) for name in options.controlnet),
        *(("lora_modules", path) for path in options.lora_modules.values()),
    ]
    return [(option, local_path(text, option)) for option, text in named if text is not None and _is_path(text)]


def without_unused(source: Source, options: ImageOptions, denoiser: str = "transformer") -> Source:
    """The model's source in the variant of the launch, without the weights that the launch replaces or leaves out."""
    unused = [f"{slot}/*" for slot in options.dropped]
    if options.takes_gguf:
        # Its config.json stays: it is needed to read the GGUF file.
        unused += [f"{denoiser}/*.{suffix}" for suffix in ("safetensors", "bin", "index.json")]
    changes = {
        "exclude": tuple(dict.fromkeys((*source.exclude, *unused))),
        "variant": options.variant or source.variant,
    }
    return source.model_copy(update=changes)
