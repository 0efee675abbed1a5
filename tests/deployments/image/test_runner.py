"""Pictures that share the denoiser: each is what it would be alone, whatever other requests come, go or fail."""

from __future__ import annotations

import gc
import io
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file, save_file

from cluster import errors
from deployments.image.loras import adapting
from deployments.image.samplers import DIFFUSION, FLOW
from tests.deployments.image.painter import PROMPTS, SIDE, Painter, Watched, away, one_thread
from tests.pipelines import NINE, SMALL

FolderOf = Callable[[str], Path]
PainterOf = Callable[..., Painter]

#: How much a picture may differ from the one drawn alone, in numbers between 0 and 1, because sums are in another
#: order.
NEAR = 1e-4
#: A launch draws an example of the model's own size and measures passes for it: not sixteen times what is drawn here.
OF_ONE_SIZE = {"resolution": SIDE}
TASKS = [
    *((name, "text2image") for name in NINE),
    *((name, "image2image") for name in ("sd15", "sdxl", "sd3", "flux", "flux_kontext", "qwen_image", "kolors")),
    *((name, "inpainting") for name in ("sd15", "sdxl", "sd3", "flux", "qwen_image")),
]


@pytest.fixture(scope="module")
def painter_of(folder_of: FolderOf) -> PainterOf:
    """Loaded once for all tests, which leave it as they found it."""
    return cache(lambda name: Painter.of(folder_of(name), facts=OF_ONE_SIZE))


@pytest.fixture(scope="module")
def with_loras(folder_of: FolderOf, tmp_path_factory: pytest.TempPathFactory) -> PainterOf:
    root = tmp_path_factory.mktemp("loras")

    @cache
    def made(name: str) -> Painter:
        files = {lora: str(lora_for(folder_of(name), root / f"{name}-{lora}.safetensors", lora)) for lora in LORAS}
        return Painter.of(folder_of(name), facts=OF_ONE_SIZE, lora_modules=files)

    return made


#: Names and seeds.
LORAS = {"ink": 1, "wash": 2}


def lora_for(folder: Path, file: Path, name: str) -> Path:
    """A LoRA of the denoiser and, where the pipeline takes one there, of its first text encoder."""
    pipe = DiffusionPipeline.from_pretrained(folder)
    torch.manual_seed(LORAS[name])
    slot = "unet" if "unet" in pipe.components else "transformer"
    layers = {}
    for part, targets in ((slot, ["to_q", "to_v"]), ("text_encoder", ["q_proj", "v_proj"])):
        module = pipe.components[part]
        module.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
        layers[f"{part}_lora_layers"] = get_peft_model_state_dict(module)
    pipe.save_lora_weights(file.parent, **layers, weight_name=file.name)
    return file


def five(painter: Painter, task: str, seed: int, **more: Any) -> list[Any]:
    chance = random.Random(seed)
    # Only a part of the steps is drawn over an input picture.
    fewest, most = (2, 5) if task == "text2image" else (4, 7)
    return [
        painter.drawing(
            task,
            chance.choice(PROMPTS),
            seed=chance.randrange(2**32),
            num_inference_steps=chance.randint(fewest, most),
            guidance_scale=chance.choice([1.5, 3.0, 5.0]),
            **more,
        )
        for _ in range(5)
    ]


# --------------------------------------------------------------------------------------- batched equals alone


@pytest.mark.parametrize(("name", "task"), TASKS)
def test_five_at_random_times_are_what_each_is_alone(painter_of: PainterOf, name: str, task: str) -> None:
    painter = painter_of(name)
    drawings = five(painter, task, seed=1)
    before = painter.runner.queue.denoiser.passes
    alone = [painter.paint(one) for one in drawings]
    needed = painter.runner.queue.denoiser.passes - before
    together = painter.at_random_times(drawings, seed=2, within_s=0.02)
    assert max(map(away, alone, together)) < NEAR
    assert len({pixels.tobytes() for pixels in alone}) == 5
    assert painter.runner.queue.denoiser.passes - before - needed < needed, "nobody shared a pass"
    assert painter.is_at_rest()


