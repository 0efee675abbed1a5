"""What a model of llama.cpp sees with: a GGUF file beside it, which makes tokens of a picture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from cluster import errors
from cluster.catalog.entry import Source
from cluster.paths import local_path
from cluster.weights.headers import PROJECTOR_FILE
from cluster.weights.inventory import Inventory, read
from cluster.weights.memory import MemoryPlan, PlannedPart, gguf_header
from cluster.worker.family import Prospect
from deployments import allowed
from deployments.llm.picture_tokens import MOST_TOKENS, PictureGrid
from deployments.llm.pictures import PIXELS_SEEN, PIXELS_SEEN_TOGETHER
from deployments.pictures import MOST_PIXELS, OPENING_BYTES

#: Kinds that make every picture as large as they were trained with, and as many tokens of each. Others keep its shape,
#: or cut it into tiles.
FIXED = frozenset({"mlp", "mlp_norm", "ldp", "ldpv2", "adapter", "glm_edge", "gemma3", "gemma3nv", "janus_pro"})
#: Numbers of the hidden size that are held of each patch while it is computed.
PATCH_WIDTH = 12
#: Of the pixels of all requests at once; others wait.
PIXELS_AT_ONCE = PIXELS_SEEN_TOGETHER
#: Copies of them on their way into the engine and as long as the answers are written, as bytes and as base64.
COPIES = 6
#: For a launch that is to read texts only.
NONE = "none"


@dataclass(frozen=True, kw_only=True)
class Projector(PictureGrid):
    path: Path
    bytes: int
    width: int
    inner: int

    @property
    def step_bytes(self) -> int:
        """What a picture of the largest size takes while it is made smaller and computed."""
        patches = (self.side // self.patch) ** 2 if self.is_fixed else self.most_tokens * self.merged**2
        computed = patches * (self.width * PATCH_WIDTH + self.inner * 2) * 4
        return computed + MOST_PIXELS * OPENING_BYTES + PIXELS_AT_ONCE * 3 * COPIES


def projector_of(prospect: Prospect, beside: Inventory | None) -> Projector | None:
    """For a launch. `beside`: what lies with the model, as far as it is on this machine."""
    option, most_tokens = prospect.options.mmproj, prospect.options.image_max_tokens
    path = _path(option, *_beside(beside)) if beside is not None or option else None
    if path is None:
        return None
    allowed(path, prospect.settings, "mmproj")
    inventory = prospect.weights(Source(hub="local", id=str(path.parent), path=path.name, format="gguf"))
    if inventory is None:
        if beside is not None:
            raise errors.BadOption(f"mmproj: there is no GGUF file {path}.", "mmproj")
        return None
    return _read(inventory, path, most_tokens)


def with_projector(plan: MemoryPlan, prospect: Prospect) -> MemoryPlan:
    """The same, and what the model sees with."""
    projector = projector_of(prospect, prospect.weights(allow_pickle=False))
    if projector is None:
        return plan
    part = PlannedPart("projector", "mmproj", "as stored", "none", projector.bytes, "main memory")
    return replace(
        plan,
        parts=(*plan.parts, part),
        activation_bytes=plan.activation_bytes + projector.step_bytes,
        peak_bytes=plan.peak_bytes + projector.bytes + projector.step_bytes,
    )


def projector_in(folder: Path, option: str | None, most_tokens: int | None) -> Projector | None:
    """For a model that is being loaded."""
    if folder.is_file():
        path = _path(option, folder.parent, [])
    else:
        path = _path(option, folder, [file.name for file in folder.iterdir()])
    return _read(read(path), path, most_tokens) if path is not None else None


def _beside(inventory: Inventory | None) -> tuple[Path | None, list[str]]:
    if inventory is None:
        return None, []
    if inventory.is_file:
        return inventory.place.parent, []
    return inventory.place, [name for name in inventory.files if "/" not in name]


def _path(option: str | None, folder: Path | None, names: list[str]) -> Path | None:
    """The one that is named, or the only one in the model's folder. A name without a folder is of a file beside it."""
    if option is not None:
        if option.lower() == NONE:
            return None
        return folder / option if folder is not None and "/" not in option else local_path(option, "mmproj")
    alone = [name for name in names if PROJECTOR_FILE.search(name)]
    return folder / alone[0] if folder is not None and len(alone) == 1 else None


def _read(inventory: Inventory, path: Path, most_tokens: int | None) -> Projector:
    header = gguf_header(inventory)
    sizes, kind = header["sizes"], str(header["projector"])
    try:
        if header["architecture"] != "clip":
            raise KeyError("architecture")
        own = sizes.get("vision.projector.scale_factor", sizes.get("vision.spatial_merge_size"))
        merged = own or (2 if kind.startswith(("qwen", "ldp", "glm")) else 1)
        return Projector(
            path=path,
            bytes=int(header["bytes"]),
            side=sizes["vision.image_size"],
            patch=max(1, sizes["vision.patch_size"]),
            merged=merged,
            width=sizes["vision.embedding_length"],
            inner=sizes.get("vision.feed_forward_length", 4 * sizes["vision.embedding_length"]),
            is_fixed=kind in FIXED,
            most_tokens=min(most_tokens or MOST_TOKENS, PIXELS_SEEN),
        )
    except KeyError as error:
        raise errors.BadOption(
            f"mmproj: {path} is no file that a model sees with: it does not say its {error}.", "mmproj"
        ) from None
