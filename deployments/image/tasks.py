"""Which pipeline does which task with a model's parts, and what each can be asked: read off the classes themselves."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

from cluster import errors
from deployments.abilities import TASKS

#: What reads several pictures of a request as references for one; others take them for several requests.
BY_REFERENCE = frozenset(
    (
        "Flux2KleinPipeline",
        "Flux2Pipeline",
        "GlmImagePipeline",
        "QwenImageEditPlusPipeline",
    )
)


def classes_for(pipe: Any, named: Mapping[str, str]) -> dict[str, Any]:
    """Task -> pipeline class: as the catalogue names them, else as the library relates them to the loaded one."""
    import diffusers

    if named:
        return {task: getattr(diffusers, name) for task, name in named.items()}
    own = type(pipe)
    found = {task: _related(own, task) for task in TASKS}
    if not any(found.values()):
        found[_task_of(own)] = own
    return {task: cls for task, cls in found.items() if cls is not None and _has_its_parts(cls, pipe)}


def _related(cls: Any, task: str) -> Any:
    from diffusers.pipelines import auto_pipeline

    mapping = {
        "text2image": auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING,
        "image2image": auto_pipeline.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
        "inpainting": auto_pipeline.AUTO_INPAINT_PIPELINES_MAPPING,
    }[task]
    family = next((name for name in _families(cls)), None)
    found = mapping.get(family) if family is not None else None
    # The same class may be listed as doing what it has no argument for.
    if found is not None and task == "inpainting" and "mask_image" not in call_arguments(found):
        return None
    return found


def _families(cls: Any) -> list[str]:
    """The names under which the library lists a class."""
    from diffusers.pipelines import auto_pipeline

    mappings = (
        auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING,
        auto_pipeline.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
        auto_pipeline.AUTO_INPAINT_PIPELINES_MAPPING,
    )
    return [name for mapping in mappings for name, listed in mapping.items() if listed is cls]


def _task_of(cls: Any) -> str:
    takes = call_arguments(cls)
    if "mask_image" in takes:
        return "inpainting"
    return "image2image" if "image" in takes else "text2image"


def _has_its_parts(cls: Any, pipe: Any) -> bool:
    optional = set(getattr(cls, "_optional_components", ()))
    parameters = inspect.signature(cls.__init__).parameters
    needed = [name for name, one in parameters.items() if name != "self" and one.default is inspect.Parameter.empty]
    return all(name in pipe.components or name in pipe.config or name in optional for name in needed)


@cache
def call_arguments(cls: Any) -> Mapping[str, Any]:
    """What a pipeline can be asked, with the defaults."""
    parameters = inspect.signature(cls.__call__).parameters
    return {name: one.default for name, one in parameters.items() if name != "self"}


@cache
def _settled(cls: Any, device: Any) -> Any:
    """The same class with its device at hand: the library looks through all parts of a pipeline whenever it asks."""
    return type(cls.__name__, (cls,), {"_execution_device": device, "__module__": cls.__module__})


def own_pipeline(cls: Any, pipe: Any, scheduler: Any, device: Any) -> Any:
    """A pipeline for one request: the parts are the model's, its scheduler and all that a run writes down its own."""
    parts = {**pipe.components, "scheduler": scheduler}
    given = {}
    for name in inspect.signature(cls.__init__).parameters:
        if name in parts:
            given[name] = parts[name]
        elif name in pipe.config:
            given[name] = pipe.config[name]
    made = _settled(cls, device)(**given)
    made.set_progress_bar_config(disable=True)
    return made


def class_for(classes: Mapping[str, Any], task: str, name: str) -> Any:
    if task not in classes:
        raise errors.BadRequest(f"{name} does no {task}; it does {', '.join(sorted(classes)) or 'nothing'}.")
    return classes[task]