@pytest.mark.parametrize("name", NINE)
def test_a_picture_is_that_of_the_bare_pipeline(folder_of: FolderOf, painter_of: PainterOf, name: str) -> None:
    pipe = DiffusionPipeline.from_pretrained(folder_of(name))
    pipe.set_progress_bar_config(disable=True)
    asked = {"num_inference_steps": 3, "width": SIDE, "height": SIDE, "output_type": "np", **SMALL.get(name, {})}
    with one_thread():
        bare = pipe(prompt="a cat", generator=torch.Generator().manual_seed(7), **asked)
    ours = painter_of(name).paint(painter_of(name).drawing(num_inference_steps=3, seed=7))
    assert away(ours, bare.images[0]) < 1e-6


def test_sizes_and_samplers_at_the_same_time(painter_of: PainterOf) -> None:
    painter = painter_of("sd15")
    sizes = [(64, 64), (96, 64), (64, 32)]
    drawings = [
        painter.drawing(width=width, height=height, seed=seed, num_inference_steps=3, sampler_name=name)
        for seed, name in enumerate((None, "Euler a", "Heun"))
        for width, height in sizes
    ]
    alone = [painter.paint(one) for one in drawings]
    together = painter.at_random_times(drawings, seed=3, within_s=0.02)
    assert max(map(away, alone, together)) < NEAR
    assert {pixels.shape for pixels in together} == {(height, width, 3) for width, height in sizes}


@pytest.mark.parametrize(("name", "known"), [("sd15", DIFFUSION), ("sdxl", DIFFUSION), ("sd3", FLOW), ("flux", FLOW)])
def test_every_sampler_draws_and_batches(painter_of: PainterOf, name: str, known: Any) -> None:
    painter = painter_of(name)
    drawings = [painter.drawing(seed=5, num_inference_steps=3, sampler_name=one) for one in known]
    alone = [painter.paint(one) for one in drawings]
    together = painter.at_random_times(drawings, seed=4, within_s=0.02)
    assert max(map(away, alone, together)) < NEAR
    assert len({pixels.tobytes() for pixels in alone}) > len(drawings) * 0.6


def test_several_pictures_of_a_request_are_those_of_their_seeds(painter_of: PainterOf) -> None:
    painter = painter_of("flux")
    several = painter.drawings(n=3, seed=[5, 2**63 - 1, 9])
    counted = painter.drawings(n=3, seed=2**63 - 2)
    assert [one.seed for one in several] == [5, 2**63 - 1, 9]
    assert [one.seed for one in counted] == [2**63 - 2, 2**63 - 1, 0]
    alone = [painter.paint(painter.drawing(seed=seed)) for seed in (5, 2**63 - 1, 9)]
    assert max(map(away, painter.at_random_times(several, seed=1), alone)) < NEAR


# ----------------------------------------------------------------------------------------------------- LoRAs

SETS: list[dict[str, float]] = [{}, {"ink": 1.0}, {"ink": 0.4}, {"wash": 1.0}, {"ink": 0.5, "wash": 0.5}]


def loras_of(scales: dict[str, float]) -> list[dict[str, Any]]:
    return [{"name": lora, "scale": scale} for lora, scale in scales.items()]


@pytest.mark.parametrize("name", ["sd15", "flux"])
def test_loras_of_one_request_are_in_no_other(painter_of: PainterOf, with_loras: PainterOf, name: str) -> None:
    painter = with_loras(name)
    drawings = [
        painter.drawing(prompt=prompt, seed=3, num_inference_steps=3, loras=loras_of(one))
        for prompt in PROMPTS[:2]
        for one in SETS
    ]
    # In another order, so that each follows another set of LoRAs; the prompts are encoded again for each set.
    alone = {place: painter.paint(drawings[place]) for place in random.Random(1).sample(range(10), 10)}
    for seed in (1, 2):
        together = painter.at_random_times(drawings, seed=seed, within_s=0.02)
        assert max(away(alone[place], pixels) for place, pixels in enumerate(together)) < NEAR
    apart = [away(alone[one], alone[other]) for one in range(5) for other in range(one)]
    assert min(apart) > 10 * NEAR
    assert away(alone[0], painter_of(name).paint(painter_of(name).drawing(seed=3, num_inference_steps=3))) < NEAR


def test_loras_reach_the_words_as_well(with_loras: PainterOf) -> None:
    painter = with_loras("sd15")
    asked = [painter.drawing(loras=[{"name": "ink"}]), painter.drawing()]
    for one in asked:
        painter.paint(one)
    embedded = [kept[0].abs().sum().item() for kept, _ in painter.runner.encodings._kept.values()]
    assert len(set(embedded)) == len(embedded) >= 2


