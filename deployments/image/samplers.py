"""Samplers by their usual names, as schedulers of diffusers, and which of them a model can use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from cluster import errors
from cluster.names import nearest

if TYPE_CHECKING:
    from diffusers import SchedulerMixin


class Sampler(NamedTuple):
    scheduler: str
    changes: Mapping[str, object] = {}
    #: For models trained to follow a flow from noise to picture, not to remove noise.
    is_flow: bool = False


_KARRAS = {"use_karras_sigmas": True}
_EXPONENTIAL = {"use_exponential_sigmas": True}
_BETA = {"use_beta_sigmas": True}

#: For models trained to remove noise. The names are those of the web interfaces that made them known.
DIFFUSION = {
    "DPM++ 2M": Sampler("DPMSolverMultistepScheduler"),
    "DPM++ 2M Karras": Sampler("DPMSolverMultistepScheduler", _KARRAS),
    "DPM++ 2M SDE": Sampler("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "DPM++ 2M SDE Karras": Sampler("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", **_KARRAS}),
    "DPM++ SDE": Sampler("DPMSolverSinglestepScheduler"),
    "DPM++ SDE Karras": Sampler("DPMSolverSinglestepScheduler", _KARRAS),
    "DPM2": Sampler("KDPM2DiscreteScheduler"),
    "DPM2 Karras": Sampler("KDPM2DiscreteScheduler", _KARRAS),
    "DPM2 a": Sampler("KDPM2AncestralDiscreteScheduler"),
    "DPM2 a Karras": Sampler("KDPM2AncestralDiscreteScheduler", _KARRAS),
    "Euler": Sampler("EulerDiscreteScheduler"),
    "Euler a": Sampler("EulerAncestralDiscreteScheduler"),
    "Heun": Sampler("HeunDiscreteScheduler"),
    "LMS": Sampler("LMSDiscreteScheduler"),
    "LMS Karras": Sampler("LMSDiscreteScheduler", _KARRAS),
    "DDIM": Sampler("DDIMScheduler"),
    "DDPM": Sampler("DDPMScheduler"),
    "DEIS": Sampler("DEISMultistepScheduler"),
    "LCM": Sampler("LCMScheduler"),
    # Without its warm-up steps, for which there is no room among few steps.
    "PNDM": Sampler("PNDMScheduler", {"skip_prk_steps": True}),
    "UniPC": Sampler("UniPCMultistepScheduler"),
}
FLOW = {
    "Euler": Sampler("FlowMatchEulerDiscreteScheduler", {}, True),
    "Euler Karras": Sampler("FlowMatchEulerDiscreteScheduler", _KARRAS, True),
    "Euler Exponential": Sampler("FlowMatchEulerDiscreteScheduler", _EXPONENTIAL, True),
    "Euler Beta": Sampler("FlowMatchEulerDiscreteScheduler", _BETA, True),
}

#: Settings of the noise that a model was trained with.
NOISE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type")
#: The name of the model's own sampler.
DEFAULT = "default"
NAMES = (DEFAULT, *dict.fromkeys((*DIFFUSION, *FLOW)))


def samplers_for(scheduler: SchedulerMixin) -> dict[str, Sampler]:
    """The samplers that can replace a model's own scheduler; none for a model that was distilled for its own."""
    if type(scheduler).__name__.startswith("FlowMatch"):
        return FLOW
    return DIFFUSION if "beta_schedule" in scheduler.config else {}


def check_sampler(name: str | None, scheduler: SchedulerMixin) -> str | None:
    """The name in its usual spelling, or None for the model's own; raises for a sampler that the model cannot use."""
    if name is None or name.strip().lower() in (DEFAULT, "", "automatic"):
        return None
    samplers = samplers_for(scheduler)
    folded = {_fold(spelling): spelling for spelling in samplers}
    # The name of a scheduler means the first sampler that has it, which is the one without changes.
    by_scheduler = {_fold(sampler.scheduler): spelling for spelling, sampler in reversed(samplers.items())}
    sampler_name = folded.get(_fold(name)) or by_scheduler.get(_fold(name))
    if sampler_name is not None:
        return sampler_name
    near = nearest(_fold(name), folded, cutoff=0.5)
    hint = f"did you mean {folded[near[0]]!r}?" if near else f"there is {', '.join(samplers) or 'only its own'}."
    raise errors.BadRequest(f"There is no sampler {name[:100]!r} for this model; {hint}", "sampler_name")


def scheduler_for(name: str | None, scheduler: SchedulerMixin) -> SchedulerMixin:
    """A scheduler for a single request, because schedulers keep state."""
    import diffusers

    if name is None:
        return type(scheduler).from_config(scheduler.config)
    sampler = samplers_for(scheduler)[name]
    # All of them explicitly: a scheduler of another class has other defaults for settings that the model leaves out.
    learnt = {noise: scheduler.config[noise] for noise in NOISE if noise in scheduler.config}
    return getattr(diffusers, sampler.scheduler).from_config(scheduler.config, **learnt, **sampler.changes)


def _fold(name: str) -> str:
    return "".join(name.lower().removeprefix("k_").replace("_", " ").split())
