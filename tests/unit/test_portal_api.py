"""The API that lab notebooks and the portal's own pages talk to."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from checker.results import Outcome
from labkit.client import Portal as Server
from tests.courses import write_course
from tests.portals import PREFIX, Running, running_portal
from tests.waiting import until


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("portal")
    course = write_course(folder / "course")
    exercises = course.hidden / "exercises.toml"
    exercises.write_text(exercises.read_text().replace('hints = ["Arithmetic is elementwise.", "Multiply by 2."]', ""))
    with running_portal(folder, course.load(), notebook_mb=1) as running:
        yield running


@pytest.fixture
def judge(portal: Running) -> Iterator[None]:
    """Whatever a test told the judge is forgotten afterwards."""
    yield
    portal.judge.outcomes.clear()
    portal.judge.messages.clear()
    portal.judge.hold.set()


def check(client: httpx.Client, portal: Running, only: str | None = None) -> int:
    query = {} if only is None else {"only": only}
    answer = client.post("api/labs/tensors/checks", params=query, content=portal.notebook())
    assert answer.status_code == 202, answer.text
    assert answer.json().keys() == {"id", "state"}
    assert answer.json()["state"] == "accepted"
    return int(answer.json()["id"])


def test_me_says_name_and_role(portal: Running) -> None:
    with portal.client("noor") as noor, portal.client("grace") as grace:
        assert noor.get("api/me").json() == {"name": "noor", "role": "learner"}
        assert grace.get("api/me").json() == {"name": "grace", "role": "instructor"}


def test_bearer_is_as_good_as_token(portal: Running) -> None:
    with portal.client() as client:
        answer = client.get("api/me", headers={"Authorization": f"Bearer {portal.hub.token('noor')}"})
    assert answer.json()["name"] == "noor"


@pytest.mark.usefixtures("judge")
def test_a_check_goes_from_the_notebook_to_a_verdict_with_answers_for_what_passed(portal: Running) -> None:
    portal.judge.outcomes["double"] = Outcome.FAILED
    portal.judge.messages["double"] = "It is not twice the input."
    with portal.client("ada") as ada:
        number = check(ada, portal)
        found = ada.get(f"api/submissions/{number}", params={"wait": 20}).json()
        assert (found["id"], found["lab"], found["only"], found["state"]) == (number, "tensors", None, "judged")
        assert found["accepted_at"] <= found["judged_at"]
        verdict = found["verdict"]
        assert (verdict["points"], verdict["max_points"], verdict["passed"]) == (2, 5, False)
        assert [result["outcome"] for result in verdict["results"]] == ["passed", "failed"]
        assert verdict["results"][1]["message"] == "It is not twice the input."
        assert verdict["results"][1]["checks"][0]["title"] == "shapes"
        assert found["answers"] == {
            "rank_of": {
                "title": "Rank",
                "answer": "The rank is the number of dimensions.",
                "follow_up": "What is the rank of a scalar?",
            }
        }
        [lab] = ada.get("api/labs").json()
    assert (lab["slug"], lab["points"], lab["max_points"]) == ("tensors", 2, 5)
    assert lab["exercises"][0] == {
        "name": "rank_of",
        "title": "Rank",
        "points": 2,
        "max_points": 2,
        "passed": True,
        "attempts": 1,
        "last_outcome": "passed",
    }
    assert lab["exercises"][1]["last_outcome"] == "failed"


def test_neither_the_seed_nor_the_executed_checker_leaves_the_server(portal: Running) -> None:
    with portal.client("ben") as ben, portal.client("grace") as grace:
        number = check(ben, portal, "rank_of")
        text = ben.get(f"api/submissions/{number}", params={"wait": 20}).text
        text += grace.get(f"api/submissions/{number}").text + grace.get("api/learners/ben/attempts").text
    assert "judged" in text
    assert "seed" not in text
    assert "hidden checks" not in text


def test_one_exercise_can_be_checked_alone(portal: Running) -> None:
    with portal.client("chidi") as chidi:
        number = check(chidi, portal, "double")
        found = chidi.get(f"api/submissions/{number}", params={"wait": 20}).json()
    assert found["only"] == "double"
    assert [result["exercise"] for result in found["verdict"]["results"]] == ["double"]


@pytest.mark.usefixtures("judge")
def test_waiting_ends_with_its_time_and_says_that_the_verdict_is_still_to_come(portal: Running) -> None:
    portal.judge.hold.clear()
    with portal.client("dana") as dana:
        number = check(dana, portal)
        found = dana.get(f"api/submissions/{number}", params={"wait": 0.2}).json()
        assert (found["state"], found["judged_at"], found["verdict"], found["answers"]) == ("accepted", None, None, {})


@pytest.mark.usefixtures("judge")
def test_a_waiting_request_hears_at_once_that_a_newer_check_took_its_place(portal: Running) -> None:
    portal.judge.hold.clear()

    async def scenario(url: str, token: str) -> tuple[str, float]:
        headers = {"Authorization": f"token {token}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=40) as client:
            numbers = []
            for _ in range(2):
                sent = await client.post("api/labs/tensors/checks", content=portal.notebook())
                numbers.append(sent.json()["id"])
            waiting = asyncio.create_task(client.get(f"api/submissions/{numbers[1]}", params={"wait": 30}))
            while portal.app.state.portal.live.listeners == 0:
                await asyncio.sleep(0.01)
            begun = time.monotonic()
            await client.post("api/labs/tensors/checks", content=portal.notebook())
            return (await waiting).json()["state"], time.monotonic() - begun

    state, seconds = asyncio.run(scenario(portal.url + PREFIX, portal.hub.token("emre")))
    assert state == "superseded"
    assert seconds < 15


@pytest.mark.usefixtures("judge")
def test_a_hundred_waiting_notebooks_keep_nobody_else_waiting(portal: Running) -> None:
    portal.judge.hold.clear()

    async def scenario(url: str, token: str) -> None:
        headers = {"Authorization": f"token {token}"}
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(
            base_url=url, headers=headers, trust_env=False, timeout=60, limits=limits
        ) as client:
            number = (await client.post("api/labs/tensors/checks", content=portal.notebook())).json()["id"]
            waiting = [
                asyncio.create_task(client.get(f"api/submissions/{number}", params={"wait": 50})) for _ in range(100)
            ]
            while portal.app.state.portal.live.listeners < 100:
                await asyncio.sleep(0.02)
            assert (await client.get("api/labs", timeout=20)).status_code == 200
            portal.judge.hold.set()
            states = {(await answer).json()["state"] for answer in waiting}
            assert states == {"judged"}

    asyncio.run(scenario(portal.url + PREFIX, portal.hub.token("fatima")))
    until(lambda: portal.app.state.portal.live.listeners == 0)


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("api/labs/nowhere/checks", None, 404, "There is no lab 'nowhere' on this server. It has: tensors."),
        ("api/labs/tensors/checks?only=nothing", None, 404, "Lab 'tensors' has no exercise 'nothing'."),
        (
            "api/labs/tensors/checks",
            b"not json",
            400,
            "The notebook is not valid JSON (Expecting value: line 1 column 1",
        ),
        ("api/labs/tensors/checks", b"", 400, "Save it again in JupyterLab, or take a fresh copy."),
    ],
)
def test_what_cannot_be_judged_is_refused_with_a_sentence(
    portal: Running, path: str, body: bytes | None, status: int, says: str
) -> None:
    with portal.client("gus") as gus:
        answer = gus.post(path, content=portal.notebook() if body is None else body)
    assert answer.status_code == status
    assert says in answer.json()["detail"]
    assert portal.store.attempts("gus") == []


def test_a_notebook_over_the_limit_is_a_413_that_names_size_and_limit(portal: Running) -> None:
    with portal.client("hana") as hana:
        announced = hana.post("api/labs/tensors/checks", content=b" " * (3 << 19))
        streamed = hana.post("api/labs/tensors/checks", content=(b" " * 65536 for _ in range(40)))
    assert (announced.status_code, streamed.status_code) == (413, 413)
    assert announced.json()["detail"] == (
        "The notebook is 1.5 MiB; this server takes at most 1 MiB. Clear its outputs "
        "(Edit, Clear Outputs of All Cells), save it and check again."
    )
    assert streamed.json()["detail"].startswith("The notebook is more than 1 MiB; this server takes at most 1 MiB.")
    assert portal.store.attempts("hana") == []


def test_a_body_far_over_the_limit_is_refused_before_it_is_read(portal: Running) -> None:
    head = (
        f"POST {PREFIX}api/labs/tensors/checks HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000000\r\n"
        f"Authorization: token {portal.hub.token('ines')}\r\n\r\n"
    )
    address = urlsplit(portal.url)
    with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
        connection.sendall(head.encode())
        answer = connection.recv(4096).decode()
    assert answer.startswith("HTTP/1.1 413")


def test_a_notebook_that_arrives_in_part_is_not_taken(portal: Running) -> None:
    notebook = portal.notebook()
    head = (
        f"POST {PREFIX}api/labs/tensors/checks HTTP/1.1\r\nHost: x\r\nContent-Length: {len(notebook) + 10}\r\n"
        f"Authorization: token {portal.hub.token('jonas')}\r\n\r\n"
    )
    address = urlsplit(portal.url)
    with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
        connection.sendall(head.encode() + notebook)
    with portal.client("jonas") as jonas:
        check(jonas, portal)
    assert len(portal.store.attempts("jonas")) == 1


def test_hints_open_one_after_the_other_and_the_last_one_stays(portal: Running) -> None:
    path = "api/labs/tensors/exercises/rank_of/hints"
    with portal.client("kenji") as kenji:
        assert kenji.get(path).json() == {"opened": [], "of": 2}
        first, second, third = (kenji.post(path).json() for _ in range(3))
        assert first == {"number": 1, "of": 2, "hint": "Count the dimensions."}
        assert second == third == {"number": 2, "of": 2, "hint": "Tensors have .ndim."}
        assert kenji.get(path).json() == {"opened": ["Count the dimensions.", "Tensors have .ndim."], "of": 2}
        for wrong in ("api/labs/nowhere/exercises/rank_of/hints", "api/labs/tensors/exercises/nothing/hints"):
            assert kenji.post(wrong).status_code == 404
        none = kenji.post("api/labs/tensors/exercises/double/hints")
    assert none.status_code == 404
    assert none.json()["detail"] == "There is no hint for 'double'. Read what the last check said about it."


def test_the_class_shows_learners_with_their_labs_and_no_instructors(portal: Running) -> None:
    with portal.client("leila") as leila, portal.client("grace") as grace:
        number = check(leila, portal)
        leila.get(f"api/submissions/{number}", params={"wait": 20})
        check(grace, portal)
        table = grace.get("api/class").json()
        assert table["labs"] == [{"slug": "tensors", "title": "Tensors", "max_points": 5}]
        rows = {row["name"]: row for row in table["learners"]}
        assert "grace" not in rows
        cell = rows["leila"]["labs"]["tensors"]
        assert (cell["points"], cell["max_points"], cell["passed"]) == (5, 5, 2)
        assert 0 <= time.time() - cell["last_at"] < 60
        assert 0 <= time.time() - rows["leila"]["last_seen"] < 60
        only = grace.get("api/class", params={"learner": "leila"}).json()["learners"]
        assert [row["name"] for row in only] == ["leila"]


def test_an_instructor_reads_a_learner_s_attempts_newest_first(portal: Running) -> None:
    with portal.client("mateo") as mateo, portal.client("grace") as grace:
        for only in ("rank_of", None):
            number = check(mateo, portal, only)
            mateo.get(f"api/submissions/{number}", params={"wait": 20})
        found = grace.get("api/learners/mateo/attempts").json()
    assert [attempt["only"] for attempt in found] == [None, "rank_of"]
    assert found[0]["verdict"]["points"] == 5


def test_the_gpu_panel_says_plainly_that_there_is_none(portal: Running) -> None:
    with portal.client("grace") as grace:
        found = grace.get("api/gpu").json()
    assert found == {
        "available": False,
        "message": "No NVIDIA driver is installed here.",
        "driver_version": None,
        "simulated": False,
        "devices": [],
    }


def test_notices_are_the_caller_s_own_as_long_as_they_hold(portal: Running) -> None:
    now = time.time()
    portal.store.notify("olga", "Your server holds a GPU.", key="gpu", until=now + 60, now=now)
    portal.store.notify("olga", "The exam begins at ten.", key="exam", until=now + 90, now=now + 1)
    portal.store.notify("olga", "Welcome.", key="hello", until=now, now=now - 60)
    with portal.client("olga") as olga, portal.client("pia") as pia:
        assert olga.get("api/notices").json() == [
            {"key": "gpu", "text": "Your server holds a GPU.", "at": now, "until": now + 60},
            {"key": "exam", "text": "The exam begins at ten.", "at": now + 1, "until": now + 90},
        ]
        assert pia.get("api/notices").json() == []
        portal.store.withdraw("olga", "gpu")
        assert [notice["key"] for notice in olga.get("api/notices").json()] == ["exam"]


def test_asking_for_notices_is_no_sign_of_life_and_no_work_for_the_hub(portal: Running) -> None:
    with portal.client("quinn") as quinn:
        before = portal.hub.user_requests
        quinn.get("api/notices")
        portal.hub.tokens.clear()  # what the Hub said is kept for minutes here, and for seconds everywhere else
        hub = portal.app.state.portal.hub
        for key, (at, model) in list(hub._known.items()):
            hub._known[key] = (at - 200, model)
        assert quinn.get("api/notices").status_code == 200
        assert portal.hub.user_requests == before + 1
        assert "quinn" not in [learner.name for learner in portal.store.learners()]
        assert quinn.get("api/me").status_code == 401
        assert quinn.get("api/notices").status_code == 401


def delivery(**changes: str) -> dict[str, str]:
    return {"lab": "tensors", "version": "0123456789ab", "filename": "04_tensors.ipynb"} | changes


def test_what_was_delivered_is_recorded_by_whose_server_says_so(portal: Running) -> None:
    told = [delivery(), delivery(version="ba9876543210", filename="04_tensors_2.ipynb"), delivery(lab="gone")]
    Server(portal.url + PREFIX, portal.hub.token("rosa")).delivered(told)
    with portal.client("rosa") as rosa:
        [lab] = rosa.get("api/labs").json()
    assert (lab["filename"], lab["newer_filename"]) == ("04_tensors.ipynb", "04_tensors_2.ipynb")
    assert portal.store.deliveries("rosa") == {
        "tensors": [("0123456789ab", "04_tensors.ipynb"), ("ba9876543210", "04_tensors_2.ipynb")]
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"filename": "../04_tensors.ipynb"},
        {"filename": "04_tensors.py"},
        {"filename": f"{'x' * 101}.ipynb"},
        {"filename": "04_tensors.ipynb\n"},
        {"version": "0123456789AB"},
        {"version": "0123456789ab0"},
        {"lab": "x" * 65},
    ],
)
def test_of_deliveries_one_of_which_is_malformed_none_is_recorded(portal: Running, wrong: dict[str, str]) -> None:
    with portal.client("sven") as sven:
        answer = sven.post("api/deliveries", json=[delivery(), delivery(**wrong)])
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(f"1 {next(iter(wrong))}=")
    assert portal.store.deliveries("sven") == {}


def test_more_deliveries_than_a_home_has_labs_are_refused(portal: Running) -> None:
    with portal.client("sven") as sven:
        answer = sven.post("api/deliveries", json=[delivery()] * 201)
    assert answer.status_code == 422


def test_malformed_parameters_are_named(portal: Running) -> None:
    with portal.client("noor") as noor:
        wait = noor.get("api/submissions/1", params={"wait": "soon"})
        number = noor.get("api/submissions/first")
        huge = noor.get(f"api/submissions/{10**30}")
    assert (wait.status_code, number.status_code, huge.status_code) == (422, 422, 404)
    assert wait.json()["detail"].startswith("wait='soon' is not usable:")
    assert number.json()["detail"].startswith("number='first' is not usable:")


def test_unknown_addresses_are_json_on_the_api_and_a_page_elsewhere(portal: Running) -> None:
    with portal.client("noor") as noor:
        assert noor.get("api/nowhere").json() == {"detail": f"There is nothing at {PREFIX}api/nowhere here."}
        page = noor.get("nowhere")
    assert page.status_code == 404
    assert page.headers["Content-Type"].startswith("text/html")
    assert f"There is nothing at {PREFIX}nowhere here." in page.text


def test_the_openapi_document_describes_every_answer_and_refusal(portal: Running) -> None:
    with portal.client() as nobody:
        document = json.loads(nobody.get("api/openapi.json").text)
    operations = {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert len(operations) == 19
    for (_, path), operation in operations.items():
        assert path.startswith(PREFIX)
        assert operation["summary"]
        assert operation["description"], path
        answers = operation["responses"]
        assert answers["401"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Problem"}
        assert answers["422"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Problem"}
        good = next(answers[status] for status in ("200", "202", "204") if status in answers)
        if "204" in answers:
            assert "content" not in good
        elif path == f"{PREFIX}metrics":
            assert "text/plain" in good["content"]
        elif not path.startswith(f"{PREFIX}events"):
            assert good["content"]["application/json"]["schema"] != {}, path
    places = tuple(f"{PREFIX}{place}" for place in ("api/", "events", "metrics"))
    assert not [path for path in document["paths"] if not path.startswith(places)]
