"""Attacks on the walls: other processes, the kernel's interfaces, rights and limits."""

from tests.attacks.attack import Attack

__all__ = ["ATTACKS"]

SYSTEM_CALL = """
        import ctypes, os
        my_libc = ctypes.CDLL(None, use_errno=True)
        def my_call(number, *args):
            return my_libc.syscall(*(ctypes.c_long(arg) if type(arg) is int else arg for arg in (number, *args)))
"""
ATTACKS = [
    Attack(
        "attaches to other processes",
        (12, 55),
        "attaches a debugger to every process but the agent, also to those that hold its namespaces",
        """
        import ctypes, os
        def energy(x):
            ptrace, attach, detach, any_child = ctypes.CDLL(None).ptrace, 16, 17, 0x4000_0000
            for pid in set(range(1, 2**15)) - {os.getpid(), os.getppid()}:
                if ptrace(attach, pid, None, None) == 0:
                    os.waitpid(pid, any_child)
                    ptrace(detach, pid, None, None)
                    if os.stat(f"/proc/{pid}").st_uid != os.getuid():
                        print("LEAK", pid)
            print("tried")
            return x.sum()
        """,
    ),
    Attack(
        "kills whoever it can name",
        (8, 55),
        "sends SIGKILL to each process number there can be, but not to the agent, and to those of other users",
        """
        import os, signal
        def energy(x):
            for pid in range(1, 2**15):
                if pid not in (os.getpid(), os.getppid()):
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except OSError:
                        pass
            print("tried")
            return x.sum()
        """,
        ends="failed|killed",
        cut_short=True,
    ),
    Attack(
        "kills all it may",
        (8,),
        "sends SIGKILL to everybody at once",
        """
        import os
        def energy(x):
            os.kill(-1, 9)
            return x.sum()
        """,
        ends="failed|killed|error in your code",
        cut_short=True,
    ),
    Attack(
        "kills the agent",
        (8,),
        "kills its parent, then ends as if all were well",
        """
        import os
        def energy(x):
            os.kill(os.getppid(), 9)
            os._exit(0)
        """,
        ends="killed",
        says="ended",
        cut_short=True,
    ),
    Attack(
        "stops the agent",
        (26, 55),
        "stops its parent for good and answers rightly; the agent can never tell of its end",
        """
        import os, signal
        def energy(x):
            if os.getppid() > 1:
                os.kill(os.getppid(), signal.SIGSTOP)
            print("tried", flush=True)
            return (x * x).sum()
        """,
        ends="passed",
    ),
    Attack(
        "leaves a daemon",
        (9, 24, 56),
        "leaves processes in sessions of their own that ignore signals and a parent's death and hold pipes open",
        """
        import ctypes, os, signal
        def daemon():
            os.setsid()
            if os.fork():
                os._exit(0)
            ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)
            for number in range(1, 65):
                try:
                    signal.signal(number, signal.SIG_IGN)
                except (OSError, ValueError):
                    pass
            os.execv("/bin/sleep", ["@MARK@", "600"])
        started = False
        def energy(x):
            global started
            for _ in range(0 if started else 3):
                if os.fork() == 0:
                    daemon()
            started = True
            print("tried")
            return (x * x).sum()
        """,
        ends="passed",
    ),
    Attack(
        "makes namespaces",
        (38, 57),
        "asks for namespaces by unshare, clone and clone3, and enters its own again by setns",
        SYSTEM_CALL
        + """
        def energy(x):
            for flag in (0x1000_0000, 0x2_0000, 0x2000_0000, 0x4000_0000, 0x800_0000, 0x200_0000):
                if my_libc.unshare(flag) == 0:
                    print("LEAK unshare", hex(flag))
                child = my_call(56, flag | 17, None, None, None, None)
                if child == 0:
                    os._exit(0)
                if child > 0:
                    os.waitpid(child, 0)
                    print("LEAK clone", hex(flag))
            for name in os.listdir("/proc/self/ns"):
                if my_libc.setns(os.open(f"/proc/self/ns/{name}", os.O_RDONLY), 0) == 0:
                    print("LEAK setns", name)
            if my_call(435, bytes(88), 88) >= 0:
                print("LEAK clone3")
            print("tried")
            return x.sum()
        """,
    ),
    Attack(
        "mounts and changes its root",
        (28, 57),
        "mounts file systems by the old calls and the new ones, remounts its own, and changes its root",
        SYSTEM_CALL
        + """
        def energy(x):
            os.makedirs("/tmp/m", exist_ok=True)
            for kind in (b"tmpfs", b"proc", b"overlay"):
                if my_libc.mount(b"m", b"/tmp/m", kind, 0, None) == 0:
                    print("LEAK mount")
            if my_libc.mount(None, b"/", None, 32 | 4096, None) == 0 or my_libc.umount2(b"/tmp", 2) == 0:
                print("LEAK remount")
            for name, number, args in (("fsopen", 430, (b"tmpfs", 0)), ("open_tree", 428, (-100, b"/", 1)),
                                       ("move_mount", 429, (-100, b"/tmp", -100, b"/tmp/m", 0)),
                                       ("pivot_root", 155, (b"/tmp", b"/tmp/m")), ("chroot", 161, (b"/tmp",))):
                if my_call(number, *args) >= 0:
                    print("LEAK", name)
            print("tried")
            return x.sum()
        """,
    ),
    Attack(
        "becomes somebody else",
        (39, 58),
        "takes other user ids, starts programs with the bit for it, and counts the capabilities it has or could get",
        """
        import os, subprocess
        def energy(x):
            if os.getuid() == 0 or os.geteuid() == 0:
                print("LEAK root")
            for change, value in ((os.setuid, 0), (os.setgid, 0), (os.setgroups, [0]), (os.setuid, 1)):
                try:
                    change(value)
                    print("LEAK", os.getresuid(), os.getgroups())
                except OSError:
                    pass
            lines = open("/proc/self/status").read().splitlines()
            status = dict(line.split(":\\t") for line in lines if ":\\t" in line)
            for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                if int(status[name], 16):
                    print("LEAK", name, status[name])
            if status["NoNewPrivs"] != "1" or status["Seccomp"] != "2":
                print("LEAK", status["NoNewPrivs"], status["Seccomp"])
            for program in ("su", "mount", "passwd", "newgrp", "sudo"):
                try:
                    done = subprocess.run([program, "-c", "id -u"], capture_output=True, text=True, timeout=5, input="")
                    if done.stdout.strip() == "0":
                        print("LEAK", program)
                except (OSError, subprocess.SubprocessError):
                    pass
            print("tried")
            return x.sum()
        """,
    ),
    Attack(
        "asks the kernel for more",
        (39, 59),
        "tries the calls through which kernels were broken, each with arguments that whoever may use it can use",
        SYSTEM_CALL
        + """
        import errno, struct
        my_file = b"/tmp/@MARK@"
        my_counter = struct.pack("IIQQQQQ", 1, 112, 0, 0, 0, 0, 0x60).ljust(112, b"\\0")
        my_memory = ctypes.create_string_buffer(4096)
        my_span = struct.pack("PN", ctypes.addressof(my_memory), 8)
        my_calls = {
            "add_key": (248, b"user", b"note", b"x", 1, -4), "keyctl": (250, 0, -3, 1), "userfaultfd": (323, 1),
            "io_uring_setup": (425, 8, my_memory), "perf_event_open": (298, my_counter, 0, -1, -1, 0),
            "bpf": (321, 0, struct.pack("IIII", 2, 4, 8, 1).ljust(128, b"\\0"), 128), "fanotify_init": (300, 0x200, 0),
            "open_by_handle_at": (304, -100, struct.pack("Ii8s", 8, 1, b""), 0), "iopl": (172, 3),
            "init_module": (175, my_memory, 4096, b""), "kexec_load": (246, 0, 0, 0, 0), "acct": (163, my_file),
            "swapon": (167, my_file, 0), "reboot": (169, 0xFEE1DEAD, 672274793, 0, 0), "settimeofday": (164, 0, 0),
            "sethostname": (170, b"x", 1), "syslog": (103, 3, my_memory, 4096),
            "lookup_dcookie": (212, 0, my_memory, 4096), "process_vm_readv": (310, 1, my_span, 1, my_span, 1, 0),
        }
        def energy(x):
            open(my_file, "w").close()
            if os.stat("/proc/1").st_uid == os.getuid():  # of this sandbox, with no more rights than this process
                my_calls.pop("process_vm_readv", None)
            for name, (number, *args) in my_calls.items():
                got, why = my_call(number, *args), ctypes.get_errno()
                if got >= 0 or why not in (errno.EPERM, errno.EACCES, errno.ENOSYS):
                    print("LEAK", name, got, os.strerror(why))
            print("tried")
            return x.sum()
        """,
    ),
    Attack(
        "raises its limits",
        (24, 25, 28),
        "asks for more memory, processes, files and priority than it was given",
        """
        import os, resource, time
        def energy(x):
            for name in ("DATA", "FSIZE", "NOFILE", "CORE", "CPU", "NPROC"):
                limit = getattr(resource, f"RLIMIT_{name}")
                hard = resource.getrlimit(limit)[1]
                if hard == resource.RLIM_INFINITY:
                    if name != "NPROC":  # a container has another limit on them: those there are, are counted below
                        print("LEAK unlimited", name)
                    continue
                try:
                    resource.setrlimit(limit, (hard + 1, hard + 1))
                    print("LEAK", name)
                except (ValueError, OSError):
                    pass
            children = []
            try:
                while len(children) < 24:
                    children.append(os.fork() or time.sleep(60))
                print("LEAK processes")
            except OSError:
                pass
            for child in children:
                os.kill(child, 9)
                os.waitpid(child, 0)
            for what in (lambda: os.setpriority(os.PRIO_PROCESS, 0, -5),
                         lambda: os.sched_setscheduler(0, 1, os.sched_param(9)),
                         lambda: os.write(os.open("/proc/self/oom_score_adj", os.O_WRONLY), b"-1000")):
                try:
                    what()
                    print("LEAK priority")
                except OSError:
                    pass
            print("tried")
            return x.sum()
        """,
    ),
]
