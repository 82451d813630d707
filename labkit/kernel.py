"""An IPython kernel in a forked process: there at once, with torch loaded.

A fork server calls :func:`load` once; its children call :func:`forked`, which does what
``python -m ipykernel_launcher -f CONNECTION_FILE`` does. :class:`labkit.provisioner.ForkProvisioner` asks for them.
"""

from __future__ import annotations

import functools
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from labkit.rehearsal import load_what_it_loads

__all__ = ["complete_once", "forked", "load", "take_over"]

# How a kernel spec names an extension of IPython; the one for learners has labkit.
_EXTENSION = "--IPKernelApp.extra_extensions="


def load() -> None:
    """Import all that a kernel imports before it answers its first cell, without starting one here."""
    import ipykernel.kernelapp
    import ipykernel.zmqshell  # noqa: F401

    _application_class()
    load_what_it_loads(_rehearse)
    _list_files_of_modules()


def forked(request: dict[str, Any], _descriptors: list[int]) -> int:
    """Be the kernel that the request describes: ``argv`` of a kernel spec, ``environment``, ``cwd``."""
    import torch

    take_over(request)
    # The parent has one thread, so that it can be forked; a learner's kernel gets what torch takes by itself.
    threads = os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(int(threads) if threads.isdecimal() and int(threads) else len(os.sched_getaffinity(0)))
    _application().start()
    return 0


def complete_once(_request: dict[str, Any], _descriptors: list[int]) -> int:
    """Complete a word, as patiently as possible.

    The first completion ever in a home has jedi parse Python's own interfaces, which takes seconds; it keeps what it
    found there. So that is done before anybody presses the key.
    """
    import jedi

    os.nice(19)
    jedi.Interpreter("impor", [{}]).complete()
    return 0


def take_over(request: dict[str, Any]) -> None:
    """Make this process look like one that was started with the request's command line."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    argv: list[str] = request["argv"]
    sys.argv[:] = argv[argv.index("-m") + 1 :]
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def _application(**traits: Any) -> Any:
    """The IPython kernel for ``sys.argv``, all but serving: that is its ``start()``. ``traits`` are IPKernelApp's."""
    # Whose end a kernel watches for; ipykernel itself reads it from the environment when it is imported.
    app = _application_class().instance(parent_handle=os.getppid(), **traits)
    app.initialize()
    return app


@functools.cache
def _application_class() -> Any:
    from ipykernel import kernelapp
    from traitlets.config import Config

    # Configuration goes by the class's name.
    class IPKernelApp(kernelapp.IPKernelApp):  # type: ignore[misc]
        def parse_command_line(self, argv: Any = None) -> None:
            match sys.argv[1:]:
                # As nearly always: to make a parser for all there is takes longer than the sockets.
                case ["-f", path, *extensions] if all(one.startswith(_EXTENSION) for one in extensions):
                    names = [one.removeprefix(_EXTENSION) for one in extensions]
                    self.cli_config = Config(IPKernelApp={"connection_file": path, "extra_extensions": names})
                    self.update_config(self.cli_config)
                case _:
                    super().parse_command_line(argv)

    return IPKernelApp


def _list_files_of_modules() -> None:
    """A kernel asks every module for its file, for the debugger, and by that writes a count of references in each: some
    thousand pages that were shared become its own. Here all answers are put into one text, for it to ask.
    """
    from ipykernel import ipkernel

    files = [file for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))]
    ipkernel.sys = _System(_Modules("\0".join(files)))


class _Module:
    """What ipykernel asks a module for."""

    def __init__(self, file: str) -> None:
        self.__file__ = file


class _Modules:
    """What ipykernel asks ``sys.modules`` for."""

    def __init__(self, files: str) -> None:
        self._files = files

    def copy(self) -> _Modules:
        return self

    def values(self) -> Iterator[_Module]:
        return map(_Module, self._files.split("\0"))


class _System:
    """``sys`` with other ``modules``."""

    def __init__(self, modules: _Modules) -> None:
        self.modules = modules

    def __getattr__(self, name: str) -> Any:
        return getattr(sys, name)


def _rehearse() -> None:
    """Start a kernel in a folder of its own and run a cell in it, as far as that goes without a client."""
    with tempfile.TemporaryDirectory(prefix="gradlab-rehearsal-") as folder:
        os.environ |= {"IPYTHONDIR": folder, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
        sys.argv[1:] = ["--HistoryManager.enabled=False"]
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (this process ends at once)
        app = _application(transport="ipc", ip=f"{folder}/socket", connection_file=f"{folder}/connection.json")
        app.kernel.shell.run_cell("1 + 1; print(get_ipython()); 1 / 0")
        import IPython.core.guarded_eval
        import IPython.core.latex_symbols  # noqa: F401  (this and the next are what a completion loads)
        import jedi.inference.finder  # noqa: F401

        app.kernel.shell.object_inspect("print")
