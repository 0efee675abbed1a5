"""Requests for pictures that outlive their connection."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.described import held_to_its_description
from tests.live import LiveCluster, until
from tests.painted import Journal, corners, filled, half, opened, painted_colour, painting

STEP_S = 0.4


@pytest.fixture(scope="module")
def server(live: LiveCluster, journal: Journal) -> Iterator[httpx.Client]:
    with (
        painting(live, "jobs-painter", step_seconds=STEP_S, journal=str(journal.path)),
        httpx.Client(base_url=live.url, timeout=20, event_hooks=held_to_its_description(live.url)) as http,
    ):
        yield http


def begun(server: httpx.Client, prompt: str, **fields: Any) -> dict[str, Any]:
    asked = {"model": "jobs-painter", "prompt": prompt, "background": True, **fields}
    answer = server.post("/v1/images/generations", json=asked)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    assert job["object"] == "image.job" and job["status"] == "queued" and job["progress"] == 0
    return job


def seen(server: httpx.Client, id: str) -> dict[str, Any]:
    answer = server.get(f"/v1/images/jobs/{id}")
    assert answer.status_code == 200, answer.text
    job: dict[str, Any] = answer.json()
    return job


def until_over(server: httpx.Client, id: str) -> dict[str, Any]:
    until(lambda: seen(server, id)["status"] not in ("queued", "in_progress"), within=15)
    return seen(server, id)


def test_a_job_goes_on_without_its_client_and_keeps_the_answer(live: LiveCluster, server: httpx.Client) -> None:
    with httpx.Client(base_url=live.url, timeout=20) as leaver:
        id = begun(leaver, "sea", steps=6, size="80x64", seed=5)["id"]
    under_way = until(
        lambda: next((job for job in [seen(server, id)] if job["status"] == "in_progress"), None), within=5
    )
    assert 0 < under_way["progress"] < 1 and under_way["steps"] == 6 and "result" not in under_way  # type: ignore[operator]
    assert server.get(f"/v1/requests/{id}/progress").json()["state"] == "running"
    early = server.get(f"/v1/images/jobs/{id}/result")
    assert early.status_code == 409 and f"The job {id} is in_progress" in early.json()["detail"]
    job = until_over(server, id)
    assert (job["status"], job["progress"], job["error"]) == ("completed", 1.0, None)
    assert job["expires_at"] - time.time() == pytest.approx(3600, abs=10)
    result = server.get(f"/v1/images/jobs/{id}/result").json()
    assert result == job["result"] and result["size"] == "80x64" and result["data"][0]["seed"] == 5
    assert corners(opened(result["data"][0]["b64_json"]))[0] == painted_colour("sea")
    listed = server.get("/v1/images/jobs").json()["data"]
    assert id in [row["id"] for row in listed] and not any("result" in row for row in listed)


def test_an_edit_may_be_a_job_and_its_answer_an_address(server: httpx.Client) -> None:
    form = {"model": "jobs-painter", "prompt": "sea", "background": "true", "response_format": "url", "steps": "1"}
    files = {"image": filled("red"), "mask": half("white", "black")}
    answer = server.post("/v1/images/edits", data=form, files=files)
    assert answer.status_code == 202
    job = until_over(server, answer.json()["id"])
    picture = opened(httpx.get(job["result"]["data"][0]["url"]).content)
    assert corners(picture) == (painted_colour("sea"), (255, 0, 0))


def test_a_cancelled_job_takes_at_most_one_more_step(server: httpx.Client, journal: Journal) -> None:
    id = begun(server, "cancel me", steps=50)["id"]
    ran = journal.wait_for("cancel me", 2)
    assert server.delete(f"/v1/images/jobs/{id}").json()["status"] == "cancelled"
    assert journal.after("cancel me", 3 * STEP_S) <= ran + 1
    job = until_over(server, id)
    assert job["status"] == "cancelled" and job["error"]["code"] == "request_cancelled" and "result" not in job
    answer = server.get(f"/v1/images/jobs/{id}/result")
    assert answer.status_code == 409 and answer.json()["error"]["code"] == "request_cancelled"


def test_a_job_is_cancelled_before_it_began(server: httpx.Client, journal: Journal) -> None:
    id = begun(server, "never", steps=50)["id"]
    assert server.delete(f"/v1/images/jobs/{id}").json()["status"] == "cancelled"
    assert journal.after("never", 3 * STEP_S) <= 1


def test_a_job_can_be_aborted_like_any_request(server: httpx.Client, journal: Journal) -> None:
    id = begun(server, "abort", steps=50)["id"]
    journal.wait_for("abort", 1)
    assert server.post(f"/v1/models/jobs-painter/requests/{id}/abort").json() == {"msg": "DONE"}
    assert until_over(server, id)["status"] == "cancelled"


def test_a_job_that_fails_says_why(server: httpx.Client) -> None:
    id = begun(server, "told to fail")["id"]
    job = until_over(server, id)
    assert job["status"] == "failed" and "told to fail" in job["error"]["message"]
    answer = server.get(f"/v1/images/jobs/{id}/result")
    assert answer.status_code == 500 and answer.json()["error"] == job["error"]


def test_what_is_done_is_forgotten_on_request(live: LiveCluster, server: httpx.Client) -> None:
    id = begun(server, "a", steps=1)["id"]
    until_over(server, id)
    assert server.delete(f"/v1/images/jobs/{id}").json()["deleted"] is True
    assert server.get(f"/v1/images/jobs/{id}").status_code == 404
    assert not list((live.home / "jobs").rglob(f"{id}*"))


@pytest.mark.parametrize("id", ["job-" + "0" * 32, "nothing", "..%2f..%2fcluster", "%00", "x" * 300])
@pytest.mark.parametrize(("method", "rest"), [("GET", ""), ("GET", "/result"), ("DELETE", "")])
def test_what_is_no_job_is_a_404(server: httpx.Client, id: str, method: str, rest: str) -> None:
    answer = server.request(method, f"/v1/images/jobs/{id}{rest}")
    assert answer.status_code == 404 and answer.json()["detail"]


def test_bad_jobs_are_refused_at_once(server: httpx.Client) -> None:
    asked = {"model": "jobs-painter", "prompt": "a", "background": True}
    before = server.get("/v1/images/jobs").json()["data"]
    for wrong, status in (({"steps": 10**9}, 422), ({"model": "nowhere"}, 404), ({"stream": True}, 400)):
        assert server.post("/v1/images/generations", json={**asked, **wrong}).status_code == status
    assert server.get("/v1/images/jobs").json()["data"] == before


def test_a_job_whose_ingress_ended_is_told_failed(live: LiveCluster, server: httpx.Client) -> None:
    """All that can be seen of this is that nobody writes the job's record any more."""
    id = begun(server, "a", steps=1)["id"]
    until_over(server, id)
    path = live.home / "jobs" / f"{id}.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "status": "in_progress", "expires_at": None, "progress": 0.4}))
    assert seen(server, id)["status"] == "in_progress"
    then = time.time() - 60
    os.utime(path, (then, then))
    job = seen(server, id)
    assert (job["status"], job["progress"]) == ("failed", 0.4)
    assert job["error"]["message"] == "The ingress that worked on the job ended; send it again."


