"""How an exercise can end, each end to end with the sentence that the learner reads, the others judged beside it."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from checker.results import Outcome, Result
from tests.attacks.attack import Attack
from tests.attacks.campaign import Campaign
from tests.attacks.corpus import ATTACKS
from tests.attacks.lab import RIGHT, attacked_lab, attacks_notebook, strays
from tests.sandboxes import marked
from tests.waiting import until

SHAPE = r"<tensor \([\d, ]+\) float32>"
# (answer, outcome, message as a whole, seconds it may take)
ENDS: dict[str, tuple[str, Outcome, str, float]] = {
    "right": (RIGHT, Outcome.PASSED, "", 30),
    "wrong": (
        "def energy(x):\n    return x.sum()",
        Outcome.FAILED,
        rf"energy_N\({SHAPE}\) returned -?[\d.e-]+, not -?[\d.e-]+\..*",
        30,
    ),
    "an exception": (
        "def energy(x):\n    raise KeyError('k')",
        Outcome.ERROR,
        rf"energy_N\({SHAPE}\) raised KeyError: 'k' \(cell \d+, line 2\)\n"
        r'  File "<cell \d+>", line 2, in energy_N\n    raise KeyError\(\'k\'\)',
        30,
    ),
    "no definition": (
        "unrelated = 1",
        Outcome.NOT_ATTEMPTED,
        r"energy_N is not defined anywhere in the notebook\.",
        30,
    ),
    "the stub": ("def energy(x):\n    raise NotImplementedError", Outcome.NOT_ATTEMPTED, "", 30),
    "no Python": (
        "def energy(x):\n    return (",
        Outcome.ERROR,
        r"SyntaxError in cell \d+, line 2: '\(' was never closed",
        30,
    ),
    "out of time": (
        "def energy(x):\n    while True: pass",
        Outcome.TIMED_OUT,
        r"Your code did not finish within 1 s\.",
        1,
    ),
    "MemoryError": (
        "def energy(x):\n    return [0] * 10**10",
        Outcome.OUT_OF_MEMORY,
        rf"energy_N\({SHAPE}\) raised MemoryError \(cell \d+, line 2\)\n"
        r"The check ran out of memory: what is the largest thing your code makes at one time\?\n.*",
        30,
    ),
    "killed as for memory": (
        "import os\ndef energy(x):\n    os.kill(os.getpid(), 9)",
        Outcome.KILLED,
        r"Your code was killed; most often it wanted more memory than there is\.",
        30,
    ),
    "os._exit": (
        "import os\ndef energy(x):\n    os._exit(3)",
        Outcome.KILLED,
        r"Your code ended its Python process \(status 3\) instead of returning\.",
        30,
    ),
    "sys.exit": (
        "import sys\ndef energy(x):\n    sys.exit(0)",
        Outcome.ERROR,
        rf"energy_N\({SHAPE}\) raised SystemExit: 0 \(cell \d+, line 3\)\n.*",
        30,
    ),
    "a segmentation fault": (
        "import ctypes\ndef energy(x):\n    ctypes.string_at(0)",
        Outcome.KILLED,
        r"Your code crashed the Python interpreter \(a segmentation fault\)\.",
        30,
    ),
    "another signal": (
        "import os, signal\ndef energy(x):\n    os.kill(os.getpid(), signal.SIGTERM)",
        Outcome.KILLED,
        r"Your code was ended by the signal SIGTERM\.",
        30,
    ),
    "too much output": (
        "def energy(x):\n    while True: print('x' * 10000)",
        Outcome.KILLED,
        r"Your code printed more than is allowed, and was stopped\.",
        30,
    ),
    "no way back": (
        "import os\ndef energy(x):\n    os.closerange(3, 256)\n    return x.sum()",
        Outcome.KILLED,
        r"Your code ended .*",
        30,
    ),
    "a GPU out of memory": (
        "class OutOfMemoryError(RuntimeError): pass\ndef energy(x):\n"
        "    raise OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has a capacity of 1 GiB')",
        Outcome.OUT_OF_MEMORY,
        rf"energy_N\({SHAPE}\) raised OutOfMemoryError: CUDA out of memory\. .* \(cell \d+, line 3\)\n"
        r"GPU 0 ran out of memory: what is the largest tensor on it, and what keeps old ones alive\?\n.*",
        30,
    ),
    "what it builds on failed": (
        RIGHT,
        Outcome.SKIPPED,
        r"Not judged yet: it builds on energy_1, which has not passed\.",
        30,
    ),
}


@pytest.fixture(scope="session")
def results(campaign: Campaign, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """One notebook with all of them."""
    limits = [seconds for *_, seconds in ENDS.values()]
    lab = attacked_lab(tmp_path_factory.mktemp("lab"), len(ENDS), seconds=limits, needs="energy_1")
    verdict = campaign.judge.check(lab, attacks_notebook([source for source, *_ in ENDS.values()]), seed=1)
    return dict(zip(ENDS, verdict.results, strict=True))


@pytest.mark.parametrize("name", ENDS)
def test_an_end_has_its_outcome_and_its_sentence(name: str, results: dict[str, Result]) -> None:
    _, outcome, message, _ = ENDS[name]
    result = results[name]
    expected = message.replace("energy_N", result.exercise)
    assert result.outcome is outcome, result
    assert re.fullmatch(expected, result.message, re.DOTALL), result.message
    assert result.points == (3 if outcome is Outcome.PASSED else 0)


def test_every_outcome_but_our_fault_is_among_them() -> None:
    """Our fault is test_checker.py's here, and tests/unit/test_checks.py has what follows from it."""
    assert {outcome for _, outcome, *_ in ENDS.values()} == set(Outcome) - {Outcome.OUR_FAULT}


