"""Parts of a pipeline in fewer bits: bitsandbytes, on a GPU and without one, and GGUF files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster import errors
from cluster.weights.inventory import Inventory
from cluster.weights.memory import gguf_architecture
from deployments.image.addons import first_line

#: `general.architecture` of the files that hold a denoiser's weights. A class that is not here takes any.
ARCHITECTURES = {
    "FluxTransformer2DModel": ("flux",),
    "Flux2Transformer2DModel": ("flux", "flux2"),
    "ChromaTransformer2DModel": ("flux", "chroma"),
    "SD3Transformer2DModel": ("sd3",),
    "QwenImageTransformer2DModel": ("qwen_image",),
    "ZImageTransformer2DModel": ("lumina2", "z_image"),
    "Lumina2Transformer2DModel": ("lumina2",),
    "AuraFlowTransformer2DModel": ("aura",),
    "HiDreamImageTransformer2DModel": ("hidream",),
    "SanaTransformer2DModel": ("sana",),
    "UNet2DConditionModel": ("sd1", "sdxl"),
}


def config_for(kind: Any, bits: str, dtype: Any) -> Any:
    """What tells a library to read that class into so many bits; each library only knows its own."""
    import diffusers
    import transformers

    library = diffusers if issubclass(kind, diffusers.ModelMixin) else transformers
    if bits == "8-bit":
        return library.BitsAndBytesConfig(load_in_8bit=True)
    return library.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4" if bits == "nf4" else "fp4",
        bnb_4bit_compute_dtype=dtype,
    )


@contextmanager
def allowed_without_gpu(device: str) -> Iterator[None]:
    """Lets diffusers quantise on CPU while a part is loaded, which it refuses although bitsandbytes can.

    Both classes differ from their own in not looking for a GPU; the table they stand in is as before afterwards.
    """
    if device != "cpu":
        yield
        return
    from diffusers.quantizers import auto

    table = auto.AUTO_QUANTIZER_MAPPING
    own = {name: table[name] for name in ("bitsandbytes_4bit", "bitsandbytes_8bit")}
    table.update({name: _on_cpu(kind) for name, kind in own.items()})
    try:
        yield
    finally:
        table.update(own)


def _on_cpu(kind: Any) -> Any:
    def validate_environment(self: Any, *args: Any, **given: Any) -> None:
        """Asks for no GPU; the packages are pinned and there."""

    def update_device_map(self: Any, device_map: Any) -> Any:
        return device_map or {"": "cpu"}

    return type(
        kind.__name__, (kind,), {"validate_environment": validate_environment, "update_device_map": update_device_map}
    )


def refuse_other_gguf(file: Inventory, kind: str, expected: str | None = None) -> None:
    """Before anything is read: the header says which model a file belongs to."""
    found = gguf_architecture(file)
    takes = (*([expected] if expected else []), *ARCHITECTURES.get(kind, ()))
    if takes and found not in takes:
        raise errors.BadOption(
            f"{file.place.name} holds a model of the architecture {found!r}, and {kind} takes {' or '.join(takes)}: "
            "give a file that was made from this model.",
            "gguf_model_path",
        )


def denoiser_from(file: Path, kind: Any, config: Path, dtype: Any) -> Any:
    """Out of a GGUF file, or of a safetensors file of its own."""
    from diffusers import GGUFQuantizationConfig

    is_gguf = file.suffix.lower() == ".gguf"
    if not hasattr(kind, "from_single_file"):
        what, option = ("GGUF files", "gguf_quantization") if is_gguf else ("a file of its own", "model_path")
        raise errors.BadOption(f"{kind.__name__} cannot be read from {what}: give a folder.", option)
    try:
        # With a config, it asks no hub what the file is.
        return kind.from_single_file(
            str(file),
            config=str(config),
            quantization_config=GGUFQuantizationConfig(compute_dtype=dtype) if is_gguf else None,
            dtype=dtype,
            local_files_only=True,
        )
    # Weights of another size or kind end in whatever its conversion stumbles over.
    except (ValueError, RuntimeError, KeyError, IndexError) as error:
        told = first_line(error)
        raise errors.LoadFailed(f"{file.name} does not hold the weights of this {kind.__name__}: {told}.") from error
