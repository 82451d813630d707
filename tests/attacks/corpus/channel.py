"""Attacks on the way back: programs that write where the agent answers, or that patch it."""

from tests.attacks.attack import Attack

__all__ = ["ATTACKS", "FRAMES"]

FRAMES = """
        import os
        from labkit.wire import pack
        def my_pipes():
            for fd in range(3, 64):
                try:
                    if os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:"):
                        yield fd
                except OSError:
                    pass
        def my_write(answer):
            for fd in list(my_pipes()):
                try:
                    os.write(fd, answer if type(answer) is bytes else pack(answer))
                except OSError:
                    pass
"""
ATTACKS = [
    Attack(
        "writes when it ends",
        (9, 11),
        "writes a right answer and a verdict when it is asked to end, itself and by a thread for which it waits",
        FRAMES
        + """
        import json, threading, time
        my_exit = os._exit
        def my_last_words():
            my_write({"n": 1, "value": (torch.zeros(()), [])})
            print(json.dumps({"outcome": "passed", "points": 3}), flush=True)
        def energy(x):
            ending = threading.Event()
            threading.Thread(target=lambda: (ending.wait(), my_last_words()), daemon=True).start()
            os._exit = lambda status: (my_last_words(), ending.set(), time.sleep(0.1), my_exit(status))
            print("tried", flush=True)
            return x.sum()
        """,
    ),
    Attack(
        "ends twice",
        (8, 50),
        "writes, when it is asked to end, the agent's word for it and an answer to the next program's first question: "
        "what the agent then says of the end is heard as the next program's",
        FRAMES
        + """
        my_exit = os._exit
        def energy(x):
            os._exit = lambda status: (my_write({"ended": 0}), my_write({"n": 1, "value": None}), my_exit(status))
            print("tried", flush=True)
            return x.sum()
        """,
    ),
    Attack(
        "leaves a writer",
        (9, 11, 50),
        "leaves a child that writes over the next program's answers as soon as this one has ended",
        FRAMES
        + """
        import time
        my_parent, my_started = os.getpid(), []
        def energy(x):
            if not my_started and os.fork() == 0:
                while os.getppid() == my_parent:
                    time.sleep(0.0005)
                for _ in range(2000):
                    my_write({"n": -1, "value": 5})
                    time.sleep(0.0005)
                os._exit(0)
            my_started.append(True)
            print("tried", flush=True)
            return x.sum()
        """,
    ),
    Attack(
        "writes answers that were not asked for",
        (11, 50),
        "writes well-formed answers to this and to later questions into every pipe, then answers",
        FRAMES
        + """
        def energy(x):
            for number in range(1, 40):
                my_write({"n": number, "value": (torch.zeros(()), [x])})
            print("tried", flush=True)
            return x.sum()
        """,
        ends="failed|killed",
        cut_short=True,
    ),
    Attack(
        "answers in another form",
        (11, 50),
        "writes an answer whose parts are not what the judge asked for",
        FRAMES
        + """
        def energy(x):
            for number in range(1, 40):
                my_write({"n": number, "value": 5})
            os._exit(0)
        """,
        ends="killed",
        says="Your code wrote over the answers it should return.",
        cut_short=True,
    ),
    Attack(
        "says that it has ended",
        (8, 50),
        "writes the agent's word for the end of a program, and lives on to hear what the next program is asked",
        FRAMES
        + """
        import time
        def energy(x):
            my_write({"ended": 0})
            time.sleep(1)
            return x.sum()
        """,
        ends="killed|failed",
        cut_short=True,
    ),
    Attack(
        "patches the agent",
        (11, 51),
        "replaces the functions that pack and send answers by ones that tell of success",
        """
        import labkit.program, labkit.wire
        from labkit.wire import pack
        def my_answer(self, number, work):
            self._frames.send(pack({"n": number, "value": ("passed", []), "outcome": "passed", "points": 3}))
        def my_pack(answer, keep=None):
            return pack({**answer, "outcome": "passed", "points": 3}, keep)
        def energy(x):
            labkit.program.Program._answer = my_answer
            labkit.wire.pack = labkit.program.pack = my_pack
            print("tried", flush=True)
            return x.sum()
        """,
        ends="failed|killed",
        cut_short=True,
    ),
]
