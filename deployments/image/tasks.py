"""Which pipeline does which task with a model's parts, and what each can be asked: read off the classes themselves."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

from cluster import errors
from cluster.value import JsonObject
from deployments.abilities import TASKS

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, SchedulerMixin
    from torch import device as Device

    PipelineClass: TypeAlias = type[DiffusionPipeline]

#: Pipelines that read several pictures of a request as references for one; others take them for several requests.
BY_REFERENCE = frozenset(
    (
        "Flux2KleinPipeline",
        "Flux2Pipeline",
        "GlmImagePipeline",
        "QwenImageEditPlusPipeline",
    )
)


def classes_for(pipe: DiffusionPipeline, named: Mapping[str, str]) -> dict[str, PipelineClass]:
    """Task -> pipeline class: as the catalogue names them, else as the library relates them to the loaded one."""
    import diffusers

    if named:
        return {task: getattr(diffusers, name) for task, name in named.items()}
    own = type(pipe)
    classes = {task: _related(own, task) for task in TASKS}
    if not any(classes.values()):
        classes[_task_of(own)] = own
    return {task: cls for task, cls in classes.items() if cls is not None and _has_its_parts(cls, pipe)}


def _related(cls: PipelineClass, task: str) -> PipelineClass | None:
    from diffusers.pipelines import auto_pipeline

    mapping: Mapping[str, PipelineClass] = {
        "text2image": auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING,
        "image2image": auto_pipeline.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
        "inpainting": auto_pipeline.AUTO_INPAINT_PIPELINES_MAPPING,
    }[task]
    family = next((name for name in _families(cls)), None)
    related = mapping.get(family) if family is not None else None
    # The library lists some classes for inpainting that take no mask.
    if related is not None and task == "inpainting" and "mask_image" not in call_arguments(related):
        return None
    return related


def _families(cls: PipelineClass) -> list[str]:
    """The names under which the library lists a class."""
    from diffusers.pipelines import auto_pipeline

    mappings = (
        auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING,
        auto_pipeline.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
        auto_pipeline.AUTO_INPAINT_PIPELINES_MAPPING,
    )
    return [name for mapping in mappings for name, listed in mapping.items() if listed is cls]


def _task_of(cls: PipelineClass) -> str:
    takes = call_arguments(cls)
    if "mask_image" in takes:
        return "inpainting"
    return "image2image" if "image" in takes else "text2image"


def _has_its_parts(cls: PipelineClass, pipe: DiffusionPipeline) -> bool:
    optional = set(getattr(cls, "_optional_components", ()))
    parameters = inspect.signature(cls.__init__).parameters.values()
    needed = [each.name for each in parameters if each.name != "self" and each.default is inspect.Parameter.empty]
    return all(name in pipe.components or name in pipe.config or name in optional for name in needed)


def call_arguments(cls: PipelineClass) -> JsonObject:
    """The arguments that a pipeline takes, with their defaults."""
    # mypy does not see that a class of a library it skips can be hashed.
    return _call_arguments(cls)  # type: ignore[arg-type]


@cache
def _call_arguments(cls: PipelineClass) -> JsonObject:
    parameters = inspect.signature(cls.__call__).parameters.values()
    return {each.name: each.default for each in parameters if each.name != "self"}


@cache
def _with_device(cls: PipelineClass, device: Device) -> PipelineClass:
    """A subclass that has its device at hand: the library's property looks through all parts at every access."""
    return type(cls.__name__, (cls,), {"_execution_device": device, "__module__": cls.__module__})


def own_pipeline(
    cls: PipelineClass, pipe: DiffusionPipeline, scheduler: SchedulerMixin, device: Device
) -> DiffusionPipeline:
    """A pipeline for one request: the parts are the model's, the scheduler and the state of the run its own."""
    parts = {**pipe.components, "scheduler": scheduler}
    arguments = {}
    for name in inspect.signature(cls.__init__).parameters:
        if name in parts:
            arguments[name] = parts[name]
        elif name in pipe.config:
            arguments[name] = pipe.config[name]
    pipeline = _with_device(cls, device)(**arguments)  # type: ignore[arg-type]
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def class_for(classes: Mapping[str, PipelineClass], task: str, name: str) -> PipelineClass:
    if task not in classes:
        raise errors.BadRequest(f"{name} does no {task}; it does {', '.join(sorted(classes)) or 'nothing'}.")
    return classes[task]
