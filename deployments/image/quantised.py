"""Parts of a pipeline in fewer bits: bitsandbytes, on a GPU and without one, and GGUF files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import errors
from cluster.weights.inventory import Inventory
from cluster.weights.memory import gguf_architecture
from deployments.image.addons import first_line

if TYPE_CHECKING:
    from diffusers import ModelMixin
    from diffusers.quantizers import DiffusersQuantizer
    from torch import dtype as Dtype

    DeviceMap = dict[str, str]

#: `general.architecture` of the GGUF files that hold the weights of a class of denoisers. A class that is not listed
#: takes any file.
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


@contextmanager
def allowed_without_gpu(device: str) -> Iterator[None]:
    """Lets diffusers quantise on CPU while a part is loaded: it refuses to, although bitsandbytes can.

    The quantisers that stand in for the library's own differ in not looking for a GPU. Afterwards the library's table
    of quantisers is as it was.
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


def _on_cpu(kind: type[DiffusersQuantizer]) -> type[DiffusersQuantizer]:
    def validate_environment(self: DiffusersQuantizer, *args: object, **kwargs: object) -> None:
        """Checks nothing: no GPU is needed, and the packages are installed with ours."""

    def update_device_map(self: DiffusersQuantizer, device_map: DeviceMap | None) -> DeviceMap:
        return device_map or {"": "cpu"}

    return type(
        kind.__name__, (kind,), {"validate_environment": validate_environment, "update_device_map": update_device_map}
    )


def refuse_other_gguf(file: Inventory, kind: str, expected: str | None = None) -> None:
    """Refuses a file of another model by its header, before any weight is read."""
    architecture = gguf_architecture(file)
    takes = (*([expected] if expected else []), *ARCHITECTURES.get(kind, ()))
    if takes and architecture not in takes:
        raise errors.BadOption(
            f"{file.place.name} holds a model of the architecture {architecture!r}, and {kind} takes "
            f"{' or '.join(takes)}: give a file that was made from this model.",
            "gguf_model_path",
        )


def denoiser_from(file: Path, kind: type[ModelMixin], config: Path, dtype: Dtype) -> ModelMixin:
    """A denoiser from a GGUF file, or from a safetensors file that holds nothing else."""
    from diffusers import GGUFQuantizationConfig

    is_gguf = file.suffix.lower() == ".gguf"
    if not hasattr(kind, "from_single_file"):
        what, option = ("GGUF files", "gguf_quantization") if is_gguf else ("a file of its own", "model_path")
        raise errors.BadOption(f"{kind.__name__} cannot be read from {what}: give a folder.", option)
    try:
        # Without a config, the library would ask a hub what the file is.
        return kind.from_single_file(
            str(file),
            config=str(config),
            quantization_config=GGUFQuantizationConfig(compute_dtype=dtype) if is_gguf else None,
            dtype=dtype,
            local_files_only=True,
        )
    # Weights of another size or kind make the library's conversion fail with one of these.
    except (ValueError, RuntimeError, KeyError, IndexError) as error:
        reason = first_line(error)
        raise errors.LoadFailed(f"{file.name} does not hold the weights of this {kind.__name__}: {reason}.") from error