WARNS = """
import logging, os, sys, warnings
def energy(x):
    warnings.simplefilter("always")
    for number in range(100):
        warnings.warn(f"deprecated {number}", DeprecationWarning)
        logging.warning("careful %d", number)
    os.write(2, b"a library's own words\\n" * 50)
    print("Traceback (most recent call last): Error", file=sys.stderr)
    return (x * x).sum()
"""
SLOW = "import time\ndef energy(x):\n    time.sleep(0.5)\n    return (x * x).sum()"
BUSY = """
import time
def energy(x):
    end = time.perf_counter() + 0.3
    while time.perf_counter() < end:
        pass
    return (x * x).sum()
"""


def test_honest_solutions_that_print_warnings_keep_full_marks(campaign: Campaign) -> None:
    verdict = campaign.check(WARNS, WARNS, WARNS)
    assert (verdict.points, verdict.passed) == (9, True), verdict
    assert all("DeprecationWarning: deprecated 99" in result.output for result in verdict.results)


def test_honest_solutions_that_are_slow_but_in_time_keep_full_marks(campaign: Campaign) -> None:
    verdict = campaign.check(SLOW, BUSY, SLOW, seconds=20)
    assert (verdict.points, verdict.passed) == (9, True), verdict
    assert verdict.result("energy_0").seconds > 2


COMPUTES = """
def energy(x):
    matrix = torch.ones(256, 256)
    for _ in range(20):
        matrix = (matrix @ matrix).clamp(max=1)
    return (x * x).sum()
"""


def test_one_that_keeps_every_core_busy_costs_another_no_mark(campaign: Campaign) -> None:
    """It is bounded in seconds and in processes, not in its share of the cores: others are slower, and in time."""
    attack = next(attack for attack in ATTACKS if attack.name == "keeps every core busy")
    campaign.warm()
    with ThreadPoolExecutor(1) as threads:
        theirs = threads.submit(campaign.check, attack.program(campaign.facts), seconds=attack.seconds)
        until(lambda: len(marked(campaign.mark)) > 10, 60)
        honest = campaign.check(COMPUTES, COMPUTES)
    assert (honest.points, honest.passed) == (6, True), honest
    assert theirs.result().results[0].outcome is Outcome.TIMED_OUT


# The children take most of what a container has, each of them less than the program then takes: the kernel, which ends
# the largest, ends the program. Where only each process is bounded, the program comes to its own bound.
CROWD = """
import os, time
def energy(x):
    for _ in range(8):
        if os.fork() == 0:
            kept = bytearray(b"x") * (64 << 20)
            time.sleep(600)
    time.sleep(2)
    kept = []
    while True:
        kept.append(bytearray(b"x") * (8 << 20))
"""


def test_a_kill_by_the_kernel_for_want_of_memory_is_told_from_others(campaign: Campaign) -> None:
    result = campaign.check(CROWD).results[0]
    killed = "Your code wanted more memory than a check has, and was killed."
    refused = "The check ran out of memory: what is the largest thing your code makes at one time?"
    assert result.outcome is Outcome.OUT_OF_MEMORY, result
    assert (killed if campaign.config.method == "docker" else refused) in result.message


def test_what_one_check_leaves_no_other_finds(campaign: Campaign) -> None:
    """Files, shared memory, queues, sockets: none lives longer than its sandbox, none is seen in another."""
    attack = Attack("leaves a message", (2, 63), "leaves notes for other checks and looks for theirs", NOTES)
    source = attack.program(campaign.facts)
    assert strays([source], 0) == ([], [])
    with ThreadPoolExecutor(2) as threads:  # two at one time, then one after them
        verdicts = [*threads.map(campaign.check, [source] * 2), campaign.check(source)]
    for verdict in verdicts:
        lines = verdict.results[0].output.splitlines()
        assert set(lines) == {"left"}, verdict


NOTES = """
import ctypes, os, socket, time
libc = ctypes.CDLL(None, use_errno=True)
def leave_notes():
    found, path = [], "/tmp/@MARK@"
    if os.path.exists(path):
        found.append("file")
    open(path, "w").write("note")
    if libc.shmget(0x5EED, ctypes.c_size_t(4096), 0o600) >= 0:
        found.append("segment")
    libc.shmget(0x5EED, ctypes.c_size_t(4096), 0o1600)
    if libc.mq_open(b"/@MARK@", 0) >= 0:
        found.append("queue")
    libc.mq_open(b"/@MARK@", 0o102, 0o600, None)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind("\\0@MARK@")
    except OSError:
        found.append("socket")
    time.sleep(2)  # for another to find
    return found, listener
found, listener = leave_notes()
def energy(x):
    print("left", *found)
    return (x * x).sum()
"""
KEYS = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def call(*args):
    return libc.syscall(*(ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args))
add, search = 248, (250, 10)
def energy(x):
    keyring, search  # its statements run once for each of the names they bind: `energy` alone would leave the loop out
    return (x * x).sum()
for keyring in (-3, -4, -5):
    print("found" if call(*search, keyring, b"user", b"@MARK@", 0) >= 0 else "nothing")
    call(add, b"user", b"@MARK@", b"note", 4, keyring)
"""


def test_no_key_of_the_kernel_passes_from_one_check_to_another(campaign: Campaign) -> None:
    source = KEYS.replace("@MARK@", campaign.mark)
    assert strays([source], 0) == ([], [])
    for _ in range(2):
        result = campaign.check(source).results[0]
        assert "nothing" in result.output, result
        assert "found" not in result.output
