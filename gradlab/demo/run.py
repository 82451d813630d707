"""``gradlab demo``: the whole server, and beside it a class that is simulated.

The server is the one of ``gradlab up``, with a state folder of its own and passwords as its login. What the environment
says of databases, logins, containers and networks is left aside, so that a demonstration beside a server with people's
work cannot touch that.
"""

from __future__ import annotations

import sys

from gradlab.errors import ServerError
from gradlab.gpu.simulator import build
from gradlab.hub.config import public_url
from gradlab.hub.processes import port_fault
from gradlab.server import serve
from gradlab.settings import Settings

__all__ = ["BANNER", "demo", "demo_settings"]

BANNER = "A demonstration: its learners and GPUs are simulated."
_FOLDER = "demo"
# Of the environment's settings, those that a demonstration has too: where it listens, what is taught, how it is judged.
_KEPT = (
    *("host", "port", "labs_dir", "checks_dir", "sandbox", "log_level"),
    *("learner_memory_mb", "learner_processes", "cull_minutes"),
    *("notebook_mb", "check_pool", "check_memory_mb", "check_processes", "check_scratch_mb", "check_output_kb"),
)


def demo_settings(settings: Settings) -> Settings:
    """A demonstration's own settings, given those of the environment. Its state is in a folder inside of theirs."""
    folder = settings.state_dir / _FOLDER
    kept = {name: getattr(settings, name) for name in _KEPT}
    return Settings(**kept, state_dir=folder, config_dir=folder / "config.d", login="passwords", banner=BANNER)


def demo(settings: Settings, *, learners: int, pace: float) -> int:
    """Run until told to stop, as ``serve`` does.

    SimulatorError if there is no compiler for the simulated driver, ServerError as ``serve`` has it.
    """
    build()
    own = demo_settings(settings)
    if fault := port_fault(own.host, own.port):  # most likely by the ordinary server
        raise ServerError(
            f"Port {own.port} of {own.host} cannot be used: {fault}. "
            f"Choose another one: PORT={own.port + 1} make demo (or set GRADLAB_PORT)."
        )
    for line in _announcement(own, learners):
        print(line, flush=True)
    crowd = (sys.executable, "-m", "gradlab.demo.crowd", "--learners", str(learners), "--pace", str(pace))
    return serve(own, portal=(sys.executable, "-m", "gradlab.demo.portal"), beside={"crowd": crowd})


def _announcement(settings: Settings, learners: int) -> list[str]:
    portal = f"{public_url(settings)}/services/portal"
    return [
        "",
        f"  {BANNER}",
        f"  {learners} of them log in once the server is ready. Log in as an instructor, with the password below:",
        f"  the class is at {portal}/class, the GPUs are at {portal}/gpus.",
        f"  Ctrl-C ends it. To begin anew, remove {settings.state_dir}.",
    ]
