"""The last step into a sandbox: no new user namespaces from here on, nor what else a program there has no business
with. Run as ``python -c``, it then starts the program.

In a user namespace of its own a program has every capability again: it could mount a tmpfs and fill the machine's
memory past all its limits, and reach parts of the kernel that are closed to it otherwise. A seccomp filter answers
EPERM to ``unshare`` and ``clone`` with CLONE_NEWUSER and to ``setns``, and ENOSYS to ``clone3``, whose flags a filter
cannot read (the C library then uses ``clone``). Sockets there are of the usual kinds only: those of virtual machines
belong to no network namespace, so one would lead out of the sandbox, and to ask for a rare kind makes the kernel load
code that nobody has looked at for years. Whatever the program starts inherits the filter, and nothing takes it off.

Standard library only, nothing of ours: inside the sandbox there is nothing of ours to import.
"""

import ctypes
import os
import signal
import struct
import sys

_CLONE_NEWUSER = 0x1000_0000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _EPERM, _ENOSYS, _EAFNOSUPPORT = 0x7FFF_0000, 0x0005_0001, 0x0005_0026, 0x0005_0061
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16

# Per machine: the audit architecture, then the numbers of unshare, clone, setns, clone3 and socket.
_MACHINES = {"x86_64": (0xC000_003E, 272, 56, 308, 435, 41), "aarch64": (0xC000_00B7, 97, 220, 268, 435, 198)}
# Refused as if the kernel had none: add_key, request_key, keyctl (rings of keys that sandboxes would share),
# io_uring_setup, userfaultfd, perf_event_open, bpf and fanotify_init (usual ways into a kernel), syslog (the machine's
# log, where it is open to all), shmget and memfd_create (memory that no limit counts).
_REFUSED = {
    "x86_64": (248, 249, 250, 425, 323, 298, 321, 300, 103, 29, 319),
    "aarch64": (217, 218, 219, 425, 282, 241, 280, 262, 116, 194, 279),
}
_FAMILIES = (1, 2, 10, 16)  # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK


def program(machine: str) -> list[tuple[int, int, int, int]]:
    """The filter as (code, jump if true, jump if false, operand); empty for machines it was not written for."""
    if machine not in _MACHINES:
        return []
    architecture, unshare, clone, setns, clone3, socket = _MACHINES[machine]
    parts = {
        "start": [
            (_LOAD, "", "", _ARCHITECTURE),
            (_EQUAL, "", "missing", architecture),  # 32-bit calls on a 64-bit machine have other numbers: no such call
            (_LOAD, "", "", _NUMBER),
            (_AT_LEAST, "missing", "", 0x4000_0000),  # nor x86's third set of numbers
            *((_EQUAL, "missing", "", number) for number in (*_REFUSED[machine], clone3)),
            (_EQUAL, "denied", "", setns),
            (_EQUAL, "flags", "", unshare),
            (_EQUAL, "flags", "", clone),
            (_EQUAL, "family", "allowed", socket),
        ],
        "flags": [(_LOAD, "", "", _FIRST_ARGUMENT), (_ANY_BIT, "denied", "allowed", _CLONE_NEWUSER)],
        "family": [(_LOAD, "", "", _FIRST_ARGUMENT), *((_EQUAL, "allowed", "", family) for family in _FAMILIES)],
        "unknown": [(_RETURN, "", "", _EAFNOSUPPORT)],
        "allowed": [(_RETURN, "", "", _ALLOW)],
        "denied": [(_RETURN, "", "", _EPERM)],
        "missing": [(_RETURN, "", "", _ENOSYS)],
    }
    return _assembled(parts)


def _assembled(parts: dict[str, list[tuple[int, str, str, int]]]) -> list[tuple[int, int, int, int]]:
    """The parts one after another; where they name a part to jump to ("": the next step), how far that is."""
    starts: dict[str, int] = {}
    steps: list[tuple[int, str, str, int]] = []
    for name, part in parts.items():
        starts[name] = len(steps)
        steps += part

    def jump(index: int, name: str) -> int:
        return starts[name] - index - 1 if name else 0

    return [(code, jump(i, yes), jump(i, no), operand) for i, (code, yes, no, operand) in enumerate(steps)]


def seal(machine: str) -> None:
    """Give up new privileges and install the filter on this process; OSError if the kernel refuses."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    steps = b"".join(struct.pack("=HBBI", *step) for step in program(machine))
    if steps:
        text = ctypes.create_string_buffer(steps, len(steps))
        whole = ctypes.create_string_buffer(struct.pack("@HP", len(steps) // 8, ctypes.addressof(text)))
        _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(whole))


def _prctl(option: int, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
    if libc.prctl(option, *arguments, *[0] * (4 - len(arguments))):
        number = ctypes.get_errno()
        raise OSError(number, f"the sandbox's system call filter cannot be installed: {os.strerror(number)}")


if __name__ == "__main__":
    seal(os.uname().machine)
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them; the program shall start as any other does
        signal.signal(ignored, signal.SIG_DFL)
    try:
        os.execvp(sys.argv[1], sys.argv[1:])
    except OSError as error:
        sys.exit(f"{sys.argv[1]} cannot be started as user {os.getuid()} in the sandbox: {error.strerror}")
