"""The containers of a hosted server, as Docker sees them: its services, learners' servers, and what nobody needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Network
from typing import Any

from gradlab.doctor.finding import Finding
from gradlab.hub.containers import INSTALLATION, ROLE
from gradlab.settings import Settings

__all__ = ["expected", "last_words", "leftovers", "servers", "service"]

_IMAGES = {
    "proxy": "gradlab-hub",
    "hub": "gradlab-hub",
    "portal": "gradlab-hub",
    "checker": "gradlab-checker",
    "gpu-monitor": "gradlab-hub",
}
_OF_PROFILES = ("postgres", "prometheus")
_PORT_TAKEN = ("port is already allocated", "address already in use")
_SHOWN = 200


def expected(settings: Settings) -> dict[str, str]:
    """The services that should run, each with the image that it is made from here, if it is."""
    on = settings.profiles.replace("metrics", "prometheus").split(",")
    return _IMAGES | {name: "" for name in _OF_PROFILES if name in on}


def service(role: str, found: dict[str, Any] | None, words: Callable[[], str], newest: str) -> Finding:
    """``found`` is Docker's inspection of its container, ``newest`` the id of the image it would be made from now."""
    if found is None:
        return Finding(role, "failed", "is not there", "Start it: docker compose up -d")
    state, logs = found["State"], f"See: docker compose logs {role}"
    if not state["Running"] or state["Restarting"]:
        return _not_running(role, state, found["RestartCount"], words)
    health = (state.get("Health") or {}).get("Status", "none")
    if health == "unhealthy":
        value = f"runs, and has not answered the last {state['Health']['FailingStreak']} times it was asked"
        return Finding(role, "failed", value, f"{logs}; then: docker compose restart {role}")
    if health == "starting":
        return Finding(role, "warning", "was started a moment ago", "Run `gradlab doctor` again in a minute.")
    if newest and found["Image"] != newest:
        remedy = "Take over the new one: docker compose up -d"
        return Finding(role, "warning", "runs, from an older image than the one that is here now", remedy)
    if found["RestartCount"]:
        value = f"runs, but ended {found['RestartCount']} times by itself and was started again"
        return Finding(role, "warning", value, logs)
    return Finding(role, "ok", "runs and is healthy" if health == "healthy" else "runs")


def _not_running(role: str, state: dict[str, Any], restarts: int, words: Callable[[], str]) -> Finding:
    error = state.get("Error", "")
    if any(text in error for text in _PORT_TAKEN):
        remedy = "End the program that has the port, or write another GRADLAB_PORT to .env; then: docker compose up -d"
        return Finding(role, "failed", f"could not be started: {error}", remedy)
    if error:
        return Finding(role, "failed", f"could not be started: {error}", "Mend that, then: docker compose up -d")
    if state.get("OOMKilled"):
        value = "was ended because the machine had no memory left for it"
        return Finding(role, "failed", value, "Lower the limits of learners in .env, then: docker compose up -d")
    again = f" again and again ({restarts} times)" if state["Restarting"] else ""
    said = words()
    value = f"ended{again} with exit status {state['ExitCode']}" + (f"; its last words: {said}" if said else "")
    return Finding(role, "failed", value, f"See: docker compose logs {role}; then: docker compose up -d")


def last_words(log: bytes) -> str:
    """The last line of a log, shortened."""
    lines = log.decode("utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip()[-_SHOWN:] if lines else ""


def servers(containers: Iterable[dict[str, Any]], newest: str) -> Finding:
    """Learners' servers that run now."""
    running = [one for one in containers if _role(one) == "server" and one["State"] == "running"]
    older = sum(bool(newest) and one["ImageID"] != newest for one in running)
    value = "none runs" if not running else f"{len(running)} {'runs' if len(running) == 1 else 'run'}"
    if older:
        value += f", {older} of them from an older image until they are started anew"
    return Finding("learners' servers", "ok", value)


def leftovers(
    containers: Iterable[dict[str, Any]], networks: Iterable[dict[str, Any]], settings: Settings, hub_runs: bool
) -> Finding:
    """Containers that have ended and networks out of the range: what a crash or a change of settings leaves."""
    ended = [
        one["Names"][0].lstrip("/")
        for one in containers
        if _role(one) in ("server", "check") and one["State"] in ("exited", "dead", "created")
    ]
    strays = [
        one["Name"]
        for one in networks
        if _ours(one, settings) and not _subnet(one).subnet_of(settings.learner_networks)
    ]
    orphans = [
        one["Names"][0].lstrip("/")
        for one in containers
        if _role(one) == "server" and one["State"] == "running" and not hub_runs
    ]
    found = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for what, names in (
            ("containers that have ended", ended),
            ("networks out of GRADLAB_LEARNER_NETWORKS", strays),
            ("learners' servers without a hub", orphans),
        )
        if names
    ]
    if found:
        remedy = (
            "The hub removes ended containers within five minutes. All else goes with `make down`, which ends "
            "learners' servers and keeps their files."
        )
        return Finding("leftovers", "warning", "; ".join(found), remedy)
    return Finding("leftovers", "ok", "none")


def _role(container: dict[str, Any]) -> str:
    return str((container.get("Labels") or {}).get(ROLE, ""))


def _ours(network: dict[str, Any], settings: Settings) -> bool:
    labels = network.get("Labels") or {}
    return labels.get(INSTALLATION) == settings.installation and labels.get(ROLE) == "learner"


def _subnet(network: dict[str, Any]) -> IPv4Network:
    return IPv4Network(network["IPAM"]["Config"][0]["Subnet"])
