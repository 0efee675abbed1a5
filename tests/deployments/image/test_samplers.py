"""Samplers by their names."""

from __future__ import annotations

from typing import Any

import pytest
from diffusers import (
    CMStochasticIterativeScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)

from cluster import errors
from deployments.image.samplers import (
    DIFFUSION,
    FLOW,
    NAMES,
    SCHEDULES,
    check_sampler,
    samplers_for,
    scheduler_for,
)

#: A tenth of the steps that models are trained in: some samplers compute one after the other when they are made.
TRAINED = {"num_train_timesteps": 100}
NOISE, STREAM = PNDMScheduler(**TRAINED, beta_schedule="scaled_linear"), FlowMatchEulerDiscreteScheduler(shift=3.0)
EULER = EulerDiscreteScheduler(**TRAINED)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (None, None),
        ("", None),
        ("Default", None),
        ("automatic", None),
        ("Euler a", "Euler a"),
        ("euler_a", "Euler a"),
        ("k_euler_a", "Euler a"),
        ("k_euler", "Euler"),
        ("dpm++ 2m karras", "DPM++ 2M Karras"),
        ("DPM++2M", "DPM++ 2M"),
        ("ddim", "DDIM"),
        ("DPMSolverMultistepScheduler", "DPM++ 2M"),
        ("KDPM2DiscreteScheduler", "DPM2"),
        ("k_euler_a karras", "Euler a Karras"),
        ("Euler sgm_uniform", "Euler SGM Uniform"),
        ("DPM++ 2M Karras exponential", "DPM++ 2M Exponential"),
        ("dpm++ 2m Karras automatic", "DPM++ 2M"),
        ("DDIM Karras", "DDIM"),
        ("automatic Normal", None),
        ("default Karras", None),
    ],
)
def test_names_as_people_write_them(asked: str | None, found: str | None) -> None:
    assert check_sampler(asked, NOISE) == found


def test_the_scheduler_of_several_flow_samplers_means_the_plain_one() -> None:
    assert check_sampler("FlowMatchEulerDiscreteScheduler", STREAM) == "Euler"


def test_a_close_miss_is_told_the_name() -> None:
    with pytest.raises(errors.BadRequest) as raised:
        check_sampler("DPM ++ 3M", NOISE)
    assert raised.value.message == "There is no sampler 'DPM ++ 3M' for this model; did you mean 'DPM++ 2M'?"
    assert raised.value.param == "sampler_name"


def test_a_flow_takes_only_samplers_of_flows() -> None:
    with pytest.raises(errors.BadRequest, match="there is Euler, Euler Karras, Euler Exponential, Euler Beta."):
        check_sampler("PNDM", STREAM)
    assert samplers_for(STREAM) is FLOW
    assert samplers_for(NOISE) is DIFFUSION


def test_what_was_distilled_for_one_scheduler_takes_no_other() -> None:
    with pytest.raises(errors.BadRequest, match="there is only its own."):
        check_sampler("DDIM", CMStochasticIterativeScheduler())


def test_an_endless_name_is_not_repeated() -> None:
    with pytest.raises(errors.BadRequest) as raised:
        check_sampler("x" * 9000, NOISE)
    assert len(raised.value.message) < 500


def test_the_models_own_is_made_anew_with_all_its_settings() -> None:
    own = EulerDiscreteScheduler(beta_start=0.002, beta_end=0.03, prediction_type="v_prediction")
    made = scheduler_for(None, own)
    assert made is not own
    assert dict(made.config) == dict(own.config)
    made.set_timesteps(3)
    assert own.num_inference_steps is None


@pytest.mark.parametrize("own", [NOISE, EULER, DDPMScheduler(**TRAINED)], ids=lambda own: type(own).__name__)
@pytest.mark.parametrize("name", DIFFUSION)
def test_every_sampler_keeps_the_noise_of_the_model(name: str, own: Any) -> None:
    made = scheduler_for(name, own)
    assert type(made).__name__ == DIFFUSION[name].scheduler
    assert made.config.beta_schedule == own.config.beta_schedule
    made.set_timesteps(4)
    assert len(made.timesteps) >= 4


@pytest.mark.parametrize("name", FLOW)
def test_flow_samplers_space_their_steps_differently(name: str) -> None:
    plain, made = scheduler_for(None, STREAM), scheduler_for(name, STREAM)
    for one in (plain, made):
        one.set_timesteps(8)
    assert made.config.shift == 3.0
    assert (made.sigmas.tolist() == plain.sigmas.tolist()) is (name == "Euler")


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", ["automatic", *DIFFUSION])
def test_every_sampler_goes_with_every_schedule(name: str, schedule: str) -> None:
    made = scheduler_for(check_sampler(f"{name} {schedule}", EULER), EULER)
    made.set_timesteps(6)
    assert len(made.timesteps) >= 6


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_flows_go_with_every_schedule(schedule: str) -> None:
    for name in ("automatic", "Euler"):
        made = scheduler_for(check_sampler(f"{name} {schedule}", STREAM), STREAM)
        made.set_timesteps(6)
        assert len(made.timesteps) == 6


@pytest.mark.parametrize("schedule", ["Karras", "Exponential", "Beta"])
def test_ancestral_steps_stand_where_the_schedule_has_them(schedule: str) -> None:
    ancestral, plain = (
        scheduler_for(check_sampler(f"{name} {schedule}", EULER), EULER) for name in ("Euler a", "Euler")
    )
    unspaced = scheduler_for("Euler a", EULER)
    for one in (ancestral, plain, unspaced):
        one.set_timesteps(7)
    assert ancestral.sigmas.tolist() == plain.sigmas.tolist() != unspaced.sigmas.tolist()
    assert ancestral.timesteps.tolist() == plain.timesteps.tolist()
    assert isinstance(ancestral, type(unspaced))


def test_every_name_is_told() -> None:
    assert set(NAMES) == {"default", *DIFFUSION, *FLOW}
    assert NAMES[0] == "default"
