"""The parts of a diffusion pipeline in a folder, read from its index without any model library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from cluster import errors
from cluster.names import quoted
from cluster.weights.inventory import Inventory, read
from cluster.weights.locate import PICKLES, names_in, weight_set

if TYPE_CHECKING:
    from torch.nn import Module

INDEX = "model_index.json"
DENOISERS = ("transformer", "unet", "prior")

#: Loaded parts of a pipeline by slot; None for one that is left out.
Parts: TypeAlias = "dict[str, Module | None]"


@dataclass(frozen=True)
class Layout:
    #: Class name of the pipeline.
    pipeline: str
    #: Slot -> library and class name of the part.
    parts: Mapping[str, tuple[str, str]]

    @classmethod
    def of(cls, folder: Path) -> Layout:
        return cls.told_by(read(folder))

    @classmethod
    def told_by(cls, inventory: Inventory) -> Layout:
        if INDEX not in inventory.files:
            raise errors.LoadFailed(f"{inventory.place} has no {INDEX}: give the folder of a diffusers pipeline.")
        inventory.refuse_wrong(INDEX)
        index = inventory.config(INDEX)
        if "_class_name" not in index:
            raise errors.LoadFailed(
                f"{inventory.path_of(INDEX)} cannot be read (it names no pipeline): fetch it again."
            )
        parts = {name: (str(kind[0]), str(kind[1])) for name, kind in index.items() if _is_part(kind)}
        return cls(str(index["_class_name"]), parts)

    @property
    def denoiser(self) -> str:
        """The slot of the part that runs at every step."""
        slot = next((slot for slot in DENOISERS if slot in self.parts), None)
        if slot is None:
            raise errors.LoadFailed(f"{self.pipeline} has no denoiser that is known here; it has {self._slots()}.")
        return slot

    @property
    def text_encoders(self) -> tuple[str, ...]:
        return tuple(slot for slot in self.parts if slot.startswith("text_encoder"))

    def refuse_unknown(self, option: str, slots: tuple[str, ...]) -> None:
        unknown = next((slot for slot in slots if slot not in self.text_encoders), None)
        if unknown is not None:
            names = ", ".join(self.text_encoders) or "none"
            raise errors.BadOption(
                f"{self.pipeline} has no text encoder {quoted(unknown)} for {option}; it has {names}.", option
            )

    def _slots(self) -> str:
        return ", ".join(self.parts) or "nothing"


def _is_part(kind: object) -> bool:
    return isinstance(kind, list) and len(kind) == 2 and kind[0] is not None


def pickled_parts(folder: Path, layout: Layout) -> list[str]:
    """The slots of parts that have their weights only as pickles."""
    files = {slot: weight_set(names_in(folder / slot)) for slot in layout.parts if (folder / slot).is_dir()}
    return [slot for slot, names in files.items() if any(name.endswith(PICKLES) for name in names)]


def has_variant(folder: Path, variant: str) -> bool:
    """Whether there are any weights of that variant, such as `diffusion_pytorch_model.fp16.safetensors`."""
    return any(path.is_file() for path in folder.glob(f"*/*.{variant}*.*"))
