"""Sign-up, on a real server: who gets in, as whom, in which group, and what the others are told."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from gradlab.hub.environment import settings_environment
from tests.servers import Person, RunningServer, browser, fill_in, login_error, serving, who

# All of them in one process (--dist loadgroup), or each would start servers of its own.
pytestmark = [pytest.mark.hub, pytest.mark.xdist_group("logins")]

PASSWORD = "correct horse battery"
QUICK = "c.SignUpAuthenticator.rounds = 4"  # else a quarter of a second of processor time each password
OTHERS = "c.JupyterHub.template_paths = ['/nonexistent']"  # what an operator sets takes no page of ours away


def sign_up(client: httpx.Client, name: str, code: str, password: str = PASSWORD, again: str = "") -> httpx.Response:
    values = {"username": name, "password": password, "again": again or password, "code": code}
    return fill_in(client, "/hub/signup", **values)


# -- sign-up with a class code -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classroom(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    yield from serving(
        tmp_path_factory.mktemp("signup"), f"{QUICK}\n{OTHERS}", login="signup", instructors="grace, Alan"
    )


def test_the_class_code_makes_a_learner_who_can_come_back(classroom: RunningServer) -> None:
    client = browser(classroom)
    answer = sign_up(client, " Ada ", f" {classroom.learner_password.upper()} ")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/services/portal/")
    assert (who(client, "ada")["groups"], who(client, "ada")["admin"]) == (["learners"], False)
    assert client.get("/services/portal/").status_code == 200
    assert 'href="/hub/signup?next=' in browser(classroom).get("/hub/login").text
    again = classroom.log_in("ada", PASSWORD)
    assert who(again.client, "ada")["groups"] == ["learners"]


def test_the_instructors_code_makes_an_instructor_and_nobody_an_administrator(classroom: RunningServer) -> None:
    client = browser(classroom)
    assert sign_up(client, "grace", classroom.instructor_password).status_code == 302
    assert (who(client, "grace")["groups"], who(client, "grace")["admin"]) == (["instructors"], False)
    assert client.get("/hub/admin").status_code == 403
    assert who(classroom.log_in("grace", PASSWORD).client, "grace")["groups"] == ["instructors"]


def test_what_is_wrong_with_a_sign_up_is_said_and_what_was_typed_is_kept(classroom: RunningServer) -> None:
    code, client = classroom.learner_password, browser(classroom)
    assert sign_up(browser(classroom), "taken", code).status_code == 302
    refused = {
        ("new", "wrong-code", PASSWORD, ""): (403, "This is not the class code. Your instructor has it."),
        ("new", "", PASSWORD, ""): (403, "This is not the class code. Your instructor has it."),
        ("a b", code, PASSWORD, ""): (400, "The name &#39;a b&#39; cannot be used. A name is 1 to 32 letters a-z"),
        ("ALAN", code, PASSWORD, ""): (
            403,
            "The name &#39;alan&#39; is kept for an instructor and needs the instructors",
        ),
        ("taken", code, PASSWORD, ""): (409, "The name &#39;taken&#39; is taken. If it is yours, sign in; else choose"),
        ("new", code, "short", ""): (400, "The password has 5 characters; it needs 10 or more."),
        ("new", code, "ü" * 37, ""): (400, "The password is longer than 72 bytes. Choose a shorter one."),
        ("new", code, "Basketball", ""): (400, "This password is one of the first that anybody would try."),
        ("new-name-of-mine", code, "new-name-of-mine", ""): (400, "one of the first that anybody would try"),
        ("new", code, code, ""): (400, "This is a code that others know as well. Choose a password of your own."),
        ("new", code, PASSWORD, "other horse battery"): (400, "The two passwords differ. Type the same one twice."),
    }
    for (name, typed, password, again), (status, says) in refused.items():
        answer = sign_up(client, name, typed, password, again)
        assert answer.status_code == status, (name, answer.status_code)
        assert says in login_error(answer)
        assert f'value="{name}"' in answer.text
        assert (f'value="{code}"' in answer.text) == (typed == code)
        assert password not in answer.text.replace(f'value="{name}"', "").replace(f'value="{code}"', "")
        assert 'role="alert"' in answer.text
        assert answer.text.count('aria-invalid="true"') == 1
    assert sign_up(client, "new", code).status_code == 302


def test_a_sign_up_form_without_its_token_is_refused(classroom: RunningServer) -> None:
    values = {"username": "forged", "password": PASSWORD, "again": PASSWORD, "code": classroom.learner_password}
    answer = browser(classroom).post("/hub/signup", data=values)
    assert answer.status_code == 403
    assert login_error(answer) == "Login form invalid or expired. Try again."
    assert 'value="forged"' in answer.text


def test_a_failed_login_does_not_tell_whether_the_name_exists(classroom: RunningServer) -> None:
    assert sign_up(browser(classroom), "exists", classroom.learner_password).status_code == 302
    pages = []
    for name in ("exists", "exists-not", "../etc"):
        client, answer = classroom.post_login(name, "a wrong password")
        client.close()
        assert answer.status_code == 403
        form = answer.text.partition('id="login-main"')[2].partition("</form>")[0]
        pages.append(re.sub(r'value="[^"]*"', "", form))
    assert login_error(answer) == "Invalid username or password"
    assert len(set(pages)) == 1


def test_guessing_slows_down_and_locks_nobody_out_of_a_known_browser(classroom: RunningServer) -> None:
    mine = browser(classroom)
    assert sign_up(mine, "victim", classroom.learner_password).status_code == 302
    for name in ("victim", "exists-neither"):
        attacker = browser(classroom)
        answers = [fill_in(attacker, "/hub/login", username=name, password="a guess too many") for _ in range(12)]
        assert {answer.status_code for answer in answers} == {403, 429}
        assert re.fullmatch(
            r"Too many logins under this name failed. Wait \d+ s and try again.", login_error(answers[-1])
        )
    client, answer = classroom.post_login("victim", PASSWORD)  # right, in a new browser: it has to wait as well
    client.close()
    assert answer.status_code == 429
    mine.get("/hub/logout")
    assert fill_in(mine, "/hub/login", username="victim", password=PASSWORD).status_code == 302


def test_ones_own_password_can_be_changed_which_logs_out_everywhere_else(classroom: RunningServer) -> None:
    here, there = browser(classroom), browser(classroom)
    assert sign_up(here, "changes", classroom.learner_password).status_code == 302
    assert fill_in(there, "/hub/login", username="changes", password=PASSWORD).status_code == 302
    assert there.get("/hub/change-password").status_code == 200

    def change(old: str, new: str, again: str = "") -> httpx.Response:
        return fill_in(here, "/hub/change-password", old=old, password=new, again=again or new)

    assert login_error(change("not it at all", "battery staple")) == "The old password is wrong."
    assert "needs 10 or more" in login_error(change(PASSWORD, "short"))
    assert "The two passwords differ" in login_error(change(PASSWORD, "battery staple", "battery stable"))
    answer = change(PASSWORD, "battery staple")
    assert answer.status_code == 303
    assert "Your password is changed" in here.get(answer.headers["Location"]).text
    assert there.get("/hub/change-password").status_code == 302
    assert "/hub/login" in there.get("/hub/change-password").headers["Location"]
    client, answer = classroom.post_login("changes", PASSWORD)
    client.close()
    assert answer.status_code == 403
    assert who(classroom.log_in("changes", "battery staple").client, "changes")["groups"] == ["learners"]


def test_an_operator_gives_a_forgotten_password_anew(classroom: RunningServer) -> None:
    assert sign_up(browser(classroom), "forgets", classroom.learner_password).status_code == 302
    made = command(classroom, "password", "Forgets")
    assert "This is the new password of forgets" in made.stderr
    assert who(classroom.log_in("forgets", made.stdout.strip()).client, "forgets")["groups"] == ["learners"]


def test_wrong_codes_are_limited_for_each_address_and_in_all(classroom: RunningServer) -> None:
    """The last of these tests: from here on this address must wait."""
    client = browser(classroom)
    answers = [sign_up(client, "guesses", f"guess {number}") for number in range(12)]
    assert answers[0].status_code == 403
    assert answers[-1].status_code == 429
    assert re.match(r"Too many wrong codes were tried from your network. Wait \d+ s", login_error(answers[-1]))
    client.headers["X-Real-Ip"] = "203.0.113.9"  # whoever sends this is not believed
    assert sign_up(client, "guesses", classroom.learner_password).status_code == 429


def command(server: RunningServer, *words: str) -> subprocess.CompletedProcess[str]:
    """An operator's command, with the server's settings."""
    environment = os.environ | settings_environment(server.settings)
    argv = [sys.executable, "-m", "gradlab.cli", *words]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60)


# -- sign-up with approval ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def approving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    yield from serving(tmp_path_factory.mktemp("approval"), QUICK, login="approval", instructors="grace")


def test_an_instructor_approves_and_refuses_without_being_an_administrator(approving: RunningServer) -> None:
    teacher = browser(approving)
    assert "is not the instructors" in login_error(sign_up(teacher, "grace", "wrong"))
    assert "is kept for an instructor" in login_error(sign_up(teacher, "grace", ""))
    assert sign_up(teacher, "grace", approving.instructor_password).status_code == 302
    for name in ("ada", "eve"):
        answer = sign_up(browser(approving), name, "")
        assert answer.status_code == 200
        assert "An instructor has to approve your sign-up" in answer.text
        client, answer = approving.post_login(name, PASSWORD)
        client.close()
        assert (answer.status_code, "waits for an instructor" in login_error(answer)) == (403, True)
        client, answer = approving.post_login(name, "a wrong password")
        client.close()
        assert login_error(answer) == "Invalid username or password"
    assert re.findall(r'<th scope="row">(\w+)</th>', teacher.get("/hub/authorize").text) == ["ada", "eve"]
    assert "ada may log in now." in fill_in(teacher, "/hub/authorize", name="ada", decision="approve").text
    assert "eve was refused." in fill_in(teacher, "/hub/authorize", name="eve", decision="refuse").text
    assert "Nobody waits." in teacher.get("/hub/authorize").text
    ada = approving.log_in("ada", PASSWORD).client
    assert who(ada, "ada")["groups"] == ["learners"]
    assert "Sign-ups" in teacher.get("/hub/home", follow_redirects=True).text
    assert "Sign-ups" not in ada.get("/hub/home").text
    client, answer = approving.post_login("eve", PASSWORD)
    client.close()
    assert login_error(answer) == "Invalid username or password"
    assert who(teacher, "grace")["admin"] is False


def test_approval_is_for_instructors_their_own_browser_and_a_token_of_the_form(approving: RunningServer) -> None:
    teacher, learner = browser(approving), browser(approving)
    assert sign_up(teacher, "teaches", approving.instructor_password).status_code == 302
    assert sign_up(learner, "learns", "").status_code == 200
    fill_in(teacher, "/hub/authorize", name="learns", decision="approve")
    assert fill_in(learner, "/hub/login", username="learns", password=PASSWORD).status_code == 302
    assert sign_up(browser(approving), "waits", "").status_code == 200
    answer = learner.get("/hub/authorize")
    assert (answer.status_code, "Only instructors approve sign-ups." in answer.text) == (403, True)
    forged = fill_in(learner, "/hub/change-password", name="waits", decision="approve")
    assert forged.status_code == 403
    xsrf = next(cookie.value for cookie in learner.cookies.jar if cookie.name == "_xsrf")
    answer = learner.post("/hub/authorize", data={"_xsrf": xsrf, "name": "waits", "decision": "approve"})
    assert answer.status_code == 403
    assert teacher.post("/hub/authorize", data={"name": "waits", "decision": "approve"}).status_code == 403
    assert "waits" in teacher.get("/hub/authorize").text
    assert "It is approve or refuse." in fill_in(teacher, "/hub/authorize", name="waits", decision="x").text
    assert "gone does not wait any more." in fill_in(teacher, "/hub/authorize", name="gone", decision="approve").text
    nobody = browser(approving)
    assert "/hub/login" in nobody.get("/hub/authorize").headers["Location"]
    token = Person("teaches", teacher)
    teacher.get("/hub/home", follow_redirects=True)
    assert token.api("GET", "/hub/authorize", follow_redirects=False).status_code == 302  # tokens open no page
