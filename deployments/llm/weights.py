"""Which file of a folder a language model is loaded from."""

from __future__ import annotations

from pathlib import Path

from cluster import errors


def gguf_in(place: Path) -> Path:
    """The file itself, or the only GGUF file of a folder, or the first part of the only one."""
    if place.is_file():
        return place
    files = sorted(place.glob("*.gguf"))
    wholes = [file for file in files if "-of-" not in file.name or "-00001-of-" in file.name]
    if len(wholes) != 1:
        names = ", ".join(file.name for file in wholes) or "none"
        raise errors.LoadFailed(
            f"{place} needs one GGUF file to be loaded from; it has {names}: name one as model_path."
        )
    return wholes[0]