def test_a_lora_that_belongs_to_the_model_counts_for_who_asks_for_none(with_loras: PainterOf) -> None:
    pipe = with_loras("flux").runner.pipe
    layer = next(one for one in pipe.transformer.modules() if isinstance(one, BaseTunerLayer))
    adapt = adapting(pipe, {"transformer"}, always=("wash",))
    found = []
    for asked in ((), (("ink", 0.5),), ()):
        adapt(asked)
        found.append((layer.active_adapters, layer.disable_adapters))
    assert found == [(["wash"], False), (["wash", "ink"], False), (["wash"], False)]
    adapting(pipe, {"transformer"})(())
    assert layer.disable_adapters


def test_encoders_and_the_denoiser_are_adapted_apart(with_loras: PainterOf) -> None:
    """The encoders and the denoiser may work on different requests at the same time."""
    pipe = with_loras("sd15").runner.pipe
    adapting(pipe, {"unet"})((("ink", 1.0),))
    adapting(pipe, {"text_encoder"})(())
    in_force = {
        slot: {not one.disable_adapters for one in pipe.components[slot].modules() if isinstance(one, BaseTunerLayer)}
        for slot in ("unet", "text_encoder")
    }
    assert in_force == {"unet": {True}, "text_encoder": {False}}
    adapting(pipe, {"unet"})(())


# ---------------------------------------------------------------------------------------------------- caches


@pytest.mark.parametrize("name", ["flux", "flux_kontext", "qwen_image", "cogview4"])
def test_a_cache_is_of_its_request_and_gone_after_it(painter_of: PainterOf, name: str) -> None:
    painter = painter_of(name)
    more = {"true_cfg_scale": 3.0, "negative_prompt": "fog"} if name == "qwen_image" else {}
    plain = [painter.drawing(seed=seed, num_inference_steps=8, **more) for seed in range(4)]
    cached = [painter.drawing(seed=0, num_inference_steps=8, cache=one, **more) for one in painter.facts.caches]
    assert cached
    plain_alone = [painter.paint(one) for one in plain]
    cached_alone = [painter.paint(one) for one in cached]
    assert max(away(pixels, plain_alone[0]) for pixels in cached_alone) > NEAR, "no preset changed anything"
    assert away(painter.paint(plain[0]), plain_alone[0]) == 0
    together = painter.at_random_times([*plain, *cached], seed=7, within_s=0.02)
    assert max(map(away, together, [*plain_alone, *cached_alone])) < NEAR
    assert painter.is_at_rest()


def test_a_cache_of_an_aborted_picture_is_gone_too(painter_of: PainterOf) -> None:
    painter = painter_of("flux")
    before = painter.paint(painter.drawing())
    progress = Watched()
    progress.on_step = lambda step: setattr(progress, "stopped", step == 3)
    with pytest.raises(errors.RequestCancelled):
        painter.paint(painter.drawing(num_inference_steps=9, cache="first-block-fast"), progress)
    assert painter.is_at_rest()
    assert away(painter.paint(painter.drawing()), before) == 0


# ---------------------------------------------------------------------------------------------------- aborts


@pytest.mark.parametrize("name", ["sd15", "flux"])
def test_after_an_abort_one_step_is_run_at_most(painter_of: PainterOf, name: str) -> None:
    painter = painter_of(name)
    chance = random.Random(name)
    for _ in range(12):
        progress = Watched()
        with ThreadPoolExecutor(1) as thread:
            done = thread.submit(painter.paint, painter.drawing(num_inference_steps=200), progress)
            time.sleep(chance.uniform(0, 0.1))
            progress.stopped = True
            at = painter.runner.queue.denoiser.passes
            assert isinstance(done.exception(10), errors.RequestCancelled)
        assert painter.runner.queue.denoiser.passes - at <= 1


