from __future__ import annotations

import pytest

from cluster import errors
from cluster.catalog.catalog import Catalog
from cluster.catalog.entry import Entry
from cluster.launch import LaunchSpec, Wanted
from cluster.settings import Settings
from cluster.worker.family import Family, load_family, path_of
from deployments import check_options, model_types, resolve
from deployments.ingress.xinference_launch import ALWAYS_SENT

ENTRIES = [entry for type in Catalog.builtin().types() for entry in Catalog.builtin().of_type(type)]
LOADABLE = [entry for entry in ENTRIES if "needs" not in entry.facts]
FAMILIES = [(type.name, name, family) for type in model_types().values() for name, family in type.families.items()]

each_entry = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.type}-{entry.name}")
each_loadable = pytest.mark.parametrize("entry", LOADABLE, ids=lambda entry: f"{entry.type}-{entry.name}")
each_family = pytest.mark.parametrize(("type", "name", "family"), FAMILIES, ids=[f"{t}-{n}" for t, n, _ in FAMILIES])


def launch(entry: Entry) -> Wanted:
    commits = [f"huggingface:{id}@{'a' * 40}" for id in entry.hub_ids if entry.remote_code]
    settings = Settings(home="/nowhere", remote_code=(entry.name, *commits))
    return resolve(LaunchSpec(model_name=entry.name, model_type=entry.type), Catalog.builtin(), settings)


@each_entry
def test_every_entry_is_of_a_type_that_has_its_family(entry: Entry) -> None:
    assert entry.family in model_types()[entry.type].families


@each_loadable
def test_every_entry_that_needs_nothing_more_can_be_launched(entry: Entry) -> None:
    found = launch(entry)
    assert found.entry == entry and found.claim_bytes > 0
    assert load_family(found.family) is model_types()[entry.type].families[entry.family]


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e not in LOADABLE], ids=lambda entry: entry.name)
def test_every_entry_that_needs_more_says_what(entry: Entry) -> None:
    with pytest.raises(errors.BadRequest, match="needs"):
        launch(entry)


@each_entry
def test_the_options_of_every_entry_are_ones_its_family_takes(entry: Entry) -> None:
    check_options(model_types()[entry.type].families[entry.family], entry.options)


@each_family
def test_every_family_has_all_that_the_contract_asks_for(type: str, name: str, family: type[Family]) -> None:
    assert load_family(path_of(family)) is family
    assert family.engines and family.abilities
    assert family.example.ability in family.abilities and family.example.items
    assert family.contract in ("batched", "stepped", "talking")
    assert not family.__abstractmethods__


@each_family
def test_every_family_refuses_options_it_does_not_know(type: str, name: str, family: type[Family]) -> None:
    assert family.Options.model_config.get("extra") == "forbid"


@each_family
def test_no_option_of_a_family_has_the_name_of_one_of_every_launch(type: str, name: str, family: type[Family]) -> None:
    """It would never reach the family."""
    assert not set(family.Options.model_fields) & {*LaunchSpec.model_fields, *ALWAYS_SENT}


@each_family
def test_every_option_has_a_default(type: str, name: str, family: type[Family]) -> None:
    family.Options()


def test_no_ability_belongs_to_two_types() -> None:
    """A request without a model name is sent to the only model that can do what it asks."""
    owners: dict[str, set[str]] = {}
    for type, _, family in FAMILIES:
        for ability in family.abilities:
            owners.setdefault(ability, set()).add(type)
    assert all(len(types) == 1 for types in owners.values()), owners
