"""What is served: the model types, and how a launch is looked up and checked before anything is started.

A wing is a package here, or a plugin module, that ends in `TYPES = (ModelType(...), ...)`; nothing else names them. Its
HTTP is in its module `http`, which only an ingress imports (`deployments/ingress/dialects.py`).
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cluster import environment, errors
from cluster.catalog.catalog import Catalog
from cluster.catalog.entry import Entry, Source
from cluster.catalog.sources import choose_source
from cluster.launch import LaunchSpec, Wanted
from cluster.names import cut, is_uid, nearest, quoted
from cluster.paths import local_path, real_path
from cluster.settings import Settings
from cluster.trust import how_to_trust, may_run_code, pinned
from cluster.weights.inventory import inspected
from cluster.worker.family import AnyFamily, path_of, refuse_without_contract
from cluster.worker.planning import weighed
from cluster.worker.preload import Preload
from deployments.folders import Contents, family_in


@dataclass(frozen=True)
class ModelType:
    name: str
    #: Family name, as catalogue entries give it -> class; the first is what a bare folder is loaded with that does not
    #: say otherwise.
    families: Mapping[str, type[AnyFamily]]
    #: Models that ship with the installation of the type, when it has any.
    entries: tuple[Entry, ...] = field(default=())
    #: What an entry's models can be asked for, where that is less than all that their family can.
    abilities: Callable[[Entry], tuple[str, ...]] | None = None

    def __post_init__(self) -> None:
        for family in self.families.values():
            refuse_without_contract(family)

    def family_for(self, entry: Entry, engine: str | None, source: Source | None = None) -> type[AnyFamily]:
        """`source`: the weights that were chosen, which not every family may read."""
        if engine is None and entry.family not in self.families:
            raise errors.BadRequest(f"{entry.name} needs the family {entry.family}, which is not installed.")
        # The entry's own family comes first: several have engines of the same names.
        own = {entry.family: self.families[entry.family]} if entry.family in self.families else {}
        families = {**own, **self.families}
        able = [family for family in families.values() if source is None or family.suits(source)]
        if engine is None:
            return next(iter(able or families.values()))
        for name, family in families.items():
            is_named = engine.replace("-", "_").lower() in (name.replace("-", "_"), *family.engines)
            if is_named and (family in able or not may_be_any(engine)):
                return family
        if may_be_any(engine) and able and any(engine.lower() in family.engines for family in families.values()):
            return able[0]
        engines = sorted({engine for family in self.families.values() for engine in family.engines})
        raise errors.BadOption(
            f"Unknown model_engine {quoted(engine)} for {self.name} models; use one of: {', '.join(engines)}.",
            "model_engine",
        )

    def families_of(self, entry: Entry) -> dict[str, type[AnyFamily]]:
        """Those that can load the entry: its own first, and others that read the format of some of its weights."""
        own = {entry.family: self.families[entry.family]} if entry.family in self.families else {}
        others = {
            name: family
            for name, family in self.families.items()
            if family.formats is not None and any(map(family.reads, entry.sources))
        }
        return {**own, **others}


def may_be_any(engine: str | None) -> bool:
    """Whether a launch leaves it to us which engine loads the weights."""
    return engine is None or engine.lower() == "auto"


def wings(plugins: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The modules that may bring model types: the packages here, and the plugins."""
    packages = (f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__) if module.ispkg)
    return (*packages, *plugins)


@cache
def model_types(plugins: tuple[str, ...] = ()) -> Mapping[str, ModelType]:
    """Every model type by its name."""
    types = {}
    for name in wings(plugins):
        wing = importlib.import_module(name)
        for type in getattr(wing, "TYPES", ()):
            types[type.name] = type
    return types


def preload(settings: Settings) -> Preload:
    """What the wings name in `PRELOAD`, modules that workers of several wings import, and in `OWN_PRELOAD`, which only
    theirs do. Our own modules go first, since they import libraries without the parts that they do not need."""
    modules = {name: importlib.import_module(name) for name in wings(settings.plugins)}
    names = [name for wing in modules.values() for name in getattr(wing, "PRELOAD", ())]
    common = tuple(sorted(dict.fromkeys(names), key=lambda name: not name.startswith(__name__)))
    return Preload(common, {name: wing.OWN_PRELOAD for name, wing in modules.items() if hasattr(wing, "OWN_PRELOAD")})


def catalog_with(registered: Iterable[Entry], settings: Settings) -> Catalog:
    """The built-in catalogue, what plugins bring, and custom entries; one that clashes is left out, not fatal."""
    catalog = Catalog.builtin()
    brought = [entry for type in model_types(settings.plugins).values() for entry in type.entries]
    for entry in (*brought, *registered):
        try:
            catalog = catalog.with_registered([entry])
        except errors.Conflict:
            continue  # an upgrade brought a model of that name; ours wins until the custom one is renamed
    return catalog


