"""Presets of caches that reuse parts of a denoiser's work from step to step: faster, with slightly other pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from diffusers import FirstBlockCacheConfig, ModelMixin, TaylorSeerCacheConfig

    CacheConfig: TypeAlias = FirstBlockCacheConfig | TaylorSeerCacheConfig


def _first_block(threshold: float) -> Callable[[], CacheConfig]:
    def config() -> FirstBlockCacheConfig:
        from diffusers import FirstBlockCacheConfig

        return FirstBlockCacheConfig(threshold=threshold)

    return config


def _taylorseer() -> TaylorSeerCacheConfig:
    from diffusers import TaylorSeerCacheConfig

    return TaylorSeerCacheConfig()


#: From the most careful to the fastest. `first-block` reuses what the later blocks added, as long as the output of the
#: first one changes by less than the threshold; `taylorseer` extrapolates from earlier steps.
PRESETS: Mapping[str, Callable[[], CacheConfig]] = {
    "first-block-careful": _first_block(0.05),
    "first-block": _first_block(0.1),
    "first-block-fast": _first_block(0.2),
    "taylorseer": _taylorseer,
}


def presets_for(denoiser: ModelMixin) -> tuple[str, ...]:
    """The presets for this denoiser; none where the library cannot cache it."""
    return tuple(PRESETS) if hasattr(denoiser, "enable_cache") else ()
