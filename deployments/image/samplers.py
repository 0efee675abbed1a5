"""Samplers by the names that people know, as schedulers of the library; which a model can take is asked of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from cluster import errors
from cluster.names import nearest


class Sampler(NamedTuple):
    scheduler: str
    changes: Mapping[str, Any] = {}
    #: For models that learnt a flow from noise to picture instead of taking noise away.
    is_flow: bool = False


_KARRAS = {"use_karras_sigmas": True}
_EXPONENTIAL = {"use_exponential_sigmas": True}
_BETA = {"use_beta_sigmas": True}

#: What learns to take noise away. Names as in the web interfaces that made them known.
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
    # Without the steps that warm it up, which few steps leave no room for.
    "PNDM": Sampler("PNDMScheduler", {"skip_prk_steps": True}),
    "UniPC": Sampler("UniPCMultistepScheduler"),
}
FLOW = {
    "Euler": Sampler("FlowMatchEulerDiscreteScheduler", {}, True),
    "Euler Karras": Sampler("FlowMatchEulerDiscreteScheduler", _KARRAS, True),
    "Euler Exponential": Sampler("FlowMatchEulerDiscreteScheduler", _EXPONENTIAL, True),
    "Euler Beta": Sampler("FlowMatchEulerDiscreteScheduler", _BETA, True),
}

#: What a model was trained with.
NOISE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type")
#: The model's own.
DEFAULT = "default"
NAMES = (DEFAULT, *dict.fromkeys((*DIFFUSION, *FLOW)))


def samplers_for(scheduler: Any) -> dict[str, Sampler]:
    """What can stand in for a model's own scheduler; nothing for models that were distilled for theirs."""
    if type(scheduler).__name__.startswith("FlowMatch"):
        return FLOW
    return DIFFUSION if "beta_schedule" in scheduler.config else {}


def check_sampler(name: str | None, scheduler: Any) -> str | None:
    """The sampler's own spelling, None for the model's own; raises for one that the model cannot use."""
    if name is None or name.strip().lower() in (DEFAULT, "", "automatic"):
        return None
    samplers = samplers_for(scheduler)
    folded = {_fold(spelling): spelling for spelling in samplers}
    # Of several with the same scheduler, its name means the first, which changes nothing of it.
    by_scheduler = {_fold(sampler.scheduler): spelling for spelling, sampler in reversed(samplers.items())}
    sampler_name = folded.get(_fold(name)) or by_scheduler.get(_fold(name))
    if sampler_name is not None:
        return sampler_name
    near = nearest(_fold(name), folded, cutoff=0.5)
    hint = f"did you mean {folded[near[0]]!r}?" if near else f"there is {', '.join(samplers) or 'only its own'}."
    raise errors.BadRequest(f"There is no sampler {name[:100]!r} for this model; {hint}", "sampler_name")


def scheduler_for(name: str | None, scheduler: Any) -> Any:
    """One for a single request: schedulers keep state."""
    import diffusers

    if name is None:
        return type(scheduler).from_config(scheduler.config)
    sampler = samplers_for(scheduler)[name]
    # Said in full: what a model leaves to the defaults of its own scheduler, another has other defaults for.
    learnt = {noise: scheduler.config[noise] for noise in NOISE if noise in scheduler.config}
    return getattr(diffusers, sampler.scheduler).from_config(scheduler.config, **learnt, **sampler.changes)


def _fold(name: str) -> str:
    return "".join(name.lower().removeprefix("k_").replace("_", " ").split())
