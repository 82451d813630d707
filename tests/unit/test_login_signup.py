"""Sign-up without a server: limits that would take long, and what an operator does on the hub's database."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from jupyterhub import orm
from nativeauthenticator.orm import UserInfo
from tornado.web import HTTPError

from gradlab.cli import main
from gradlab.errors import AccountError, SettingsError
from gradlab.hub.login.accounts import release, reset_password
from gradlab.hub.login.bound import keep_for, new_name
from gradlab.hub.login.forms import Refused, SignUp
from gradlab.hub.login.passwords import ClassroomAuthenticator
from gradlab.hub.login.signup import MOST_WAITING, SignUpAuthenticator
from gradlab.settings import Settings
from tests.logins import CREDENTIALS, Handler, configured, database

PASSWORD = "correct horse battery"


def signup(login: str = "signup", **settings: Any) -> Any:
    config = configured(login=login, **settings)
    config.SignUpAuthenticator.rounds = 4
    return SignUpAuthenticator(config=config, _deprecated_db_session=database())


def apply(login: Any, name: str, code: str, address: str = "203.0.113.9") -> list[str] | str:
    """Sign up; the groups, or what is wrong."""
    handler = Handler(login.db, headers={"X-Forwarded-For": address})
    try:
        groups: list[str] = asyncio.run(login.sign_up(handler, SignUp(name, PASSWORD, PASSWORD, code)))
    except Refused as refused:
        return refused.message
    return groups


def log_in(login: Any, name: str, password: str, handler: Handler | None = None) -> Any:
    return asyncio.run(login.authenticate(handler or Handler(login.db), {"username": name, "password": password}))


def test_wrong_codes_close_the_sign_up_for_a_while_wherever_they_come_from() -> None:
    login = signup()
    said = [apply(login, "ada", "wrong", f"198.51.100.{number}") for number in range(110)]
    assert said[0] == "This is not the class code. Your instructor has it."
    assert str(said[-1]).startswith("Too many wrong codes were tried on this server. Wait ")
    assert str(apply(login, "ada", CREDENTIALS.learner_password)).startswith("Too many wrong codes")


def test_right_codes_do_not_count() -> None:
    login = signup()
    assert [apply(login, f"ada-{number}", "Class-Code") for number in range(30)] == [["learners"]] * 30


def test_one_address_that_must_wait_does_not_use_up_the_tries_of_all() -> None:
    login = signup()
    for _ in range(150):
        apply(login, "ada", "wrong")
    assert apply(login, "ada", "class-code", "198.51.100.7") == ["learners"]


def test_who_waits_for_approval_is_bounded() -> None:
    login = signup("approval")
    login.db.add_all(UserInfo(username=f"spam-{n}", password=b"x", is_authorized=False) for n in range(MOST_WAITING))
    login.db.commit()
    assert apply(login, "ada", "") == ("200 people wait for approval already. Ask an instructor to look at them first.")
    assert apply(login, "grace", "instructors-code") == ["instructors"]
    assert str(apply(login, "ada", "class-code")).startswith("This is not the instructors' code. Learners leave")


def test_a_name_of_an_earlier_login_is_taken() -> None:
    login = signup()
    login.db.add(orm.User(name="trial"))
    login.db.commit()
    assert apply(login, "trial", "class-code") == (
        "The name 'trial' is taken. If it is yours, sign in; else choose another one."
    )


def test_a_group_is_what_the_hub_has_whatever_the_settings_say_later() -> None:
    login = signup()
    assert apply(login, "ada", "class-code") == ["learners"]
    login.reserved = {"ada"}
    assert log_in(login, "Ada ", PASSWORD) == {"name": "ada", "groups": ["learners"]}
    user = orm.User(name="ada")
    user.groups.append(orm.Group(name="instructors"))
    login.db.add(user)
    login.db.commit()
    assert log_in(login, "ada", PASSWORD)["groups"] == ["instructors"]


def test_a_known_browser_is_one_that_logged_in_under_this_name() -> None:
    login = signup()
    for name in ("ada", "eve"):
        apply(login, name, "class-code")
    mine, hers = Handler(login.db), Handler(login.db)
    assert log_in(login, "ada", PASSWORD, mine)
    assert log_in(login, "eve", PASSWORD, hers)
    for _ in range(10):
        assert log_in(login, "ada", "wrong", hers) is None
    with pytest.raises(HTTPError, match=r"Too many logins under this name failed\. Wait 1"):
        log_in(login, "ada", PASSWORD, hers)
    assert log_in(login, "ada", PASSWORD, mine)
    for _ in range(10):
        assert log_in(login, "ada", "wrong", mine) is None
    with pytest.raises(HTTPError, match="Too many logins under this name failed"):
        log_in(login, "ada", PASSWORD, mine)


def test_what_bcrypt_does_not_look_at_opens_nothing() -> None:
    login = signup()
    long = "x" * 71 + "y"
    login.db.add(UserInfo(username="ada", password=asyncio.run(login.hashed(long)), is_authorized=True))
    login.db.commit()
    assert log_in(login, "ada", long)
    assert log_in(login, "ada", long + "z") is None


def test_guessing_the_old_password_is_slowed_down() -> None:
    login = signup()
    for _ in range(10):
        login.slow_down("ada")
    with pytest.raises(Refused) as caught:
        login.slow_down("ada")
    assert caught.value.message.startswith("Too many wrong passwords. Wait ")
    login.speed_up("ada")
    login.slow_down("ada")


def test_a_name_of_the_list_needs_the_instructors_password_in_a_trial_too() -> None:
    login = ClassroomAuthenticator(config=configured(login="passwords", instructors="Grace"))
    assert log_in_trial(login, "grace", "instructors-code")["groups"] == ["instructors"]
    with pytest.raises(HTTPError, match="'grace' belongs to an instructor and needs the instructors' password"):
        log_in_trial(login, "grace", "class-code")


def test_a_learners_name_never_becomes_an_instructors() -> None:
    login, db = ClassroomAuthenticator(config=configured(login="passwords")), database()
    user = orm.User(name="ada")
    user.groups.append(orm.Group(name="learners"))
    db.add(user)
    db.commit()
    with pytest.raises(HTTPError) as caught:
        log_in(login, "ada", "instructors-code", Handler(db))
    assert (caught.value.status_code, caught.value.log_message) == (
        403,
        "The name 'ada' belongs to a learner, and a learner's name never becomes an instructor's. Log in under a name "
        "of your own, for example 'ada-teaches'.",
    )


def log_in_trial(login: Any, name: str, password: str) -> Any:
    return asyncio.run(login.authenticate(Handler(database()), {"username": name, "password": password}))


# -- what an operator does ---------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path) -> Any:
    """The hub's database in a state folder, with a user of an earlier login."""
    db = orm.new_session_factory(f"sqlite:///{tmp_path}/jupyterhub.sqlite")()
    db.add(orm.User(name="ada"))
    db.commit()
    yield db
    db.close()
    db.get_bind().dispose()


