"""Attacks that look for tests, references, seeds and secrets, or that recognise the judge."""

from tests.attacks.attack import Attack

__all__ = ["ATTACKS"]

ATTACKS = [
    Attack(
        "walks the stack",
        (1,),
        "goes up through all frames of all threads and of a traceback, to the locals of whoever called",
        """
        import sys
        def seen(frame):
            while frame:
                yield from frame.f_locals.items()
                yield from frame.f_globals.items()
                frame = frame.f_back
        def energy(x):
            try:
                1 / 0
            except ZeroDivisionError as error:
                frames = [error.__traceback__.tb_frame, *sys._current_frames().values()]
            for name, value in [item for frame in frames for item in seen(frame)]:
                if name in ("check", "draw", "want", "sums_squares") or type(value).__module__[:8] == "checker.":
                    print("LEAK", name)
            print("tried")
            return x.sum()
        """,
    ),
    Attack(
        "searches the disk",
        (2, 12),
        "looks in every folder it may enter for checks, solutions, jobs, credentials and version control",
        """
        import os
        wanted = {"checker", "checks.py", "solution.py", "exercises.toml", "job.json", "results.json", "tests",
                  "credentials.json", "connection.json", ".git", ".env", "docker.sock", "dockerd", "authorized_keys"}
        def energy(x):
            for base, folders, files in os.walk("/"):
                if base.startswith(("/proc", "/sys")) or "site-packages" in base or "/lib/python3" in base:
                    folders.clear()
                    continue
                for name in wanted & {*folders, *files}:
                    if not base.startswith("/usr"):
                        print("LEAK", base, name)
            for path in ("@PROJECT@/checker", "@PROJECT@/.git", "/etc/shadow", "/etc/ssh/ssh_host_rsa_key", "@JOBS@"):
                if os.access(path, os.R_OK):
                    print("LEAK", path)
            print("tried")
            return x.sum()
        """,
    ),
    Attack(
        "reads other processes",
        (2, 12),
        "reads command lines, environments, descriptors, roots and memory of all processes it sees",
        """
        import os
        def energy(x):
            for pid in filter(str.isdigit, os.listdir("/proc")):
                line = open(f"/proc/{pid}/cmdline").read()
                if "checker." in line or "jupyter" in line or "gradlab.cli" in line or "pytest" in line:
                    print("LEAK", line)
                if os.path.exists(f"/proc/{pid}/root/@PROJECT@/checker") or os.path.exists(f"/proc/{pid}/root/@JOBS@"):
                    print("LEAK root of", pid)
                if os.stat(f"/proc/{pid}").st_uid == os.getuid():
                    continue  # of this sandbox: no other has this user
                for name in ("environ", "mem", "fd", "cwd/x", "map_files", "task"):
                    try:
                        path = f"/proc/{pid}/{name}"
                        found = os.listdir(path) if name in ("fd", "map_files") else open(path, "rb").read(4096)
                        if found:
                            print("LEAK", path, found)
                    except OSError:
                        pass
            print("tried")
            return x.sum()
        """,
    ),
    Attack(
        "collects all objects",
        (3, 47),
        "goes through everything the garbage collector knows, also what was frozen before the fork, for the reference",
        """
        import gc, sys
        def energy(x):
            gc.unfreeze()
            for thing in gc.get_objects():
                if type(thing) is torch.Tensor and thing is not x and thing.shape == () and thing.is_floating_point():
                    print("LEAK", thing)
                if str(type(thing).__module__).split(".")[0] in ("checker", "gradlab", "tests"):
                    print("LEAK", type(thing))
            for name in sys.modules:
                if name.split(".")[0] in ("checker", "gradlab", "tests", "papermill", "ipykernel", "zmq"):
                    print("LEAK", name)
            print("tried")
            return x.sum()
        """,
    ),
    Attack(
        "scans its memory",
        (12, 47),
        "searches every writable page, its own and the agent's, for hidden checks, the seed and a secret of the server",
        """
        import os, re
        my_scans = []
        def energy(x):
            if my_scans:  # it takes seconds
                return x.sum()
            my_scans.append(True)
            secrets = re.compile(rb"@SECRETS@")
            for pid in (os.getpid(), os.getppid() or os.getpid()):
                scanned = 0
                with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
                    for line in maps:
                        span, permissions = line.split()[:2]
                        start, end = (int(address, 16) for address in span.split("-"))
                        if not permissions.startswith("rw"):
                            continue
                        while start < end:
                            memory.seek(start)
                            try:
                                part = memory.read(min(1 << 24, end - start))
                            except OSError:
                                break
                            for found in secrets.findall(part):
                                print("LEAK", found[:8])
                            start += 1 << 24
                            scanned += len(part)
                assert scanned > 10_000_000, scanned
            print("tried")
            return x.sum()
        """,
        seconds=60,
    ),
    Attack(
        "reads the environment",
        (12, 21),
        "reads its variables, as they are and as they were at the start, and its arguments, for tokens",
        """
        import os, sys
        def energy(x):
            text = "\\0".join(f"{name}={value}" for name, value in os.environ.items())
            if "checker" in " ".join(sys.argv + sys.orig_argv):
                print("LEAK", sys.argv)
            for pid in (os.getpid(), os.getppid() or os.getpid()):
                text += open(f"/proc/{pid}/environ").read()
            words = ("TOKEN", "SECRET", "PASSWORD", "GRADLAB", "JUPYTER", "NBGRADER", "PYTEST", "AWS_", "@MARK@")
            for word in words:
                if word.upper() in text.upper():
                    print("LEAK", word)
            print("tried")
            return x.sum()
        """,
    ),
    Attack(
        "imports the judge",
        (2, 21),
        "imports the judge's and the server's modules by name, by path and as they lie behind an editable installation",
        """
        import importlib, importlib.util, sys
        def energy(x):
            sys.path += ["@PROJECT@", "/work", "/srv", "/opt", "."]
            importlib.invalidate_caches()
            for name in ("checker.spec", "checker", "gradlab.store", "gradlab", "tests.attacks", "checks", "solution"):
                try:
                    importlib.import_module(name)
                except ImportError:
                    continue
                print("LEAK", name)
            print("tried")
            return x.sum()
        """,
    ),
    Attack(
        "looks through its descriptors",
        (2, 48),
        "looks at each open descriptor, its own and the agent's, for a file or a socket left open by a parent",
        """
        import os, stat
        def energy(x):
            for pid in (os.getpid(), os.getppid() or os.getpid()):
                for name in os.listdir(f"/proc/{pid}/fd"):
                    try:
                        target = os.readlink(f"/proc/{pid}/fd/{name}")
                    except FileNotFoundError:
                        continue
                    if not target.startswith(("pipe:", "/dev/null", f"/proc/{pid}/fd", "anon_inode:[pidfd]")):
                        print("LEAK", name, target)
            print("tried")
            return x.sum()
        """,
    ),
    Attack(
        "asks the machine's sockets",
        (38, 49),
        "connects to every Unix socket it can name: in the file system, outside of it, and the fork server's own",
        """
        import os, socket, stat
        def energy(x):
            names = {"/var/run/docker.sock", "/run/docker.sock", "/run/dbus/system_bus_socket", "/run/systemd/private"}
            names |= {"\\0@MARK@", "@FORK@"}  # the first: a listener outside, for attacks to find
            names |= {line.split()[7].replace("@", "\\0") for line in open("/proc/net/unix") if len(line.split()) > 7}
            for pid in filter(str.isdigit, os.listdir("/proc")):
                names |= {part for part in open(f"/proc/{pid}/cmdline").read().split("\\0") if part.startswith("/")}
            names |= {os.path.join(os.path.dirname(name), "judges") for name in names}
            for base, folders, files in os.walk("/"):
                if base.startswith(("/proc", "/usr", "/sys")):
                    folders.clear()
                names |= {path for path in (os.path.join(base, name) for name in files) if _is_socket(path)}
            for name in names:
                for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):
                    try:
                        socket.socket(socket.AF_UNIX, kind).connect(name)
                    except OSError:
                        continue
                    print("LEAK", name)
            print("tried")
            return x.sum()
        def _is_socket(path):
            try:
                return stat.S_ISSOCK(os.lstat(path).st_mode)
            except OSError:
                return False
        """,
    ),
    Attack(
        "calls home",
        (37, 38, 59),
        "looks for a network interface, connects to hub, metadata service, neighbours and the world, and asks for the "
        "other kinds of sockets, of which those of virtual machines belong to no network namespace",
        """
        import os, socket
        def energy(x):
            for name in os.listdir("/sys/class/net") if os.path.isdir("/sys/class/net") else []:
                if name != "lo":
                    print("LEAK", name)
            for line in open("/proc/net/dev").read().splitlines()[2:]:
                if not line.strip().startswith("lo:"):
                    print("LEAK", line)
            for host in ("127.0.0.1", "::1", "169.254.169.254", "172.17.0.1", "10.0.0.1", "1.1.1.1"):
                for port in (22, 53, 80, 443, 2375, 8000, 8001, 8081, int("@PORT@")):  # the last: a listener outside
                    try:
                        socket.create_connection((host, port), timeout=0.2).close()
                    except OSError:
                        continue
                    print("LEAK", host, port)
            try:
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("1.1.1.1", 53))
                print("LEAK udp")
            except OSError:
                pass
            for family in set(range(64)) - {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK}:
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
                    try:
                        socket.socket(family, kind).close()
                        print("LEAK", family, kind)
                    except OSError:
                        pass
            print("tried")
            return x.sum()
        """,
    ),
    Attack(
        "guesses the generator",
        (15,),
        "seeds the generators with what it knows and draws until the drawn is its argument",
        """
        import random
        import numpy as np
        start = torch.initial_seed()
        def energy(x):
            for seed in [*range(200), *range(start - 50, start + 50), hash(start), start >> 31]:
                generator = torch.Generator().manual_seed(seed % 2**63)
                for dtype in (torch.float32, torch.float64):
                    drawn = torch.rand(x.shape, generator=generator, dtype=dtype).float() * 2 - 1
                    if torch.allclose(drawn, x, atol=1e-5):
                        print("LEAK", seed)
            np.random.seed(start % 2**32), random.seed(start)
            if abs(np.random.rand() * 2 - 1 - float(x.flatten()[0])) < 1e-6:
                print("LEAK numpy")
            print("tried")
            return x.sum()
        """,
    ),
    Attack(
        "stays for the stale memory",
        (17,),
        "returns memory that was never written as it is, in the hope that the reference's result is there still",
        """
        def energy(x):
            freed = [torch.empty(()) for _ in range(1000)]
            print("tried")
            return next((found for found in freed if found > 0.1), freed[-1])
        """,
    ),
]
