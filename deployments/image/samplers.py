"""Samplers by their usual names, as schedulers of diffusers, and which of them a model can use."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from inspect import signature
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster import errors
from cluster.names import nearest

if TYPE_CHECKING:
    from diffusers import SchedulerMixin


class Sampler(NamedTuple):
    scheduler: str
    changes: Mapping[str, object] = {}
    #: For models trained to follow a flow from noise to picture, not to remove noise.
    is_flow: bool = False


#: The only sampler among noise levels whose scheduler can space them in one way only.
EULER_A = "EulerAncestralDiscreteScheduler"
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
    "Euler a": Sampler(EULER_A),
    "Heun": Sampler("HeunDiscreteScheduler"),
    "LMS": Sampler("LMSDiscreteScheduler"),
    "LMS Karras": Sampler("LMSDiscreteScheduler", _KARRAS),
    "DDIM": Sampler("DDIMScheduler"),
    "DDPM": Sampler("DDPMScheduler"),
    "DEIS": Sampler("DEISMultistepScheduler"),
    "LCM": Sampler("LCMScheduler"),
    # Without its warm-up steps, for which there is no room among few steps.
    "PNDM": Sampler("PNDMScheduler", {"skip_prk_steps": True}),
    "PLMS": Sampler("PNDMScheduler", {"skip_prk_steps": True}),
    "UniPC": Sampler("UniPCMultistepScheduler"),
}
FLOW = {
    "Euler": Sampler("FlowMatchEulerDiscreteScheduler", {}, True),
    "Euler Karras": Sampler("FlowMatchEulerDiscreteScheduler", _KARRAS, True),
    "Euler Exponential": Sampler("FlowMatchEulerDiscreteScheduler", _EXPONENTIAL, True),
    "Euler Beta": Sampler("FlowMatchEulerDiscreteScheduler", _BETA, True),
}

#: How noise is spaced over the steps: any of them goes with any sampler, as `Euler a Karras`. The names are those of
#: the same interfaces; some mean nearly the same there, and the same here.
SCHEDULES: Mapping[str, Mapping[str, object]] = {
    "Automatic": {},
    "Normal": {},
    "Uniform": {"timestep_spacing": "linspace"},
    "Karras": _KARRAS,
    "Exponential": _EXPONENTIAL,
    "Polyexponential": _EXPONENTIAL,
    "SGM Uniform": {"timestep_spacing": "trailing"},
    "Simple": {"timestep_spacing": "trailing"},
    "DDIM": {"timestep_spacing": "leading"},
    "Beta": _BETA,
}

#: Settings of the noise that a model was trained with.
NOISE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type")
#: The name of the model's own sampler.
DEFAULT = "default"
#: What else means it.
OWN = (DEFAULT, "", "automatic")
NAMES = (DEFAULT, *dict.fromkeys((*DIFFUSION, *FLOW)))


def samplers_for(scheduler: SchedulerMixin) -> dict[str, Sampler]:
    """The samplers that can replace a model's own scheduler; none for a model that was distilled for its own."""
    if type(scheduler).__name__.startswith("FlowMatch"):
        return FLOW
    return DIFFUSION if "beta_schedule" in scheduler.config else {}


def check_sampler(name: str | None, scheduler: SchedulerMixin) -> str | None:
    """The name in its usual spelling, or None for the model's own; raises for a sampler that the model cannot use."""
    if name is None or _fold(name) in OWN:
        return None
    samplers = samplers_for(scheduler)
    folded = {_fold(spelling): spelling for spelling in samplers}
    # The name of a scheduler means the first sampler that has it, which is the one without changes.
    by_scheduler = {_fold(sampler.scheduler): spelling for spelling, sampler in reversed(samplers.items())}
    sampler_name = folded.get(_fold(name)) or by_scheduler.get(_fold(name))
    if sampler_name is not None:
        return sampler_name
    sampler_name, schedule = _parted(name)
    if schedule is not None:
        is_own = _fold(sampler_name) in OWN
        plain = type(scheduler).__name__ if is_own else _parted(sampler_name)[0]
        base = folded.get(_fold(plain)) or by_scheduler.get(_fold(plain))
        if base is not None and _can_space(samplers[base], schedule):
            paired = f"{base} {schedule}"
            return folded.get(_fold(paired), paired)
        if base is not None or is_own:
            return None if is_own else base
    near = nearest(_fold(name), folded, cutoff=0.5)
    hint = f"did you mean {folded[near[0]]!r}?" if near else f"there is {', '.join(samplers) or 'only its own'}."
    raise errors.BadRequest(f"There is no sampler {name[:100]!r} for this model; {hint}", "sampler_name")


def scheduler_for(name: str | None, scheduler: SchedulerMixin) -> SchedulerMixin:
    """A scheduler for a single request, because schedulers keep state."""
    import diffusers

    if name is None:
        return type(scheduler).from_config(scheduler.config)
    samplers = samplers_for(scheduler)
    schedule: Mapping[str, object] = {}
    if name not in samplers:
        name, spacing = _parted(name)
        schedule = SCHEDULES[spacing] if spacing is not None else {}
    sampler = samplers[name]
    # All of them explicitly: a scheduler of another class has other defaults for settings that the model leaves out.
    learnt = {noise: scheduler.config[noise] for noise in NOISE if noise in scheduler.config}
    kind = getattr(diffusers, sampler.scheduler)
    if sampler.scheduler == EULER_A and not schedule.keys() <= signature(kind).parameters.keys():
        kind = _spaced_euler_a()
    return kind.from_config(scheduler.config, **learnt, **sampler.changes, **schedule)


def _can_space(sampler: Sampler, schedule: str) -> bool:
    """False of samplers that step from one trained time to another: they pass a schedule over, there as here."""
    import diffusers

    changes = SCHEDULES[schedule]
    takes = signature(getattr(diffusers, sampler.scheduler)).parameters.keys()
    return bool(changes) and (changes.keys() <= takes or sampler.scheduler == EULER_A)


@cache
def _spaced_euler_a() -> Any:
    """Euler a at the noise levels of Euler, which can be spaced in more ways."""
    import diffusers

    class SpacedEulerAncestral(diffusers.EulerAncestralDiscreteScheduler):  # type: ignore[misc]
        @classmethod
        def from_config(cls, config: Any, **settings: Any) -> Any:
            made = super().from_config(config, **settings)
            made.levels = diffusers.EulerDiscreteScheduler.from_config(config, **settings)
            return made

        def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
            super().set_timesteps(num_inference_steps, device=device)
            self.levels.set_timesteps(num_inference_steps, device=device)
            self.sigmas, self.timesteps = self.levels.sigmas, self.levels.timesteps

    return SpacedEulerAncestral


def _parted(name: str) -> tuple[str, str | None]:
    """The sampler and the schedule in a name that ends in one."""
    words = _words(name)
    # SGM Uniform before Uniform.
    for schedule in sorted(SCHEDULES, key=len, reverse=True):
        end = _words(schedule)
        if words[-len(end) :] == end and len(words) > len(end):
            return " ".join(name.replace("_", " ").split()[: -len(end)]), schedule
    return name, None


def _words(name: str) -> list[str]:
    return name.lower().replace("_", " ").split()


def _fold(name: str) -> str:
    words = _words(name)
    return "".join(words[1:] if words[:1] == ["k"] else words)
