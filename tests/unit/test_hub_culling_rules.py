"""Which servers are stopped, and who is warned before: the rules, by example and for everything."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gradlab.hub.culling import Decision, Server, decide
from tests.idleness import MINUTE, NOW, SETTINGS, activity
from tests.monitors import ADA, BOB


def server(*, gpu: bool = True, idle: float = 0.0, age: float = 600.0, container: str = ADA) -> Server:
    """Of Ada; ``idle`` and ``age`` in minutes."""
    return Server("ada/", "ada", gpu, container, NOW - age * MINUTE, NOW - idle * MINUTE)


def settled(found: Server, seen: dict[str, Any] | None, warned: float | None = None, **settings: Any) -> Decision:
    """The decision; ``warned`` in minutes before now."""
    at = None if warned is None else NOW - warned * MINUTE
    return decide(found, seen, NOW, SETTINGS.model_copy(update=settings), at)


# -- by example ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("idle", "action"), [(0, "keep"), (59.9, "keep"), (60, "cull"), (600, "cull")])
@pytest.mark.parametrize("seen", [None, activity(processes=0), activity(ok=False, processes=0)])
def test_without_a_gpu_idleness_is_all_that_counts(idle: float, action: str, seen: dict[str, Any] | None) -> None:
    found = settled(server(gpu=False, idle=idle), seen)
    assert (found.action, found.reason) == (action, f"It has not been used for {int(idle)} minutes.")


def test_zero_switches_each_rule_off() -> None:
    assert (
        settled(server(gpu=False, idle=600), None, cull_minutes=0).reason == "Servers are not stopped for want of use."
    )
    idle_gpu = activity(busy=50)
    assert settled(server(idle=50), idle_gpu, gpu_idle_minutes=0).action == "keep"
    assert settled(server(idle=61), activity(busy=61), gpu_idle_minutes=0).action == "cull"
    assert settled(server(idle=61), activity(busy=59), gpu_idle_minutes=0).action == "keep"
    assert settled(server(), idle_gpu, gpu_warn_minutes=0).action == "cull"


def test_an_idle_gpu_is_warned_of_then_taken() -> None:
    seen = activity(busy=21, held=0)
    assert settled(server(), seen) == Decision("warn", "Its GPU has not been used for 21 minutes.")
    kept = settled(server(), activity(busy=24), warned=3)
    assert kept == Decision("keep", "Its GPU has not been used for 24 minutes; the learner was warned 3 minutes ago.")
    assert settled(server(), activity(busy=26), warned=5).action == "cull"


@pytest.mark.parametrize(("busy", "action"), [(19.9, "keep"), (20, "warn")])
def test_a_gpu_is_idle_from_the_minute_on_that_is_set(busy: float, action: str) -> None:
    assert settled(server(), activity(busy=busy)).action == action


@pytest.mark.parametrize(("idle", "said"), [(-5, "0 minutes"), (0.9, "0 minutes"), (1.9, "1 minute"), (2, "2 minutes")])
def test_minutes_are_counted_whole_and_never_below_none(idle: float, said: str) -> None:
    assert settled(server(gpu=False, idle=idle), None).reason == f"It has not been used for {said}."


def test_an_open_tab_keeps_no_gpu() -> None:
    """The Hub hears of it every few seconds, and calls that activity."""
    assert settled(server(idle=0), activity(busy=30)).action == "warn"


@pytest.mark.parametrize(
    "sign", [{"busy": 2}, {"busy": 25, "computing": 2}, {"busy": 25, "held": 2, "measured": False}]
)
def test_whoever_computes_again_has_the_warning_withdrawn(sign: dict[str, Any]) -> None:
    found = settled(server(idle=25), activity(**sign), warned=4)
    assert (found.action, found.withdraw) == ("keep", True)


def test_what_was_done_after_a_warning_makes_the_next_one_a_new_one() -> None:
    """The culler may have been away for longer than the time after which a GPU counts as idle."""
    assert settled(server(), activity(busy=21), warned=40).action == "warn"


def test_a_busy_gpu_keeps_a_server_without_a_sign_of_its_kernel() -> None:
    assert settled(server(idle=600), activity(busy=1)).action == "keep"


def test_without_utilisation_whoever_holds_memory_may_be_busy() -> None:
    assert settled(server(idle=600), activity(held=0, measured=False)).action == "keep"
    assert settled(server(idle=600), activity(held=21, measured=False, processes=0)).action == "warn"


def test_where_processors_are_not_seen_the_hubs_word_counts() -> None:
    assert settled(server(idle=5), activity(busy=30, processors=False)).action == "keep"
    assert settled(server(idle=25), activity(busy=30, processors=False)).action == "warn"


def test_what_was_before_the_monitor_or_the_server_began_is_nobodys_idleness() -> None:
    assert settled(server(idle=600), activity(since=5)).action == "keep"
    assert settled(server(idle=600, age=5), activity()).action == "keep"
    assert settled(server(idle=600), {**activity(), "containers": {}}).action == "warn"


@pytest.mark.parametrize(
    ("found", "seen", "why"),
    [
        (server(idle=600), None, "the GPU monitor does not answer."),
        (server(idle=600), activity(ok=False), "the GPU monitor cannot tell its use. The driver hangs."),
        (server(idle=600, container=""), activity(), "which container it runs in is not known."),
        (server(idle=600), activity(processes=0, error="It is lost."), "a GPU cannot be asked. It is lost."),
        (server(idle=600, container=BOB), activity(error="It is lost."), "a GPU cannot be asked. It is lost."),
    ],
)
def test_what_nobody_can_tell_keeps_the_server(found: Server, seen: dict[str, Any] | None, why: str) -> None:
    for warned in (None, 600):
        assert settled(found, seen, warned) == Decision("keep", f"It holds a GPU, and {why}")


def test_another_gpus_fault_does_not_keep_who_is_seen_on_a_good_one() -> None:
    assert settled(server(idle=600), activity(error="It is lost.")).action == "warn"


def test_a_wish_for_a_gpu_is_none_where_none_are_given_out_but_a_process_on_one_is() -> None:
    assert settled(server(idle=600), None, gpus="none").action == "cull"
    assert settled(server(gpu=False, idle=600), activity(busy=1)).action == "keep"
    assert settled(server(gpu=False, idle=600), activity(busy=30)).action == "warn"


def test_a_short_patience_for_servers_comes_before_the_gpus() -> None:
    assert settled(server(idle=12), activity(busy=12), cull_minutes=10).action == "cull"
    assert settled(server(idle=25), activity(busy=25), cull_minutes=10).action == "warn"
    assert settled(server(idle=28), activity(busy=28), cull_minutes=10, warned=3).action == "keep"


# -- for everything --------------------------------------------------------------------------------------------------

minutes = st.floats(0, 200)
maybe = st.none() | minutes
limits = st.fixed_dictionaries(
    {name: st.integers(0, 90) for name in ("cull_minutes", "gpu_idle_minutes", "gpu_warn_minutes")}
)
servers = st.builds(server, gpu=st.booleans(), idle=minutes, age=minutes)
holders = st.builds(server, gpu=st.just(True), idle=minutes, age=minutes)


def answers(**given: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Whatever the monitor may say, but for what is given."""
    usual = dict.fromkeys(("busy", "held", "computing"), maybe) | dict.fromkeys(
        ("measured", "processors", "ok"), st.booleans()
    )
    usual |= {"processes": st.integers(0, 3), "since": minutes, "error": st.sampled_from(["", "It is lost."])}
    return st.builds(activity, **usual | given)