def resolve(spec: LaunchSpec, catalog: Catalog, settings: Settings) -> Wanted:
    """Everything that a launch asks for, or the reason why it cannot be launched. A spec that passes is valid."""
    types = model_types(settings.plugins)
    if spec.model_type and spec.model_type.lower() not in types:
        raise errors.BadOption(
            f"model_type {quoted(spec.model_type)} is not served here; use one of: {', '.join(sorted(types))}.",
            "model_type",
        )
    entry = _entry(spec, catalog, types, settings)
    if entry.type not in types:
        raise errors.BadRequest(f"{entry.name} is of the type {entry.type}, which is not installed.", "model_type")
    type = types[entry.type]
    family = type.family_for(entry, spec.model_engine)
    _refuse_unsupported(entry)
    environment.refuse_others(spec.envs, settings.allow_envs)
    if spec.model_path is not None:
        source = Source(hub="local", id=str(allowed(local_path(spec.model_path), settings)))
    else:
        source = choose_source(
            entry,
            hub=spec.download_hub,
            format=spec.model_format,
            quantization=spec.quantization,
            size=spec.model_size_in_billions,
            engine=None if may_be_any(spec.model_engine) else spec.model_engine,
            reads=family.reads,
            default_hub=settings.model_hub,
        )
        family = type.family_for(entry, spec.model_engine, source)
    options = check_options(family, {**entry.options, **spec.options})
    source = pinned(source, settings.remote_code)
    if entry.remote_code and not may_run_code(entry, source, settings.remote_code):
        reason = f"{entry.name} runs code from its repository, {how_to_trust(entry, source)}."
        raise errors.BadRequest(reason, "model_path" if source.hub == "local" else "model_name")
    uid = spec.model_uid or entry.name
    if not is_uid(uid):
        raise errors.BadRequest(
            f"{entry.name!r} cannot be the name to serve it under; give a model_uid of letters, digits, '.', '_', '-'.",
            "model_uid",
        )
    own_options = {name: options[name] for name in options if name in spec.options}
    wanted = Wanted(
        uid=uid,
        spec=spec.model_copy(update={"model_uid": uid, "model_type": entry.type, "options": own_options}),
        entry=entry,
        source=source,
        family=path_of(family),
        abilities=(type.abilities and type.abilities(entry)) or family.abilities,
        claim_bytes=0,
    )
    return weighed(wanted, settings)


def check_options(family: type[AnyFamily], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options as the family reads them; an unknown one is refused with the nearest that there is."""
    fields = family.Options.model_fields
    for name in given:
        if name not in fields:
            if name in family.lacks:
                raise errors.BadOption(f"The engine has no option {name}: {family.lacks[name]}.", name)
            everything = [*fields, *LaunchSpec.model_fields]
            near = nearest(name, everything)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(sorted(fields)) or 'none'}."
            raise errors.BadOption(f"There is no option {quoted(name)}; {hint}", cut(name))
    try:
        return family.Options.model_validate(dict(given)).model_dump()
    except ValidationError as error:
        problem = error.errors()[0]
        name = cut(".".join(map(str, problem["loc"]))) or "options"
        raise errors.BadOption(
            f"Option {name} does not take {quoted(problem['input'])}: {problem['msg']}.", name
        ) from None


def _entry(spec: LaunchSpec, catalog: Catalog, types: Mapping[str, ModelType], settings: Settings) -> Entry:
    try:
        return catalog.find(spec.model_name, spec.model_type.lower())
    except errors.UnknownModel:
        # Any folder can be launched under any name, once it is said what kind of model it is.
        if spec.model_path is None or not spec.model_type:
            raise
    type = types[spec.model_type.lower()]
    source = Source(hub="local", id=spec.model_path)
    folder = allowed(local_path(spec.model_path), settings)
    # It may be on another machine, and then tells nothing.
    recognised = family_in(type.name, _contents_of(folder, settings))
    family = recognised if recognised is not None and recognised in type.families else next(iter(type.families))
    return Entry(name=spec.model_name, type=type.name, family=family, sources=(source,), builtin=False)


def _contents_of(folder: Path, settings: Settings) -> Contents:
    return Contents.of(inspected(folder, settings.model_roots)) if os.path.isdir(folder) else Contents()


def _refuse_unsupported(entry: Entry) -> None:
    needs = entry.facts.get("needs")
    if needs:
        raise errors.BadRequest(f"{entry.name} needs {needs}, which is not available yet.", "model_name")


def allowed(path: Path, settings: Settings, option: str = "model_path") -> Path:
    roots = settings.model_roots
    if roots and not any(real_path(path).is_relative_to(real_path(root)) for root in roots):
        raise errors.BadOption(
            f"{option} {cut(str(path))} is outside of the folders that may be used ({', '.join(map(str, roots))}).",
            option,
        )
    return path
