"""Real processes by the hundred: a first process, and children of it that come and go as a test says.

A :class:`Household` stands for one learner's server. Run as a program, this file is its first process, which imports
next to nothing, so a child costs a millisecond.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import subprocess
import sys

__all__ = ["Household"]

_CLONE3 = 435
_ON_PARENTS_DEATH = 1


class Household:
    """A first process with ``pid``; :meth:`close` ends it and all its children."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-E", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid

    def bear(self, number: int = 0) -> int:
        """A new child, with this process id if one is given; 0 if it cannot have that.

        Someone has it, or this user may not choose: that takes CAP_CHECKPOINT_RESTORE.
        """
        return self._ask("bear", number)

    def end(self, pid: int) -> None:
        """End a child; afterwards its number is free."""
        self._ask("end", pid)

    def close(self) -> None:
        self._process.communicate(timeout=20)

    def _ask(self, word: str, number: int) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{word} {number}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def bear(number: int) -> int:
    parent = os.getpid()
    pid = fork_as(number) if number else os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(_ON_PARENTS_DEATH, signal.SIGKILL, 0, 0, 0)
        while os.getppid() == parent:
            signal.pause()
        os._exit(0)
    return max(pid, 0)


def fork_as(number: int) -> int:
    """As ``os.fork``, with the number of the child chosen; negative if that is refused."""
    wanted = (ctypes.c_int * 1)(number)
    # struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, ..., cgroup
    arguments = struct.pack("11Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(wanted), 1, 0)
    return int(ctypes.PyDLL(None).syscall(_CLONE3, arguments, ctypes.c_size_t(len(arguments))))


def end(pid: int) -> int:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return 0


def main() -> None:
    children: set[int] = set()
    for line in sys.stdin:
        word, number = line.split()
        if word == "bear":
            answer = bear(int(number))
            children |= {answer} - {0}
        else:
            answer = end(int(number))
            children.remove(int(number))
        print(answer, flush=True)
    for pid in children:
        end(pid)


if __name__ == "__main__":
    main()
