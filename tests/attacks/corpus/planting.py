"""Attacks on the walls by way of files: what is written, made, linked and opened, and what stays behind."""

from tests.attacks.attack import Attack

__all__ = ["ATTACKS"]

ATTACKS = [
    Attack(
        "writes wherever it can",
        (10, 28, 46),
        "makes a file in every folder, opens every file of the agent and of the kernel's settings for writing",
        """
        import labkit, os
        def energy(x):
            for base, folders, files in os.walk("/"):
                if base.startswith(("/proc", "/tmp", "/dev/mqueue")) or base.count("/") > 2:
                    folders.clear()
                    continue
                try:
                    os.close(os.open(os.path.join(base, "x"), os.O_CREAT | os.O_WRONLY))
                    print("LEAK", base)
                except OSError:
                    pass
            own = os.path.dirname(labkit.__file__)
            modules = [os.path.join(own, name) for name in os.listdir(own)]
            for path in (*modules, torch.__file__, os.__file__, "/etc/passwd",
                         "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/vm/drop_caches", "/dev/mem",
                         "/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/cgroup.procs", "/dev/shm/x"):
                try:
                    os.close(os.open(path, os.O_WRONLY | (os.O_CREAT if "shm" in path else 0)))
                    print("LEAK", path)
                except OSError:
                    pass
                try:
                    os.chmod(path, 0o777)
                    print("LEAK chmod", path)
                except OSError:
                    pass
            print("tried")
            return x.sum()
        """,
    ),
    Attack(
        "makes devices",
        (39, 40, 41),
        "makes device files of disks and GPUs, opens those it finds, and asks for all GPUs by the environment",
        """
        import glob, os, stat
        def energy(x):
            os.environ["NVIDIA_VISIBLE_DEVICES"] = os.environ["CUDA_VISIBLE_DEVICES"] = "all"
            devices = (("gpu", 195, 0), ("ctl", 195, 255), ("disk", 8, 0), ("mem", 1, 1), ("fuse", 10, 229))
            for name, major, minor in devices:
                try:
                    os.mknod(f"/tmp/{name}", 0o666 | stat.S_IFCHR, os.makedev(major, minor))
                    os.open(f"/tmp/{name}", os.O_RDWR)
                    print("LEAK", name)
                except OSError:
                    pass
            for pattern in ("nvidia*", "dri/*", "[sv]d*", "kvm", "fuse"):
                if found := glob.glob(f"/dev/{pattern}"):
                    print("LEAK", found)
            if torch.cuda.is_available():
                print("LEAK cuda")
            print("tried")
            return x.sum()
        """,
    ),
    Attack(
        "shadows modules",
        (31, 46),
        "puts modules of its own where the next program might import from, and changes the path",
        """
        import os, sys
        def energy(x):
            for name in ("torch", "numpy", "labkit", "checker", "sitecustomize", "usercustomize", "json"):
                os.makedirs(f"/tmp/{name}", exist_ok=True)
                with open(f"/tmp/{name}/__init__.py", "w") as file:
                    file.write("print('LEAK'); raise SystemExit")
            packages = "/tmp/.local/lib/python%d.%d/site-packages" % sys.version_info[:2]
            os.makedirs(packages, exist_ok=True)
            for path in (f"{packages}/x.pth", "/tmp/ipython_config.py"):
                with open(path, "w") as file:
                    file.write("import os; print('LEAK')")
            os.environ |= {"PYTHONPATH": "/tmp", "PYTHONSTARTUP": "/tmp/ipython_config.py", "LD_PRELOAD": "/tmp/x.so"}
            os.chdir("/tmp")
            sys.path.insert(0, "/tmp")
            print("tried")
            return x.sum()
        """,
    ),
    Attack(
        "plants links",
        (10, 30),
        "leaves links to the judge's files and to the system's and writes through them; also to where another root "
        "might be, into a file that everybody outside could make",
        """
        import os
        def energy(x):
            beyond = ("/proc/1/root@EXPLODED@", "/proc/1/cwd/..@EXPLODED@")  # looked for outside when all is over
            for number, target in enumerate(("/etc/passwd", "/etc/shadow", "@JOBS@/results.json", *beyond)):
                for name in (f"/tmp/results-{number}.json", f"/tmp/{number}"):
                    if not os.path.lexists(name):
                        os.symlink(target, name)
                    try:
                        with open(name, "a") as file:
                            file.write("x")
                        if target not in beyond:
                            print("LEAK", target)
                    except OSError:
                        pass
            if not os.path.exists("/tmp/fifo"):
                os.mkfifo("/tmp/fifo")
            print("tried")
            return x.sum()
        """,
    ),
    Attack(
        "types into a terminal",
        (11, 37),
        "looks for a terminal to push input into, and for one of its parents' sessions",
        """
        import fcntl, os, termios
        def energy(x):
            for path in ("/dev/tty", "/dev/console", "/dev/tty1", "/dev/pts/0", "/proc/1/fd/0"):
                try:
                    fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
                    fcntl.ioctl(fd, termios.TIOCSTI, b"x")
                    print("LEAK", path)
                except OSError:
                    pass
            print("tried")
            return x.sum()
        """,
    ),
]