@pytest.mark.slow
def test_two_hundred_aborts_leave_nothing_behind(painter_of: PainterOf) -> None:
    painter = painter_of("sd15")
    chance = random.Random(11)
    known = [painter.drawing(seed=seed, num_inference_steps=2 + seed) for seed in range(4)]
    alone = [painter.paint(one) for one in known]
    started = len(threading.enumerate())
    aborted = set(chance.sample(range(300), 200))

    def asked(place: int) -> None:
        progress, which = Watched(), place % len(known)
        stop = threading.Timer(chance.uniform(0, 0.15), setattr, (progress, "stopped", True))
        if place in aborted:
            stop.start()
        try:
            assert away(painter.paint(known[which], progress), alone[which]) < NEAR
            assert not progress.stopped or place in aborted
        except errors.RequestCancelled:
            assert place in aborted
        finally:
            stop.cancel()

    def rss() -> int:
        gc.collect()
        return psutil.Process().memory_info().rss

    sizes = []
    for start in range(0, 300, 100):
        with ThreadPoolExecutor(12) as threads:
            list(threads.map(asked, range(start, start + 100)))
        sizes.append(rss())
    assert painter.is_at_rest()
    assert sizes[2] - sizes[1] < 30 * 2**20
    time.sleep(0.2)
    assert len(threading.enumerate()) <= started


# -------------------------------------------------------------------------------------------------- failures


def test_numbers_that_overflow_fail_for_whoever_asked_for_them(folder_of: FolderOf, tmp_path: Path) -> None:
    file = lora_for(folder_of("sd15"), tmp_path / "ink.safetensors", "ink")
    endless = {name: torch.full_like(value, 1e30) for name, value in load_file(file).items()}
    save_file(endless, tmp_path / "endless.safetensors")
    files = {"endless": str(tmp_path / "endless.safetensors")}
    painter = Painter.of(folder_of("sd15"), facts=OF_ONE_SIZE, lora_modules=files)
    good = [painter.drawing(seed=seed) for seed in range(4)]
    alone = [painter.paint(one) for one in good]
    bad = painter.drawing(loras=[{"name": "endless"}])
    *found, failed = painter.at_random_times([*good, bad], seed=1, within_s=0.02)
    assert isinstance(failed, errors.InferenceFailed)
    assert "torch_dtype" in failed.message
    assert max(map(away, found, alone)) < NEAR
    assert painter.is_at_rest()


def test_what_a_pipeline_refuses_is_a_bad_request(painter_of: PainterOf) -> None:
    painter = painter_of("flux")
    with pytest.raises(errors.BadRequest, match="FluxPipeline refuses this: `max_sequence_length`"):
        painter.paint(painter.drawing(max_sequence_length=600))
    assert painter.is_at_rest()


# ------------------------------------------------------------------------------------------ on the way there


@pytest.mark.parametrize("sampler", [None, "Heun"])
def test_progress_grows_up_to_the_last_step(painter_of: PainterOf, sampler: str | None) -> None:
    painter, progress = painter_of("sd15"), Watched()
    picture = painter.runner.draw(
        painter.drawing(num_inference_steps=6, sampler_name=sampler, partial_images=2), progress
    )
    fractions = [fraction for fraction, *_ in progress.told]
    assert fractions == sorted(fractions)
    assert fractions[-1] < 1
    assert len(set(fractions)) == len(fractions)
    stages = [stage for _, stage, *_ in progress.told]
    assert stages == ["encoding", *["denoising"] * (len(stages) - 3), "decoding", "writing"]
    step, steps = progress.told[-2][2:]
    assert step == steps >= 6
    assert [Image.open(io.BytesIO(shown)).size for shown in progress.shown] == [(64, 64)] * 2
    assert picture.receipt["num_inference_steps"] == 6


def test_a_receipt_makes_the_same_picture_again(painter_of: PainterOf) -> None:
    painter = painter_of("sd15")
    first = painter.runner.draw(
        painter.drawing(prompt="tea", seed=8, guidance_scale=3.0, sampler_name="Euler a"), Watched()
    )
    told = first.receipt
    asked = {name: told[name] for name in ("seed", "width", "height", "num_inference_steps", "guidance_scale")}
    again = painter.drawing(prompt=told["prompt"], sampler_name=told["sampler_name"], **asked)
    assert painter.runner.draw(again, Watched()).data == first.data
    assert told["scheduler"] == "EulerAncestralDiscreteScheduler"
    assert told["pipeline"] == "StableDiffusionPipeline"
    assert told["quantization"] == {}
    assert told["versions"]["diffusers"]