useful = answers(ok=st.just(True))
silent = st.none() | answers(ok=st.just(False))

# A GPU that has been idle for longer than any of the limits, and nothing that could be in doubt.
longer = st.floats(91, 200)
idlers = st.builds(server, gpu=st.just(True), idle=longer, age=longer)
idle = answers(
    **dict.fromkeys(("busy", "held", "computing"), st.none() | longer),
    since=longer,
    ok=st.just(True),
    error=st.just(""),
)
strict = st.fixed_dictionaries(
    {"cull_minutes": st.integers(0, 90), "gpu_idle_minutes": st.integers(1, 90), "gpu_warn_minutes": st.integers(0, 90)}
)


@given(holders, silent, maybe, limits)
def test_while_the_monitor_is_silent_no_holder_of_a_gpu_is_stopped_or_warned(
    found: Server, seen: dict[str, Any] | None, warned: float | None, settings: dict[str, int]
) -> None:
    assert settled(found, seen, warned, **settings).action == "keep"


@given(servers, useful, maybe, limits)
def test_a_gpu_that_is_busy_is_never_taken(
    found: Server, seen: dict[str, Any], warned: float | None, settings: dict[str, int]
) -> None:
    assume(found.gpu or seen["containers"][ADA]["processes"])
    patience = min([minutes for name in ("cull_minutes", "gpu_idle_minutes") if (minutes := settings[name])], default=1)
    seen["containers"][ADA]["busy_at"] = NOW - 0.99 * patience * MINUTE
    assert settled(found, seen, warned, **settings).action == "keep"


@given(idlers, idle, st.floats(0, 90), strict)
def test_after_a_warning_its_whole_time_passes_before_the_stop(
    found: Server, seen: dict[str, Any], warned: float, settings: dict[str, int]
) -> None:
    assume(abs(warned - settings["gpu_warn_minutes"]) > 1e-6)
    expected = "cull" if warned > settings["gpu_warn_minutes"] else "keep"
    assert settled(found, seen, warned, **settings).action == expected


@given(idlers, idle, strict)
def test_nobody_loses_an_idle_gpu_without_a_warning(
    found: Server, seen: dict[str, Any], settings: dict[str, int]
) -> None:
    expected = "warn" if settings["gpu_warn_minutes"] else "cull"
    assert settled(found, seen, None, **settings).action == expected


@given(idlers, idle, maybe, strict)
def test_a_warning_is_given_once(
    found: Server, seen: dict[str, Any], warned: float | None, settings: dict[str, int]
) -> None:
    assume(settled(found, seen, warned, **settings).action == "warn")
    assert settled(found, seen, 0.0, **settings).action == "keep"


@given(servers, st.none() | answers(), maybe)
def test_with_everything_off_nothing_happens(found: Server, seen: dict[str, Any] | None, warned: float | None) -> None:
    assert settled(found, seen, warned, cull_minutes=0, gpu_idle_minutes=0).action == "keep"
