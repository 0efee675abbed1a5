from __future__ import annotations

import json

import pytest

from cluster import errors
from cluster.joining import (
    CLOCK_S,
    Invitation,
    Versions,
    check_fit,
    fit,
    is_proven,
    proof,
    read_invitation,
    read_ports,
)

OWN = Versions(cluster="1.2.0", python="3.11.7", ray="2.60.0")
INVITATION = Invitation(versions=OWN, unix=1000.0, address="10.0.0.1:6379", session="s", object_store_bytes=1)


def test_a_proof_is_good_for_one_purpose_nonce_and_text() -> None:
    shown = proof("token", "leave", "n1", "node")
    assert is_proven(shown, "token", "leave", "n1", "node")
    for other in [("other", "leave", "n1", "node"), ("token", "join", "n1", "node"), ("token", "leave", "n2", "node")]:
        assert not is_proven(shown, *other)
    assert not is_proven(shown, "token", "leave", "n1", "another")
    assert not is_proven("é", "token", "leave", "n1", "node")


def test_an_invitation_counts_only_from_one_who_has_the_token() -> None:
    text = INVITATION.model_dump_json()
    assert read_invitation({"text": text, "seal": proof("token", "answer", "n", text)}, "token", "n") == INVITATION
    for token, nonce in [("other", "n"), ("token", "an earlier one")]:
        with pytest.raises(errors.NotAuthenticated, match="does not have this token"):
            read_invitation({"text": text, "seal": proof(token, "answer", nonce, text)}, "token", "n")


def test_an_answer_that_cannot_be_read_is_of_another_version() -> None:
    text = '{"versions": "9"}'
    for answer in ({}, None, {"text": text, "seal": proof("token", "answer", "n", text)}):
        with pytest.raises(errors.Conflict, match="another version than this machine"):
            read_invitation(answer, "token", "n")


def test_both_versions_are_named() -> None:
    other = OWN.model_copy(update={"cluster": "1.4.0"})
    with pytest.raises(errors.Conflict) as refusal:
        check_fit(INVITATION, other, 1000.0)
    assert "1.2.0 (Python 3.11.7, Ray 2.60.0)" in str(refusal.value) and "1.4.0" in str(refusal.value)


@pytest.mark.parametrize(
    ("head", "is_near"),
    [
        ("1.2.9", True),
        ("1.1.0", True),
        ("1.3.0rc1", True),
        ("1.4.0", False),
        ("1.0.0", False),
        ("2.2.0", False),
        ("1.20.0", False),
        ("local", False),
    ],
)
def test_machines_may_be_one_version_apart(head: str, is_near: bool) -> None:
    assert fit(OWN.model_copy(update={"cluster": head}), OWN) is is_near
    for part in ("python", "ray"):
        assert not fit(OWN.model_copy(update={part: "3.12.0"}), OWN)


def test_what_a_later_head_says_besides_is_left_out() -> None:
    later = json.loads(INVITATION.model_dump_json()) | {"later": 1}
    later["versions"]["later"] = 2
    text = json.dumps(later)
    assert read_invitation({"text": text, "seal": proof("token", "answer", "n", text)}, "token", "n") == INVITATION


@pytest.mark.parametrize(("now", "words"), [(900.0, "100 s behind"), (1100.0, "100 s ahead of")])
def test_clocks_may_not_be_far_apart(now: float, words: str) -> None:
    check_fit(INVITATION, OWN, 1000.0 + CLOCK_S)
    with pytest.raises(errors.Conflict, match=words):
        check_fit(INVITATION, OWN, now)


def test_ports() -> None:
    assert read_ports("") is None
    assert read_ports("20000-20999") == (20000, 20999)
    for wrong in ("20000", "20999-20000", "20000-20010", "80-9000", "60000-70000", "a-b"):
        with pytest.raises(ValueError, match="ray_ports takes"):
            read_ports(wrong)
