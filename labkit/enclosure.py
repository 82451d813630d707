"""The last steps into a sandbox, for a process that was forked and not started: a confined program's command line
(``bwrap …``, ``prlimit``, ``setpriv``) needs an ``exec``, and would throw away what the parent had loaded.

The namespaces are somebody else's: a holder, started confined by bubblewrap or ``unshare``, that does nothing. This
process enters them, gives up its user id and its capabilities, and can then only lose rights, never gain any.

Only the standard library and :mod:`labkit.seal`: what is loaded here is loaded in the sandbox.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import struct
from collections.abc import Mapping

from labkit.seal import seal

__all__ = ["LIMITS", "enter", "give_up_privileges", "limit"]

_MOUNT, _UTS, _IPC, _USER, _PID, _NETWORK = 0x2_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000
_PR_CAPBSET_DROP, _PR_SET_DUMPABLE, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 24, 4, 47, 4
_CAPABILITIES_VERSION = 0x2008_0522  # capset(2): three 32-bit sets, twice
_MOST_CAPABILITIES = 64

_libc = ctypes.CDLL(None, use_errno=True)

# The names `prlimit` has for them, which are the ones a request uses.
LIMITS = {
    "core": resource.RLIMIT_CORE,
    "data": resource.RLIMIT_DATA,
    "nproc": resource.RLIMIT_NPROC,
    "fsize": resource.RLIMIT_FSIZE,
    "nofile": resource.RLIMIT_NOFILE,
}


def enter(holder: int, *, user: bool, network: bool) -> None:
    """Enter the namespaces of the process behind a pidfd; the PID namespace is that of children from now on.

    ``user`` and ``network`` say whether it has one of its own. OSError where the kernel refuses (setns(2), Linux 5.8).
    """
    kinds = _MOUNT | _UTS | _IPC | _PID | (_NETWORK if network else 0) | (_USER if user else 0)
    _call("setns", ctypes.c_int(holder), ctypes.c_int(kinds))


def limit(limits: Mapping[str, int]) -> None:
    """Bound this process and all it starts, soft and hard; KeyError for a name that is not in :data:`LIMITS`."""
    for name, value in limits.items():
        resource.setrlimit(LIMITS[name], (value, value))


def give_up_privileges(uid: int | None) -> None:
    """Take on the user id (None: keep it), lose every capability for good, and be sealed by :mod:`labkit.seal`."""
    for capability in range(_MOST_CAPABILITIES):
        with contextlib.suppress(OSError):  # no such capability, or no right to drop it because there is none to lose
            _call("prctl", ctypes.c_int(_PR_CAPBSET_DROP), *map(ctypes.c_ulong, (capability, 0, 0, 0)))
    _call("prctl", ctypes.c_int(_PR_CAP_AMBIENT), *map(ctypes.c_ulong, (_PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)))
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    _call("capset", struct.pack("=Ii", _CAPABILITIES_VERSION, 0), bytes(24))
    # Changing the user makes /proc/self root's; what an exec would do is to give it back.
    _call("prctl", ctypes.c_int(_PR_SET_DUMPABLE), *map(ctypes.c_ulong, (1, 0, 0, 0)))
    seal(os.uname().machine)


def _call(name: str, *arguments: ctypes._SimpleCData[int] | bytes) -> None:
    """A function of the C library that says -1 when it fails; OSError with its name then."""
    if getattr(_libc, name)(*arguments) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
