"""Which file is this notebook, and is it what is on the screen?

The page that ran the cell knows both: our JupyterLab extension (labextensions/gradlab) sees the request id in the
check's own output, saves exactly the document that ran it, and answers with the file's path over a comm. The answer
arrives on a kernel subshell, so it comes while the cell is still running.

Without an answer (another front end, a server without the extension) the file is judged only if it contains
everything that was run; otherwise nothing is sent and the learner is told to save. What is on disk is never polled
while it is being saved: Jupyter writes it in place, and a reader then sees half a notebook.
"""

from __future__ import annotations

import ast
import functools
import json
import os
import re
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from labkit.errors import LabError

__all__ = ["Notebook", "Ran", "locate", "on_screen"]

_TARGET = "gradlab.saved"  # the comm target of labextensions/gradlab
_SILENCE = 3.0  # seconds after which no front end is going to answer
_PATIENCE = 20.0  # seconds for saving itself: a large notebook over a slow connection, or a question on the screen
_AGAIN = "Nothing was sent. Save with Ctrl+S, then run this cell again."


@dataclass(frozen=True)
class Notebook:
    """A notebook's file as read: its bytes, what they hold, and a remark for the learner (empty if there is none)."""

    path: Path
    data: bytes
    content: dict[str, Any]
    remark: str = ""

    @classmethod
    def read(cls, path: Path) -> Notebook:
        """LabError if there is no file or it is not a notebook."""
        try:
            data = path.read_bytes()
            content = json.loads(data)
        except OSError as error:
            raise LabError(f"The notebook {path} cannot be read: {error.strerror}. Nothing was sent.") from None
        except ValueError:
            content = None
        if not isinstance(content, dict) or not isinstance(content.get("cells"), list):
            raise LabError(f"{path} is not a notebook (.ipynb). Nothing was sent.")
        return cls(path, data, content)

    @property
    def lab(self) -> str:
        """The lab this notebook belongs to, from its metadata."""
        metadata = self.content.get("metadata")
        ours = metadata.get("gradlab") if isinstance(metadata, dict) else None
        lab = ours.get("lab") if isinstance(ours, dict) else None
        if not isinstance(lab, str) or not lab:
            raise LabError(
                f"{self.path.name} is not a lab notebook: its metadata names no lab. "
                "Open a lab from the portal's list and work in that notebook."
            )
        return lab

    def sources(self) -> list[str]:
        """The code cells, in order."""
        return [_source(cell) for cell in self.content["cells"] if _is_code(cell)]

    def answer_names(self) -> frozenset[str]:
        """Names that the exercise cells bind (all code cells, if none is marked as an exercise)."""
        cells = [cell for cell in self.content["cells"] if _is_code(cell)]
        marked = [cell for cell in cells if "exercise" in (cell.get("metadata") or {})]
        return frozenset().union(*(_bound(_source(cell)) for cell in marked or cells))

    def changed_since(self, ran: list[Ran]) -> list[str]:
        """Names of answers whose last run is not among the cells: edited or deleted since."""
        cells = {_same(source) for source in self.sources()}
        answers = self.answer_names()
        last: dict[str, Ran] = {}
        for cell in ran:
            last |= dict.fromkeys(_bound(cell.parsed) & answers, cell)
        return sorted(name for name, cell in last.items() if _same(cell.raw) not in cells)


@dataclass(frozen=True)
class Ran:
    """An input this kernel executed, as typed and as Python (magics translated)."""

    raw: str
    parsed: str

    @classmethod
    def history(cls, shell: Any) -> list[Ran]:
        """Everything run since the kernel started; the last one is running now."""
        past = shell.history_manager
        pairs = zip(past.input_hist_raw, past.input_hist_parsed, strict=False)
        return [cls(raw, parsed) for raw, parsed in pairs if raw]


class _Mailbox:
    """What the front end told us, by request. Filled from a subshell's thread while the cell's thread waits."""

    def __init__(self) -> None:
        self._told: dict[str, dict[str, Any]] = {}
        self._changed = threading.Condition()

    def opened(self, comm: Any, _message: Any) -> None:
        comm.on_msg(self.heard)

    def heard(self, message: Any) -> None:
        data = message["content"]["data"]
        with self._changed:
            self._told[str(data.get("request"))] = data
            self._changed.notify_all()

    def wait(self, request: str, states: tuple[str, ...], timeout: float) -> dict[str, Any] | None:
        """The first message about this request in one of the states; None after ``timeout`` seconds without."""

        def there() -> bool:
            return self._told.get(request, {}).get("state") in states

        with self._changed:
            return self._told[request] if self._changed.wait_for(there, timeout) else None


@functools.cache
def mailbox() -> _Mailbox:
    """This kernel's mailbox; the first call makes it the target of the front end's comms."""
    import comm

    box = _Mailbox()
    comm.get_comm_manager().register_target(_TARGET, box.opened)
    return box


