"""Options for how a tiny pipeline computes: what each changes, and where it is refused."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest

from cluster import errors
from deployments.image.caches import presets_for
from deployments.image.options import Cache
from tests.deployments.image.compared import FolderOf, away
from tests.pipelines import drawn, loaded


def test_another_scheduler_takes_the_settings_of_the_model_s_own(folder_of: FolderOf, plain: Any) -> None:
    found = loaded(folder_of("sd15"), scheduler="EulerDiscreteScheduler")
    assert type(found.pipe.scheduler).__name__ == "EulerDiscreteScheduler"
    assert found.pipe.scheduler.config.beta_end == 0.012
    assert away(drawn(found.pipe, "sd15"), plain("sd15")) > 0


@pytest.mark.parametrize(
    ("name", "scheduler", "told"),
    [
        ("sd15", "EulerDiscreteSchedulr", "did you mean EulerDiscreteScheduler"),
        ("flux", "DDIMScheduler", "cannot be replaced by 'DDIMScheduler'"),
    ],
)
def test_a_scheduler_that_does_not_go_with_the_model_is_refused(
    name: str, scheduler: str, told: str, folder_of: FolderOf
) -> None:
    with pytest.raises(errors.BadOption, match=told):
        loaded(folder_of(name), scheduler=scheduler)


def test_a_flow_model_takes_other_flow_schedulers(folder_of: FolderOf) -> None:
    found = loaded(folder_of("sd3"), scheduler="FlowMatchHeunDiscreteScheduler")
    assert type(found.pipe.scheduler).__name__ == "FlowMatchHeunDiscreteScheduler"
    assert drawn(found.pipe, "sd3").shape == (64, 64, 3)


def test_an_attention_backend_that_runs_is_taken(folder_of: FolderOf, plain: Any) -> None:
    found = loaded(folder_of("flux"), attention_backend="_native_math")
    assert found.about["attention_backend"] == "_native_math"
    assert found.pipe.transformer.transformer_blocks[0].attn.processor._attention_backend.value == "_native_math"
    assert away(drawn(found.pipe, "flux"), plain("flux")) < 1e-5


def test_an_attention_backend_that_cannot_run_is_native_and_said_to_be(folder_of: FolderOf, plain: Any) -> None:
    found = loaded(folder_of("flux"), attention_backend="sage")
    assert found.about["attention_backend"] == "native (sage cannot run here)"
    assert found.pipe.transformer.transformer_blocks[0].attn.processor._attention_backend.value == "native"
    assert np.array_equal(drawn(found.pipe, "flux"), plain("flux"))
    with pytest.raises(errors.BadOption, match="'flashy' is not known; there is flash"):
        loaded(folder_of("flux"), attention_backend="flashy")


def test_attention_in_slices_draws_the_same(folder_of: FolderOf, plain: Any) -> None:
    found = loaded(folder_of("sd15"), attention_slicing=True)
    kinds = {type(processor).__name__ for processor in found.pipe.unet.attn_processors.values()}
    assert kinds == {"SlicedAttnProcessor"}
    assert away(drawn(found.pipe, "sd15"), plain("sd15")) < 1e-4
    with pytest.raises(errors.BadOption, match="FluxTransformer2DModel cannot compute attention in slices"):
        loaded(folder_of("flux"), attention_slicing=True)


def test_the_vae_takes_tiles_and_slices_when_asked(folder_of: FolderOf) -> None:
    vae = loaded(folder_of("sdxl"), vae_tiling=True, vae_slicing=True).pipe.vae
    assert (vae.use_tiling, vae.use_slicing) == (True, True)
    plain = loaded(folder_of("sdxl")).pipe.vae
    assert (plain.use_tiling, plain.use_slicing) == (False, False)


def test_a_cache_is_left_to_each_request(folder_of: FolderOf) -> None:
    found = loaded(folder_of("flux"), cache="first-block")
    assert not found.pipe.transformer.is_cache_enabled
    assert get_args(Cache) == presets_for(found.pipe.transformer)


@pytest.mark.parametrize("name", ["sd15", "sd3", "hunyuandit"])
def test_a_cache_is_refused_by_denoisers_that_keep_nothing(name: str, folder_of: FolderOf) -> None:
    with pytest.raises(errors.BadOption, match="keeps nothing between steps: leave cache out"):
        loaded(folder_of(name), cache="first-block")


@pytest.mark.parametrize(("name", "told"), [("flux", "blocks"), ("sd3", "whole")])
def test_the_blocks_that_repeat_are_compiled_where_they_are_known(name: str, told: str, folder_of: FolderOf) -> None:
    found = loaded(folder_of(name), compile=True)
    transformer = found.pipe.transformer
    compiled = [module for module in transformer.modules() if module._compiled_call_impl is not None]
    assert found.about["compile"] == told
    assert (transformer in compiled) == (told == "whole")
    assert compiled
