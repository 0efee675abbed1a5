"""Paths that callers send."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cluster import errors
from cluster.names import cut, quoted


def folder_under(root: Path, name: str) -> Path:
    """`root/name`, or an error when `name` points outside of `root`."""
    path = real_path(root / name)
    if not path.is_relative_to(real_path(root)):
        raise errors.BadRequest(f"{name!r} leads outside of {root}.")
    return path


def local_path(text: str, option: str = "model_path") -> Path:
    """A caller's text as an absolute path; an error where no file can have that name."""
    try:
        text.encode()
        path = Path(text).expanduser().absolute()
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # it may be on another machine
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise errors.BadOption(f"{option} {quoted(text)} is not a valid path ({cut(reason)}).", option) from None
    return path


def make_private(folder: Path) -> bool:
    """A folder of this user that nobody else can read, made if need be. False where something else is in its place,
    put there by somebody else or leading elsewhere: everybody may write to /tmp."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        return False
    if stat.S_IMODE(status.st_mode) != 0o700:
        folder.chmod(0o700)
    return True


def real_path(path: Path) -> Path:
    """Where links lead; `Path.resolve` raises for those that lead in a circle."""
    return Path(os.path.realpath(path))