def on_screen(shell: Any, request: str, *, silence: float = _SILENCE, patience: float = _PATIENCE) -> Notebook:
    """The notebook as the learner sees it, saved because the output with this request id was shown.

    LabError says why it could not be saved or found, and then nothing may be sent.
    """
    told = mailbox().wait(request, ("saving", "saved", "failed"), silence)
    if told is None:
        return _as_on_disk(shell)
    if told["state"] == "saving":
        told = mailbox().wait(request, ("saved", "failed"), patience)
    if told is None:
        raise LabError(
            f"JupyterLab has not finished saving this notebook. It may be asking you something: answer that. {_AGAIN}"
        )
    if told["state"] == "failed":
        raise LabError(f"JupyterLab could not save {told['path']}: {told['reason']}. {_AGAIN}")
    notebook = Notebook.read(_file(str(told["root"]), str(told["path"])))
    changed = notebook.changed_since(Ran.history(shell))
    return replace(notebook, remark=_changed_remark(changed))


def _as_on_disk(shell: Any) -> Notebook:
    notebook = Notebook.read(locate(shell))
    ran = Ran.history(shell)
    older = "" if not ran or _same(ran[-1].raw) in map(_same, notebook.sources()) else "the cell that runs now"
    older = ", ".join(notebook.changed_since(ran)) or older
    if older:
        name = notebook.path.name
        raise LabError(f"{name} on disk is not what you ran ({older}), and JupyterLab did not save it. {_AGAIN}")
    at = time.strftime("%H:%M:%S", time.localtime(notebook.path.stat().st_mtime))
    return replace(notebook, remark=f"JupyterLab did not answer, so the file was judged as it was saved at {at}.")


def locate(shell: Any) -> Path:
    """The file of the notebook this kernel belongs to, also after it was renamed; LabError if there is none."""
    kernel = getattr(shell, "kernel", None)
    if kernel is not None:
        # JPY_SESSION_NAME is the path at the kernel's start: after a rename only the server knows.
        for path in (_path_from_server(kernel), os.environ.get("JPY_SESSION_NAME")):
            if path and Path(path).is_file():
                return Path(path)
    raise LabError(
        "There is no telling which notebook this is. Open the lab from the portal's list, or name the file: "
        'lab.check("exercise", notebook="lab.ipynb").'
    )


def _path_from_server(kernel: Any) -> str | None:
    """Ask our Jupyter server which file's session uses this kernel. None where that cannot be told."""
    import http.client
    from urllib.parse import urlsplit

    file = Path(kernel.config["IPKernelApp"]["connection_file"])
    identifier = re.fullmatch(r"kernel-(.+)\.json", file.name)
    try:
        # Who started the kernel; its parent may be the process it was forked from.
        number = os.environ.get("JPY_PARENT_PID") or os.getppid()
        server = json.loads((file.parent / f"jpserver-{number}.json").read_text(encoding="utf-8"))
        address = urlsplit(server["url"])
        connection = http.client.HTTPConnection(address.netloc, timeout=2)
        token = server["token"] or os.environ.get("JUPYTERHUB_API_TOKEN", "")
        connection.request("GET", f"{address.path}api/sessions", headers={"Authorization": f"token {token}"})
        sessions = json.loads(connection.getresponse().read())
        connection.close()
        for session in sessions:
            if identifier and session["kernel"]["id"] == identifier[1] and session["type"] == "notebook":
                return str(_file(server["root_dir"], session["path"]))
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        return None
    return None


def _file(root: str, path: str) -> Path:
    return Path(root).expanduser() / path.lstrip("/")


def _changed_remark(names: list[str]) -> str:
    if not names:
        return ""
    which = ", ".join(f"`{name}`" for name in names)
    return f"{which} changed after you last ran it. What is on the screen was judged."


def _is_code(cell: Any) -> bool:
    return isinstance(cell, dict) and cell.get("cell_type") == "code"


def _source(cell: dict[str, Any]) -> str:
    source = cell.get("source", "")
    return source if isinstance(source, str) else "".join(source)


def _same(source: str) -> str:
    """Two sources are the same cell if they differ in trailing line ends only: IPython's history drops those."""
    return source.rstrip("\n")


def _bound(source: str) -> frozenset[str]:
    """Names that top-level statements bind; none where the source is not Python."""
    try:
        statements = ast.parse(source).body
    except (SyntaxError, ValueError):
        return frozenset()
    names: set[str] = set()
    for statement in statements:
        match statement:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Assign(targets=targets):
                found = [node for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
                names |= {node.id for node in found if isinstance(node.ctx, ast.Store)}
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.AugAssign(target=ast.Name(id=name)):
                names.add(name)
    return frozenset(names)
