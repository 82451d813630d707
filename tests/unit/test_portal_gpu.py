"""Opening a lab with a GPU: a server that runs without one has to end first, and only its owner says so."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gradlab.portal import pages
from tests.courses import write_course
from tests.pages import words
from tests.portals import PREFIX, Running, running_portal

WITH_GPU = "/hub/spawn?opt-lab=tensors&opt-gpu=yes&next=%2Fhub%2Fuser-redirect%2Flab%2Ftree%2F04_tensors.ipynb"
WITHOUT = "/hub/spawn?opt-lab=tensors&next=%2Fhub%2Fuser-redirect%2Flab%2Ftree%2F04_tensors.ipynb"


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("portal")
    with running_portal(folder, write_course(folder / "course").load(), gpus="exclusive") as running:
        yield running


@pytest.fixture
def noor(portal: Running) -> Iterator[httpx.Client]:
    """A browser of hers; no server of hers runs."""
    portal.hub.servers.clear()
    portal.hub.stopped.clear()
    portal.hub.stop_looks = 1
    with portal.browser("noor") as browser:
        yield browser


def xsrf_in(form: str) -> str:
    found = re.search(r'<input type="hidden" name="xsrf" value="([0-9a-f]{64})">', form)
    assert found is not None, form
    return found[1]


def test_without_a_server_the_link_leads_to_the_start_of_one_with_a_gpu(noor: httpx.Client) -> None:
    answer = noor.get("gpu/tensors")
    assert (answer.status_code, answer.headers["Location"]) == (302, WITH_GPU)


def test_a_server_that_has_a_gpu_stays_as_it_is(portal: Running, noor: httpx.Client) -> None:
    portal.hub.start_server("noor", gpu=True)
    answer = noor.get("gpu/tensors")
    assert (answer.status_code, answer.headers["Location"]) == (302, WITH_GPU)
    assert portal.hub.stopped == []


def test_a_server_without_one_is_restarted_once_its_owner_agrees(portal: Running, noor: httpx.Client) -> None:
    portal.hub.start_server("noor")
    portal.hub.start_server("mira")
    portal.hub.stop_looks = 3
    page = noor.get("gpu/tensors")
    assert page.status_code == 200
    assert "Your server runs without a GPU." in words(page.text)
    assert WITHOUT in page.text.replace("&amp;", "&")
    assert portal.hub.stopped == []
    answer = noor.post("gpu/tensors", data={"xsrf": xsrf_in(page.text)})
    assert (answer.status_code, answer.headers["Location"]) == (303, WITH_GPU)
    assert portal.hub.stopped == ["noor"]
    assert list(portal.hub.servers) == ["mira"]


def test_the_form_of_another_session_stops_nothing(portal: Running, noor: httpx.Client) -> None:
    for name in ("noor", "mira"):
        portal.hub.start_server(name)
    with portal.browser("mira") as mira:
        foreign = xsrf_in(mira.get("gpu/tensors").text)
    for form in ({}, {"xsrf": ""}, {"xsrf": "0" * 64}, {"xsrf": foreign}, {"xsrf": "ä"}):
        refused = noor.post("gpu/tensors", data=form)
        assert refused.status_code == 403
        assert "must carry its own XSRF token" in words(refused.text)
    assert portal.hub.stopped == []


def test_a_header_does_not_stand_for_the_form_s_own_token(portal: Running, noor: httpx.Client) -> None:
    portal.hub.start_server("noor")
    xsrf = xsrf_in(noor.get("gpu/tensors").text)
    assert noor.post("gpu/tensors", headers={"X-XSRF-Token": xsrf}).status_code == 403


def test_a_lab_there_is_none_of_is_said_by_name_and_stops_nothing(portal: Running, noor: httpx.Client) -> None:
    portal.hub.start_server("noor")
    xsrf = xsrf_in(noor.get("gpu/tensors").text)
    for answer in (noor.get("gpu/nowhere"), noor.post("gpu/nowhere", data={"xsrf": xsrf})):
        assert answer.status_code == 404
        assert "There is no lab 'nowhere'. The labs page lists all of them." in words(answer.text)
    assert portal.hub.stopped == []


def test_a_server_that_does_not_end_in_time_is_a_sentence(
    portal: Running, noor: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_STOP_SECONDS", 0.5)
    portal.hub.start_server("noor")
    portal.hub.stop_looks = math.inf
    answer = noor.post("gpu/tensors", data={"xsrf": xsrf_in(noor.get("gpu/tensors").text)})
    assert answer.status_code == 503
    assert "Your server has not ended within 0.5 s. Wait a moment, then open the lab" in words(answer.text)
    assert f'href="{PREFIX}"' in answer.text


def test_where_no_gpus_are_given_out_no_server_is_ended_for_one(tmp_path: Path) -> None:
    with running_portal(tmp_path, write_course(tmp_path / "course").load()) as running:
        running.hub.start_server("noor")
        with running.browser("noor") as browser:
            token = re.search(r'data-xsrf="([0-9a-f]{64})"', browser.get("").text)
            assert token is not None
            for answer in (browser.get("gpu/tensors"), browser.post("gpu/tensors", data={"xsrf": token[1]})):
                assert answer.status_code == 404
                assert "This server gives out no GPUs. Open the lab without one" in words(answer.text)
        assert running.hub.stopped == []
