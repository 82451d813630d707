"""Attacks on what there is a limited amount of: time, memory, processes, files, output, and the judge's patience."""

from tests.attacks.attack import Attack
from tests.attacks.corpus.channel import FRAMES

__all__ = ["ATTACKS"]

ATTACKS = [
    Attack(
        "forks without end",
        (24,),
        "forks in every child, for as long as there are processes to be had",
        """
        import os
        def energy(x):
            while True:
                os.fork()
        """,
        ends="timed out|killed|error in your code|failed",
        cut_short=True,
        seconds=1,
    ),
    Attack(
        "starts threads without end",
        (24,),
        "starts threads that never end",
        """
        import threading
        def energy(x):
            while True:
                threading.Thread(target=threading.Event().wait, daemon=True).start()
        """,
        ends="error in your code|timed out|killed",
        cut_short=True,
        seconds=5,
    ),
    Attack(
        "keeps every core busy",
        (64,),
        "starts as many processes as it may, each in a session of its own, and lets all of them compute until the end",
        """
        import os
        def energy(x):
            started = 0
            try:
                while True:
                    if os.fork() == 0:
                        os.setsid()  # Linux may give each session the same share of the cores
                        os.execv("/bin/sh", ["@MARK@", "-c", "while :; do :; done"])
                    started += 1
                    if started == 8:
                        print("tried", flush=True)  # the others take long to start beside these
            except OSError:
                pass
            while True:
                pass
        """,
        ends="timed out",
        says="Your code did not finish within 5 s.",
        seconds=5,
    ),
    Attack(
        "takes all memory in one tensor",
        (25,),
        "asks for 40 GB at once",
        """
        def energy(x):
            print("tried", flush=True)
            return torch.zeros(10**10)
        """,
        ends="out of memory",
        says="The check ran out of memory: what is the largest thing your code makes at one time?",
    ),
    Attack(
        "takes all memory in a list",
        (25,),
        "asks for 80 GB at once, in Python's own words",
        """
        def energy(x):
            print("tried", flush=True)
            return [0] * 10**10
        """,
        ends="out of memory",
        says="MemoryError",
    ),
    Attack(
        "takes all memory piece by piece",
        (25,),
        "keeps 16 MiB after another until there is no more",
        """
        my_kept = []
        def energy(x):
            while True:
                my_kept.append(bytearray(b"x") * (16 << 20))
        """,
        ends="out of memory|killed",
        cut_short=True,
    ),
    Attack(
        "takes memory that can be shared",
        (25, 60),
        "keeps anonymous shared mappings, 64 MiB after another, up to a quarter more than it may have",
        """
        import mmap
        my_kept = []
        def energy(x):
            while len(my_kept) < 20:
                my_kept.append(mmap.mmap(-1, 64 << 20))
                for page in range(0, 64 << 20, 4096):
                    my_kept[-1][page] = 1
            print("LEAK", 64 * len(my_kept), "MiB")
            print("tried")
            return x.sum()
        """,
        ends="out of memory|killed|error in your code",
        cut_short=True,
    ),
    Attack(
        "takes memory in files without a name",
        (25, 60),
        "fills files in memory, of 8 MiB each, up to a quarter more than it may have",
        """
        import os
        my_kept, my_piece = [], b"x" * (1 << 20)
        def energy(x):
            got = 0
            while got < 1280 and len(my_kept) < 200:
                my_kept.append(os.memfd_create("x"))
                for _ in range(8):
                    got += os.write(my_kept[-1], my_piece) >> 20
            print("LEAK", got, "MiB")
            return x.sum()
        """,
        ends="out of memory|killed|error in your code",
        cut_short=True,
    ),
    Attack(
        "takes memory as System V did",
        (25, 60),
        "keeps shared segments of 64 MiB, up to a quarter more than it may have",
        """
        import ctypes
        my_libc = ctypes.CDLL(None, use_errno=True)
        my_libc.shmat.restype = ctypes.c_void_p
        def energy(x):
            got = 0
            while got < 1280:
                segment = my_libc.shmget(0, ctypes.c_size_t(64 << 20), 0o1600)
                address = my_libc.shmat(segment, None, 0) if segment >= 0 else None
                if address in (None, 2**64 - 1):
                    raise MemoryError
                ctypes.memset(address, 1, 64 << 20)
                my_libc.shmdt(ctypes.c_void_p(address))
                got += 64
            print("LEAK", got, "MiB")
            return x.sum()
        """,
        ends="out of memory|killed|error in your code",
        cut_short=True,
    ),
    Attack(
        "never ends",
        (26,),
        "computes without end",
        """
        def energy(x):
            print("tried", flush=True)
            while True:
                pass
        """,
        ends="timed out",
        says="Your code did not finish within 3 s.",
        seconds=3,
    ),
    Attack(
        "ignores every signal",
        (26,),
        "ignores what can be ignored, then computes without end in itself and in a child",
        """
        import os, signal
        def energy(x):
            for number in range(1, 65):
                try:
                    signal.signal(number, signal.SIG_IGN)
                except (OSError, ValueError):
                    pass
            print("tried", flush=True)
            os.fork()
            while True:
                pass
        """,
        ends="timed out",
        says="Your code did not finish within 3 s.",
        seconds=3,
    ),
    Attack(
        "prints without end",
        (27,),
        "prints as fast as it can",
        """
        def energy(x):
            while True:
                print("x" * 10000)
        """,
        ends="killed",
        says="Your code printed more than is allowed, and was stopped.",
        cut_short=True,
    ),
    Attack(
        "prints what drives terminals",
        (27, 34, 61),
        "prints and raises control characters, NUL, bytes that are no text, lone surrogates and script",
        """
        import os, sys
        evil = "\\x1b]0;x\\x07\\x1b[2J\\0\\r\\u202e<script>alert(1)</script>{{7*7}}"
        def energy(x):
            os.write(1, b"\\xff\\xfe\\0" + evil.encode())
            print(evil, file=sys.stderr)
            print("tried", flush=True)
            raise ValueError(evil + "\\ud800")
        """,
        ends="error in your code",
        says="ValueError",
    ),
    Attack(
        "fills the disk",
        (28,),
        "writes a file as large as it gets, then another",
        """
        def energy(x):
            for number in range(4):
                try:
                    with open(f"/tmp/big{number}", "wb") as file:
                        while True:
                            file.write(b"0" * 10**6)
                except OSError as error:
                    print(error.strerror)
            import shutil
            if shutil.disk_usage("/tmp").used > 9 << 20:
                print("LEAK")
            print("tried")
            raise OSError("full")
        """,
        ends="error in your code",
    ),
    Attack(
        "floods the file system with files",
        (28, 62),
        "makes empty files, of which a limit on bytes counts none",
        """
        def energy(x):
            number = 0
            while True:
                open(f"/tmp/{number}", "w").close()
                number += 1
        """,
        ends="error in your code|timed out|killed|out of memory",
        cut_short=True,
        seconds=2,
    ),
    Attack(
        "opens files without end",
        (24, 28),
        "opens files until it may not",
        """
        import os
        def energy(x):
            opened = []
            try:
                while len(opened) < 10_000:
                    opened.append(os.open("/dev/null", os.O_RDONLY))
                print("LEAK")
            except OSError:
                print("tried")
            for fd in opened:
                os.close(fd)
            return x.sum()
        """,
    ),
    Attack(
        "answers without end",
        (27, 50),
        "writes bytes where answers go, as fast as the judge can read them",
        FRAMES
        + """
        from labkit.wire import PREFIX
        def energy(x):
            my_write(PREFIX.pack(b"GLW1", 100, 200 << 20))
            while True:
                my_write(b"x" * 65536)
        """,
        ends="killed|timed out",
        cut_short=True,
        seconds=10,
    ),
    Attack(
        "answers byte by byte",
        (26, 50),
        "lets an answer drip, so that something always comes",
        FRAMES
        + """
        import time
        def energy(x):
            answer = pack({"n": 2, "value": (torch.zeros(()), [])})
            while True:
                for byte in answer[:-1]:
                    my_write(bytes([byte]))
                    time.sleep(0.05)
                time.sleep(600)
        """,
        ends="timed out|killed",
        cut_short=True,
        seconds=1,
    ),
    Attack(
        "announces a huge answer",
        (27, 50),
        "sends the start of a frame of 16 EiB",
        FRAMES
        + """
        def energy(x):
            my_write(b"GLW1" + b"\\xff" * 12)
            return x.sum()
        """,
        ends="killed",
        says="Your code wrote over the answers it should return.",
        cut_short=True,
    ),
    Attack(
        "scribbles over the answers",
        (11, 50),
        "writes nonsense into every descriptor",
        """
        import os
        def energy(x):
            for fd in range(3, 20):
                try:
                    os.write(fd, b"nonsense" * 100)
                except OSError:
                    pass
            return x.sum()
        """,
        ends="killed",
        says="Your code wrote over the answers it should return.",
        cut_short=True,
    ),
    Attack(
        "closes the way back",
        (8, 50),
        "closes every descriptor but the standard ones",
        """
        import os
        def energy(x):
            os.closerange(3, 256)
            return x.sum()
        """,
        ends="killed",
        says="ended",
        cut_short=True,
    ),
    Attack(
        "returns more than there is",
        (25, 29),
        "returns a view of one element that has a billion",
        """
        def energy(x):
            print("tried", flush=True)
            return torch.zeros(1).expand(10**9)
        """,
        ends="out of memory|error in your code",
    ),
    Attack(
        "returns what has no end",
        (29,),
        "returns a list that holds itself, after one of a million items and a number of a million digits",
        """
        def energy(x):
            print("tried", flush=True)
            loop = [[0] * 10**6, 10**1000000]
            loop.insert(0, loop)
            return loop
        """,
        ends="error in your code",
        says="nested more than 64",
    ),
    Attack(
        "calls itself without end",
        (26,),
        "recurses until Python gives up",
        """
        def energy(x):
            print("tried", flush=True)
            return inner(x)
        def inner(x):
            return inner(x)
        """,
        ends="error in your code",
        says="RecursionError",
    ),
]
