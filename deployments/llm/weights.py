"""Which file of a folder a language model is loaded from."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path

from cluster import errors
from cluster.weights.headers import models_in

#: MADV_DONTNEED.
_DONT_NEED = 4


def gguf_in(place: Path) -> Path:
    """The file itself, or the only GGUF file of a folder, or the first part of the only one."""
    if place.is_file():
        return place
    files = [place / name for name in models_in(file.name for file in place.glob("*.gguf"))]
    wholes = [file for file in files if "-of-" not in file.name or "-00001-of-" in file.name]
    if len(wholes) != 1:
        names = ", ".join(file.name for file in wholes) or "none"
        raise errors.LoadFailed(
            f"{place} needs one GGUF file to be loaded from; it has {names}: name one as model_path."
        )
    return wholes[0]


def let_go_of_pages(file: Path) -> None:
    """Of a file that an engine has mapped and made something else of: those that it reads again come back."""
    # Only Linux says what is mapped.
    with suppress(OSError, AttributeError):
        advise = ctypes.CDLL(None).madvise
        for line in Path("/proc/self/maps").read_text().splitlines():
            if line.endswith(f" {file}"):
                start, end = (int(address, 16) for address in line.split()[0].split("-"))
                advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _DONT_NEED)