def test_a_new_password_replaces_the_old_one_under_the_running_hub(hub: Any, tmp_path: Path) -> None:
    settings = Settings(login="signup", state_dir=tmp_path)
    login = SignUpAuthenticator(config=configured(login="signup"), _deprecated_db_session=hub)
    assert log_in(login, "ada", PASSWORD) is None
    first = reset_password(settings, "ada")
    assert log_in(login, "ada", first)
    held = login.account("ada")  # the hub's session has seen it
    second = reset_password(settings, "ada")
    assert log_in(login, "ada", first) is None
    assert log_in(login, "ada", second)
    assert held is not None


def test_a_released_name_goes_to_the_next_account(hub: Any, tmp_path: Path) -> None:
    with pytest.raises(HTTPError, match="The name 'ada' belongs to another account here"):
        new_name(hub, "Ada")
    release(Settings(login="lti", state_dir=tmp_path), "ada")
    assert new_name(hub, "Ada") == "ada"
    orm.User.find(hub, "ada").user_info = keep_for("somebody")
    hub.commit()
    with pytest.raises(HTTPError, match="`gradlab release ada`"):
        new_name(hub, "Ada")


@pytest.mark.parametrize("claim", ["a/b", "a\x00b", "a\u202eb", " "])
def test_what_no_name_can_be_made_of_is_refused(hub: Any, claim: str) -> None:
    with pytest.raises(HTTPError, match="cannot be a name here: it has a slash or a character that cannot be seen"):
        new_name(hub, claim)


def test_the_commands_of_an_operator_print_data(
    hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRADLAB_STATE_DIR", str(tmp_path))

    def run(*words: str, login: str) -> tuple[object, str, str]:
        monkeypatch.setenv("GRADLAB_LOGIN", login)
        monkeypatch.setattr("sys.argv", ["gradlab", *words])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, *capsys.readouterr()

    code, out, err = run("password", "Ada", "--json", login="signup")
    made = json.loads(out)
    assert (code, made["name"]) == (0, "ada")
    assert bcrypt.checkpw(made["password"].encode(), hub.query(UserInfo).filter_by(username="ada").one().password)
    assert err == "This is the new password of ada; have them change it (/hub/change-password).\n"
    assert run("release", "Ada", login="lti")[1] == "ada belongs to the next account that logs in with this name.\n"
    assert json.loads(run("release", "ada", "--json", login="lti")[1]) == {"name": "ada", "released": True}
    assert run("release", "eve", login="lti")[::2] == (
        2,
        "There is no name 'eve' here. It is the one on the class page, such as 'ada'.\n",
    )


def test_an_operator_is_told_what_cannot_be_done(hub: Any, tmp_path: Path) -> None:
    signup, lti = Settings(login="signup", state_dir=tmp_path), Settings(login="lti", state_dir=tmp_path)
    for act, settings, error, says in [
        (
            reset_password,
            lti,
            SettingsError,
            "GRADLAB_LOGIN=lti has no passwords of people's own, so 'eve' has none to",
        ),
        (release, signup, SettingsError, "GRADLAB_LOGIN=signup binds no name to an account elsewhere, so 'eve' cannot"),
        (reset_password, signup, AccountError, "There is no name 'eve' here. It is the one on the class page"),
        (release, lti, AccountError, "There is no name 'eve' here. It is the one on the class page"),
    ]:
        with pytest.raises(error) as caught:
            act(settings, "eve")  # type: ignore[operator]
        assert str(caught.value).startswith(says)
    empty = tmp_path / "empty"
    with pytest.raises(AccountError, match=r"jupyterhub.sqlite is not there, so nobody has logged in yet. Start the"):
        reset_password(signup.model_copy(update={"state_dir": empty}), "ada")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "jupyterhub.sqlite").write_text("no database at all, but a text that is long enough")
    with pytest.raises(AccountError, match=r"The hub's database cannot be opened: .*file is not a database"):
        release(lti.model_copy(update={"state_dir": tmp_path / "other"}), "ada")