def test_a_result_is_kept_for_as_long_as_it_says(live: LiveCluster, server: httpx.Client) -> None:
    id = begun(server, "a", steps=1)["id"]
    until_over(server, id)
    path = live.home / "jobs" / f"{id}.json"
    assert json.loads(path.read_text())["expires_at"] - time.time() == pytest.approx(3600, abs=10)
    then = time.time() - 3601
    os.utime(path, (then, then))
    assert server.get(f"/v1/images/jobs/{id}").status_code == 404


# --------------------------------------------------------------------------------------------------- keys


@pytest.fixture(scope="module")
def ask(locked: LiveCluster) -> Iterator[Callable[..., httpx.Response]]:
    """Calls the cluster that asks for keys, with the key of that name."""
    (kept,) = (locked.home / "auth").iterdir()
    with locked.client(kept.read_text().strip()) as admin, httpx.Client(base_url=locked.url, timeout=30) as http:
        uids = [admin.launch_model("painting", model_uid=uid, step_seconds=0.2) for uid in ("first", "second")]
        made = {name: admin.create_key(name, ["infer"], ["first"])["key"] for name in ("ann", "bob")}

        def ask(key: str | None, method: str, path: str, body: Any = None) -> httpx.Response:
            headers = {"Authorization": f"Bearer {made[key]}"} if key else {}
            return http.request(method, path, headers=headers, json=body)

        yield ask
        for uid in uids:
            admin.terminate_model(uid)


@pytest.mark.slow
def test_a_job_is_its_makers_alone(ask: Callable[..., httpx.Response]) -> None:
    asked = {"prompt": "a", "steps": 3, "background": True}
    assert ask(None, "POST", "/v1/images/generations", asked).status_code == 401
    id = ask("ann", "POST", "/v1/images/generations", asked).json()["id"]
    for key, status in ((None, 401), ("bob", 404), ("ann", 200)):
        for path in (f"/v1/images/jobs/{id}",):
            assert ask(key, "GET", path).status_code == status
    assert ask("bob", "GET", f"/v1/images/jobs/{id}/result").status_code == 404
    assert ask("bob", "DELETE", f"/v1/images/jobs/{id}").status_code == 404
    assert [row["id"] for row in ask("ann", "GET", "/v1/images/jobs").json()["data"]] == [id]
    assert ask("bob", "GET", "/v1/images/jobs").json()["data"] == []
    until(lambda: ask("ann", "GET", f"/v1/images/jobs/{id}").json()["status"] == "completed", within=10)


@pytest.mark.slow
def test_a_key_draws_with_its_own_models_and_sees_no_others(ask: Callable[..., httpx.Response]) -> None:
    second = {"model": "second", "prompt": "a"}
    for path in ("/v1/images/generations", "/sdapi/v1/txt2img"):
        assert ask("ann", "POST", path, second).status_code == 403
        assert ask("ann", "POST", path, {"prompt": "a"}).status_code == 200
    assert [row["title"] for row in ask("ann", "GET", "/sdapi/v1/sd-models").json()] == ["first"]
    assert ask("ann", "POST", "/sdapi/v1/options", {"sd_model_checkpoint": "second"}).status_code == 400
    assert ask(None, "GET", "/v1/requests/any/progress").status_code == 401
    assert ask("ann", "POST", "/v1/models/second/requests/any/abort").status_code == 403


@pytest.mark.slow
def test_an_address_needs_no_key(ask: Callable[..., httpx.Response]) -> None:
    asked = {"prompt": "a", "response_format": "url"}
    url = ask("ann", "POST", "/v1/images/generations", asked).json()["data"][0]["url"]
    assert opened(httpx.get(url).content).size == (64, 64)
