"""A kernel for checks: plain Python in one namespace, and of a Jupyter kernel only what a notebook takes that is run.

IPython is made for people at a keyboard: a notebook in which nobody types uses nothing of what serves only them, and
every kernel would start later for it.
"""

from __future__ import annotations
import __future__

import functools
import linecache
import logging
import operator
import platform
import sys
import types
from traceback import TracebackException
from typing import Any

from ipykernel import kernel_protocol_version
from ipykernel.iostream import OutStream
from ipykernel.kernelapp import IPKernelApp
from ipykernel.kernelbase import Kernel
from traitlets import Any as Anything

from labkit.table import legible

__all__ = ["Application", "Interpreter"]

_FUTURES = functools.reduce(
    operator.or_, (getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
)


class Interpreter(Kernel):  # type: ignore[misc]
    """Runs each cell with ``exec``; a name that is left at its end is not shown."""

    implementation = "gradlab-judge"
    implementation_version = "1"
    banner = "Gradlab's judge"
    language_info = {  # noqa: RUF012  (so in the base class)
        "name": "python",
        "version": platform.python_version(),
        "mimetype": "text/x-python",
        "file_extension": ".py",
    }
    # The application gives these to every kernel.
    user_ns = Anything()
    debugpy_stream = Anything()
    # A nap after each cell, in which output might arrive that a person waits for.
    _execute_sleep = 0.0

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        # Dataclasses, pickle and others look a class's module up by its name.
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        self._names = main.__dict__
        self._futures = 0  # what the cells so far have imported from __future__ holds for those that come

    @property
    def kernel_info(self) -> dict[str, Any]:
        # Not the base class's, which loads a debugger to promise it.
        return {
            "protocol_version": kernel_protocol_version,
            "implementation": self.implementation,
            "implementation_version": self.implementation_version,
            "language_info": self.language_info,
            "banner": self.banner,
            "help_links": [],
            "supported_features": [],
        }

    def set_parent(self, ident: Any, parent: dict[str, Any], channel: str = "shell") -> None:
        super().set_parent(ident, parent, channel)
        for stream in (sys.stdout, sys.stderr):  # what is printed belongs to the cell
            if channel == "shell" and isinstance(stream, OutStream):
                stream.set_parent(parent)

    async def do_execute(self, code: str, silent: bool, *_options: Any, **_more: Any) -> dict[str, Any]:
        try:
            self.run(code)
        except BaseException as error:
            content = _described(error)
            # What was printed before the error is read before it.
            sys.stdout.flush()
            sys.stderr.flush()
            if not silent:
                self.send_response(self.iopub_socket, "error", content)
            return {"status": "error", "execution_count": self.execution_count, **content}
        return {"status": "ok", "execution_count": self.execution_count, "payload": [], "user_expressions": {}}

    def run(self, code: str) -> None:
        """Run a cell; whatever it raises, this raises."""
        name = f"<cell {self.execution_count}>"
        # So that a traceback shows the lines.
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        compiled = compile(code, name, "exec", self._futures, dont_inherit=True)
        self._futures |= compiled.co_flags & _FUTURES
        exec(compiled, self._names)


def _described(error: BaseException) -> dict[str, Any]:
    """What Jupyter calls an error's content; the traceback begins in the cell."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    told = TracebackException(type(error), error, frames)  # an exception's own text may raise another
    lines = legible("".join(told.format())).splitlines()
    return {"ename": type(error).__name__, "evalue": legible(str(told)), "traceback": lines}


class Application(IPKernelApp):  # type: ignore[misc]
    """A kernel at a connection file, without what nobody asks it for: subshells, a heartbeat, a profile with history
    and start-up files, a command line."""

    def __init__(self, connection_file: str) -> None:
        log = logging.getLogger(__name__)
        log.addHandler(logging.StreamHandler(sys.__stderr__))  # else they would be outputs of a cell
        super().__init__(
            connection_file=connection_file,
            kernel_class=Interpreter,
            outstream_class="checker.stream.Stream",
            # Threads of their own for what is printed by other means than Python's: that goes to the server's output.
            capture_fd_output=False,
            log=log,
        )

    def parse_command_line(self, argv: Any = None) -> None:
        pass

    def init_profile_dir(self) -> None:
        self.profile_dir = None

    def init_config_files(self) -> None:
        pass

    def load_config_file(self, *_options: Any) -> None:
        pass

    def log_connection_info(self) -> None:
        pass

    def init_poller(self) -> None:
        pass  # whoever started it sees to its end: the fork server, or checker.kernel

    def init_heartbeat(self) -> None:
        pass

    def init_control(self, context: Any) -> None:
        super().init_control(context)
        self.shell_channel_thread = None  # each message would change threads twice on its way to the cell
