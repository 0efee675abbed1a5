from __future__ import annotations

import json

import pytest

from cluster import errors, keys
from cluster.keys import (
    MOST_SESSIONS,
    SCOPES,
    SESSION_S,
    Key,
    by_digest,
    check,
    check_model,
    new_key,
    new_session,
    superfluous,
)


def test_the_stored_record_does_not_hold_the_key() -> None:
    key, text = new_key("ci", ["infer"], ["m"])
    stored = json.dumps(key.model_dump(mode="json"))
    assert text.startswith("ck-") and len(text) > 40
    assert text not in stored and text.removeprefix("ck-") not in stored
    assert Key.model_validate(json.loads(stored)) == key


def test_what_is_shown_of_a_key_has_no_digest() -> None:
    key, _ = new_key("ci", ["infer"])
    assert set(key.shown()) == {"id", "name", "scopes", "models", "created"}


def test_every_key_is_another_one() -> None:
    made = [new_key("ci", ["infer"]) for _ in range(50)]
    assert len({key.id for key, _ in made}) == len({text for _, text in made}) == 50


@pytest.mark.parametrize("scope", SCOPES)
def test_a_key_may_do_what_its_scopes_say(scope: str) -> None:
    key, text = new_key("ci", [scope])
    for asked in SCOPES:
        if scope in (asked, "admin"):
            assert check(by_digest([key]), text, asked) == key
            continue
        with pytest.raises(errors.NotPermitted) as caught:
            check(by_digest([key]), text, asked)
        assert caught.value.message == f"Not enough permissions: the key 'ci' lacks the scope {asked}."


def test_the_right_one_of_many_keys_is_found() -> None:
    made = [new_key(f"k{n}", ["infer"]) for n in range(10)]
    for key, text in made:
        assert check(by_digest(key for key, _ in made), text, "infer") == key


@pytest.mark.parametrize("presented", [None, "", "ck-wrong", "Bearer x", "ü" * 1000])
def test_no_key_or_a_wrong_one_is_not_authenticated(presented: str | None) -> None:
    key, _ = new_key("ci", ["admin"])
    with pytest.raises(errors.NotAuthenticated) as caught:
        check(by_digest([key]), presented, "list")
    assert "Could not validate credentials" in caught.value.message


def test_the_digest_is_no_key() -> None:
    key, _ = new_key("ci", ["admin"])
    with pytest.raises(errors.NotAuthenticated):
        check(by_digest([key]), key.digest, "list")


@pytest.mark.parametrize(
    ("scopes", "says"),
    [
        ([], "A key takes scopes of list, infer, launch, admin, not none."),
        (["infer", "root"], "A key takes scopes of list, infer, launch, admin, not root."),
    ],
)
def test_scopes_that_are_not_there_are_refused(scopes: list[str], says: str) -> None:
    with pytest.raises(errors.BadRequest) as caught:
        new_key("ci", scopes)
    assert caught.value.message == says


def test_a_key_for_some_models_opens_no_other() -> None:
    key, _ = new_key("ci", ["infer"], ["a", "b"])
    check_model(key, "a")
    with pytest.raises(errors.NotPermitted) as caught:
        check_model(key, "c")
    assert caught.value.message == "API key does not have access to model: c"


def test_a_key_for_all_models_opens_every_one() -> None:
    key, _ = new_key("ci", ["infer"])
    check_model(key, "m")
    check_model(None, "m")


def test_a_key_for_no_models_opens_none() -> None:
    key, _ = new_key("ci", ["list"], [])
    with pytest.raises(errors.NotPermitted):
        check_model(key, "m")


def test_a_session_may_do_what_its_key_may_as_long_as_that_is_there() -> None:
    key, _ = new_key("ann", ["infer"], ["m"])
    session, text = new_session(key)
    assert check(by_digest([key, session]), text, "infer") == key
    with pytest.raises(errors.NotPermitted):
        check(by_digest([key, session]), text, "launch")
    with pytest.raises(errors.NotAuthenticated, match="revoked"):
        check(by_digest([session]), text, "infer")


def test_a_session_ends() -> None:
    key, _ = new_key("ann", ["infer"])
    session, text = new_session(key)
    assert 0 < session.expires - session.created <= SESSION_S
    ended = session.model_copy(update={"expires": 1.0})
    with pytest.raises(errors.NotAuthenticated, match="session has ended"):
        check(by_digest([key, ended]), text, "infer")


def test_sessions_that_ended_are_forgotten_and_the_oldest_beyond_a_number() -> None:
    key, _ = new_key("ann", ["infer"])
    other, _ = new_session(new_key("bob", ["infer"])[0])
    sessions = [
        new_session(key)[0].model_copy(update={"id": str(number), "expires": 100.0 + number})
        for number in range(MOST_SESSIONS + 2)
    ]
    new = new_session(key)[0]
    assert superfluous([key, other, *sessions], new, now=100.5) == ["0", "1", "2"]
    assert superfluous([key, other, *sessions[:5]], new, now=0.0) == []


def test_one_who_shares_a_key_knows_of_less_than_the_key() -> None:
    key, _ = keys.new_key("gateway", ["infer"])
    admin, _ = keys.new_key("root", ["admin"])
    ann, ben = (keys.of_caller(key, letter * 16) for letter in "ab")
    assert ann and ben and (ann.digest, ann.scopes) == (key.digest, key.scopes) and keys.shared_id(ann.id) == key.id
    assert keys.reaches(ann, ann.id) and keys.reaches(key, ann.id) and keys.reaches(admin, ann.id)
    assert not any(keys.reaches(one, other) for one, other in ((ann, ben.id), (ann, key.id), (ann, None)))
    assert not keys.reaches(keys.of_caller(admin, "a" * 16), ann.id) and not keys.reaches(key, admin.id)
    for name in ("", "ann", "A" * 16, "a" * 17, "a" * 15 + "\n", "a" * 16 + "\n"):
        assert keys.of_caller(key, name) is key and keys.of_caller(None, name) is None
    assert keys.reaches(None, ann.id)
