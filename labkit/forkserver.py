"""A process that has everything loaded, and forks: what takes seconds to import is there in milliseconds.

:class:`ForkServer` is the parent: it forks a child for every request that comes to its Unix socket and runs a function
of its owner there. Whoever starts it makes that socket (:func:`listen`), so that requests find it from the first moment
and wait while it imports. :func:`fork` asks it from another process and gives a :class:`Forked`, which looks like a
``subprocess.Popen``.

What holds between the three: a child is killed when the connection that asked for it closes (so nothing outlives its
owner), its process group ends with it, all children are killed when the server ends, and the server ends when its
standard input does.

A child shares every page of the parent's memory until one of them writes to it, so the parent must hold no secret, must
run no thread but its first (only that one exists in a child: a lock held by another stays locked for ever), and must
not have touched CUDA, which does not survive a fork. :func:`why_unfit` looks after the last two.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = ["ForkServer", "Forked", "die_with_parent", "fork", "fork_soon", "listen", "why_unfit"]

_LARGEST = 1 << 18
_MOST_DESCRIPTORS = 8
_PR_SET_PDEATHSIG = 1
_PAUSE_SECONDS = 0.2
_MADV_COLLAPSE, _HUGE = 25, 2 << 20

# A child's work: the request, and the descriptors that came with it. What it returns is the exit status.
Run = Callable[[dict[str, Any], list[int]], int]


class Forked:
    """A child of a fork server, with the part of ``subprocess.Popen`` that kernels and sandboxes use.

    :meth:`close` (or the end of this process) kills it.
    """

    stdin = stdout = stderr = None

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self._connection = connection
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status (negative: a signal), None while it runs; -9 if the server itself has gone."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit status. ``subprocess.TimeoutExpired`` after ``timeout`` seconds."""
        status = self._look(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(f"forked process {self.pid}", timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Let go of it; the server kills what still runs."""
        self._connection.close()
        if self.returncode is None:
            self.returncode = -signal.SIGKILL

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                said = self._connection.recv(_LARGEST)
            except (BlockingIOError, TimeoutError):
                return None
            except OSError:
                said = b""
            self.returncode = json.loads(said)["status"] if said else -signal.SIGKILL
            self._connection.close()
        return self.returncode


def listen(path: str) -> socket.socket:
    """A socket for a :class:`ForkServer`, at this path, for this user alone."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(64)
    except BaseException:
        listener.close()
        raise
    return listener


def fork(path: str, request: dict[str, Any], descriptors: Sequence[int] = (), *, timeout: float) -> Forked:
    """Have the server at ``path`` fork a child for this request; it gets copies of the descriptors.

    OSError if there is no such server, it has ended, it has found itself unfit, it cannot fork, or it does not answer
    within ``timeout`` seconds.
    """
    with _asked(path, request, descriptors, timeout) as connection:
        connection.settimeout(timeout)
        return _answered(connection, connection.recv(_LARGEST))


async def fork_soon(path: str, request: dict[str, Any], *, timeout: float) -> Forked:
    """As :func:`fork`, without blocking the event loop meanwhile."""
    with _asked(path, request, (), timeout) as connection:
        connection.setblocking(False)
        answer = asyncio.get_running_loop().sock_recv(connection, _LARGEST)
        return _answered(connection, await asyncio.wait_for(answer, timeout))


@contextlib.contextmanager
def _asked(path: str, request: dict[str, Any], descriptors: Sequence[int], timeout: float) -> Iterator[socket.socket]:
    """A connection on which the request was sent; it stays open if all goes well."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(path)
        message = request | {"descriptors": len(descriptors)}
        socket.send_fds(connection, [json.dumps(message).encode()], list(descriptors))
        yield connection
    except BaseException as error:
        connection.close()
        if isinstance(error, ConnectionError):  # refused, or reset while it waited for its turn
            raise ConnectionError("the fork server has ended") from error
        if isinstance(error, TimeoutError):
            raise TimeoutError(f"the fork server has not answered for {timeout:g} s") from error
        raise


def _answered(connection: socket.socket, answer: bytes) -> Forked:
    if not answer:
        raise ConnectionResetError
    said = json.loads(answer)
    if "error" in said:
        raise OSError(f"the fork server could not fork: {said['error']}")
    return Forked(connection, said["pid"])


class ForkServer:
    """Takes requests from ``listener``, a descriptor of what :func:`listen` made, and calls ``run`` in children."""

    def __init__(self, listener: int, run: Run) -> None:
        self._run = run
        self._socket = socket.socket(fileno=listener)
        self._selector = selectors.DefaultSelector()
        self._children: dict[int, socket.socket] = {}

    def serve(self) -> None:
        """Fork until standard input ends. RuntimeError if this process is not fit to be forked."""
        if unfit := why_unfit():
            raise RuntimeError(f"this process cannot be forked: {unfit}")
        # What is there now stays: without this the collector would write to (and so copy) every page in every child.
        gc.collect()
        gc.freeze()
        gather_pages()
        self._selector.register(self._socket, selectors.EVENT_READ, self._accept)
        self._selector.register(0, selectors.EVENT_READ, self._end)
        while True:
            for key, _ in self._selector.select():
                key.data(key.fileobj)

    def _accept(self, _listener: object) -> None:
        if not _have_room():
            time.sleep(_PAUSE_SECONDS)  # who asks stays in the line, of which the selector tells at once again
            return
        with contextlib.suppress(OSError):  # whoever asked has gone
            connection, _ = self._socket.accept()
            self._selector.register(connection, selectors.EVENT_READ, self._asked)

    def _asked(self, connection: socket.socket) -> None:
        """Fork for the request that came. Whatever fails is this request's failure: the other children live on."""
        self._selector.unregister(connection)
        descriptors: list[int] = []
        try:
            data, descriptors, _, _ = socket.recv_fds(connection, _LARGEST, _MOST_DESCRIPTORS)
            if data:
                self._fork(connection, json.loads(data), descriptors)
            else:
                connection.close()
        except (OSError, ValueError, TypeError, KeyError) as error:
            self._tell(connection, {"error": str(error)})
            connection.close()
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _fork(self, connection: socket.socket, request: dict[str, Any], descriptors: list[int]) -> None:
        # The kernel leaves out what does not fit: then a part of what was asked for would silently be missing.
        if len(descriptors) != request["descriptors"]:
            raise OSError(f"{request['descriptors']} descriptors were sent, {len(descriptors)} arrived")
        server, pid = os.getpid(), os.fork()
        if pid == 0:
            self._child(server, request, descriptors)
        try:
            ended = os.pidfd_open(pid)
        except OSError:
            self._kill(pid)
            os.waitpid(pid, 0)
            raise
        self._children[pid] = connection
        self._selector.register(connection, selectors.EVENT_READ, lambda _: self._abandoned(pid))
        self._selector.register(ended, selectors.EVENT_READ, lambda _: self._ended(pid, ended))
        self._tell(connection, {"pid": pid})

    def _child(self, server: int, request: dict[str, Any], descriptors: list[int]) -> None:
        """In the child of process ``server``, never to return."""
        status = 1
        try:
            os.setsid()
            die_with_parent()
            if os.getppid() != server:
                os._exit(1)
            _keep_only(descriptors)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            _draw_new_seeds()
            status = self._run(request, descriptors)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def _abandoned(self, pid: int) -> None:
        """Nobody waits for this child any more (nobody ever sends a second message)."""
        connection = self._children.get(pid)
        if connection is not None:  # else its end came at the same moment, and its number may be another's by now
            self._kill(pid)
            self._selector.unregister(connection)

    def _ended(self, pid: int, descriptor: int) -> None:
        self._selector.unregister(descriptor)
        os.close(descriptor)
        self._kill(pid)  # what is left of its group, for which the number stands until it has been waited for
        _, status = os.waitpid(pid, 0)
        connection = self._children.pop(pid)
        with contextlib.suppress(KeyError):
            self._selector.unregister(connection)
        self._tell(connection, {"status": os.waitstatus_to_exitcode(status)})
        connection.close()

    def _tell(self, connection: socket.socket, message: dict[str, int | str]) -> None:
        with contextlib.suppress(OSError):
            connection.send(json.dumps(message).encode())

    def _kill(self, pid: int) -> None:
        # Its group where it has made one by now, else itself.
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(pid, signal.SIGKILL)

    def _end(self, _stdin: object) -> None:
        for pid in self._children:
            self._kill(pid)
        os._exit(0)


def gather_pages() -> None:
    """Put this process's own memory into huge pages: a fork copies one entry for 2 MiB instead of 512.

    A child that writes still copies only 4 KiB. Kernels before 6.1 have no such call (madvise(2), MADV_COLLAPSE) and
    keep small pages.
    """
    import ctypes

    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, permissions, _, _, inode, *name = line.split(maxsplit=5)
        if permissions.startswith("rw") and inode == "0" and name != ["[stack]"]:
            start, end = (int(address, 16) for address in span.split("-"))
            start, end = -(-start // _HUGE) * _HUGE, end // _HUGE * _HUGE
            if start < end:
                advise(start, end - start, _MADV_COLLAPSE)


def why_unfit() -> str:
    """Why children of this process would not work; empty if they will."""
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        return f"it runs {threads} threads, and a child has only the one that forked"
    if "/libcuda.so" in Path("/proc/self/maps").read_text():
        return "CUDA's driver is loaded, and does not survive a fork"
    return ""


def die_with_parent() -> None:
    """Be killed when the process that forked this one ends (prctl(2), PR_SET_PDEATHSIG)."""
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _keep_only(descriptors: Sequence[int]) -> None:
    """Close what belongs to the server: its sockets, and the other children's."""
    kept = {0, 1, 2, *descriptors}
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            with contextlib.suppress(OSError):  # the listing's own
                os.close(int(name))


def _have_room() -> bool:
    """Whether descriptors are free for a request: its connection, those that come with it, and its child's pidfd."""
    with contextlib.ExitStack() as stack:
        try:
            for _ in range(_MOST_DESCRIPTORS + 2):
                stack.callback(os.close, os.dup(0))
        except OSError:
            return False
    return True


def _draw_new_seeds() -> None:
    """NumPy's global generator is the parent's copy, the same in every child; Python's own is drawn anew by itself."""
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed()
