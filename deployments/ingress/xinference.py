"""What Xinference's clients call the types of models, which they can open only if Xinference has them, and what they
read of registrations."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable

from cluster import errors
from cluster.catalog.catalog import Catalog
from cluster.catalog.entry import Entry
from cluster.settings import Settings
from cluster.value import JsonObject
from cluster.worker.family import AnyFamily
from deployments import model_types

#: Types that are called the same there.
SAME_TYPES = ("embedding", "rerank", "image")
#: What other models are there, by what they can. The rest is of the type that takes anything.
TYPES_BY_ABILITY = {"ocr": "image", "text2image": "image", "embed": "embedding", "rerank": "rerank", "chat": "LLM"}
ANY_TYPE = "flexible"
#: What its clients say where nobody said a type.
DEFAULT_TYPE = "llm"


def xinference_type(type: str, abilities: Collection[str]) -> str:
    """Xinference's word for a type of ours."""
    if type in SAME_TYPES:
        return type
    return next((word for ability, word in TYPES_BY_ABILITY.items() if ability in abilities), ANY_TYPE)


def own_type(type: str, name: str, catalog: Catalog, settings: Settings) -> str:
    """Our word for the type of the model of that name: Xinference has one word for several types of ours. A type
    of ours that has a model of that name is meant as it stands."""
    if not type or _has(catalog, type, name):
        return type
    for other in model_types(settings.plugins).values():
        if _has(catalog, other.name, name):
            abilities = abilities_of(catalog.find(name, other.name), settings)
            if xinference_type(other.name, abilities).lower() == type.lower():
                return other.name
    return "" if type.lower() == DEFAULT_TYPE and _has(catalog, "", name) else type


def abilities_of(entry: Entry, settings: Settings) -> tuple[str, ...]:
    """What models of the entry can be asked for."""
    type = model_types(settings.plugins).get(entry.type)
    if type is None:
        return ()
    family = type.families.get(entry.family)
    return (type.abilities and type.abilities(entry)) or (family.abilities if family else ())


def registered_type(word: str, text: str, settings: Settings) -> str:
    """Our word for the type of a registration that is sent as one of that type: what Xinference registers as an image
    model may say that it reads."""
    types = model_types(settings.plugins)
    said = _abilities_said(text)
    called = [name for name in types_called(word.lower(), settings) if name in types]
    able = [name for name in called if said & _abilities_in(types[name].families.values())]
    return next(iter(able), word)


def _abilities_said(text: str) -> set[str]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return set()
    said = document.get("model_ability") if isinstance(document, dict) else None
    family = document.get("model_family") if isinstance(document, dict) else None
    return {str(word) for word in (*(said if isinstance(said, list) else [said]), family)}


def _abilities_in(families: Iterable[type[AnyFamily]]) -> set[str]:
    return {ability for family in families for ability in family.abilities}


def registration_words(entry: Entry, settings: Settings) -> JsonObject:
    """What Xinference's command line prints of every model of a type, and fails without."""
    abilities = list(abilities_of(entry, settings))
    words: JsonObject = {"model_ability": abilities, "dimensions": entry.facts.get("dimensions")}
    word = xinference_type(entry.type, abilities)
    if word == "LLM":
        words["model_lang"] = list(entry.languages)
        said = entry.facts.get("model_ability")
        words["model_ability"] = list(dict.fromkeys([*abilities, *(said if isinstance(said, list) else [])]))
        words["context_length"] = entry.max_tokens
    if word == "image":
        words["model_family"] = "ocr" if "ocr" in abilities else "stable_diffusion"
        words["controlnet"] = entry.facts.get("controlnet")
    return words


def types_called(word: str, settings: Settings) -> list[str]:
    """Our types of that name in Xinference's words: one that is called so itself comes first."""
    types = model_types(settings.plugins)
    called = [
        type.name
        for type in types.values()
        if type.name != word
        and any(xinference_type(type.name, family.abilities).lower() == word for family in type.families.values())
    ]
    return [word, *sorted(called)]


def _has(catalog: Catalog, type: str, name: str) -> bool:
    try:
        catalog.find(name, type)
    except errors.UnknownModel:
        return False
    return True
