"""Presets that skip part of a denoiser's work where it changes little from step to step: faster, and slightly another
picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def _first_block(threshold: float) -> Callable[[], Any]:
    def config() -> Any:
        from diffusers import FirstBlockCacheConfig

        return FirstBlockCacheConfig(threshold=threshold)

    return config


def _taylorseer() -> Any:
    from diffusers import TaylorSeerCacheConfig

    return TaylorSeerCacheConfig()


#: From the most careful to the fastest. `first-block` keeps what the later blocks added while the first one's output
#: moves by less than the threshold; `taylorseer` extrapolates.
PRESETS: Mapping[str, Callable[[], Any]] = {
    "first-block-careful": _first_block(0.05),
    "first-block": _first_block(0.1),
    "first-block-fast": _first_block(0.2),
    "taylorseer": _taylorseer,
}


def presets_for(denoiser: Any) -> tuple[str, ...]:
    """None for denoisers that the library cannot cache."""
    return tuple(PRESETS) if hasattr(denoiser, "enable_cache") else ()
