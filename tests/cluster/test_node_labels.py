from __future__ import annotations

import pytest
from pydantic import ValidationError

from cluster import errors
from cluster.launch import LaunchSpec
from cluster.node_labels import lacking, read_labels, selector_of

ZONE_B = (("gpu", "a100"), ("zone", "b"))


def wanted(labels: object) -> tuple[str, ...]:
    return LaunchSpec.model_validate({"model_name": "m", "node_labels": labels}).node_labels


def test_what_a_machine_says_of_itself() -> None:
    assert read_labels("gpu=a100, zone=b") == {"gpu": "a100", "zone": "b"}
    assert read_labels("") == {}
    for wrong in ("gpu", "gpu=", "=b", "a b=c", "a=b c", "cluster-version=9", "-a=b"):
        with pytest.raises(errors.BadOption, match="labels takes name=value"):
            read_labels(wrong)


@pytest.mark.parametrize(
    "written", ["zone=b|c, gpu=a100", ["zone=b|c", "gpu=a100"], {"zone": ["b", "c"], "gpu": "a100"}]
)
def test_what_a_launch_asks_for_is_read_in_every_form(written: object) -> None:
    assert wanted(written) == ("gpu=a100", "zone=b|c")


@pytest.mark.parametrize("written", [None, "", [], {}])
def test_a_launch_may_ask_for_nothing(written: object) -> None:
    assert wanted(written) == ()


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("zone", "takes name=value"),
        ("zone=", "takes name=value"),
        ("zone=b|", "takes name=value"),
        ("zone=a b", "takes name=value"),
        ("zone=b,zone=c", r"has zone twice; write zone=one\|other"),
        ({"zone": []}, "takes name=value"),
        ([1], "valid string"),
        (5, "valid tuple"),
    ],
)
def test_what_no_node_can_have_is_refused(written: object, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        wanted(written)


def test_a_node_has_all_of_them_or_lacks_some() -> None:
    assert lacking(("zone=a|b", "gpu=a100"), ZONE_B) == ()
    assert lacking(("zone=a", "gpu=a100"), ZONE_B) == ("zone=a",)
    assert lacking(("zone=a", "disk=fast"), ()) == ("zone=a", "disk=fast")
    assert lacking((), ()) == ()


def test_ray_is_asked_in_its_own_words() -> None:
    assert selector_of(("gpu=a100", "zone=b|c")) == {"gpu": "in(a100)", "zone": "in(b,c)"}
