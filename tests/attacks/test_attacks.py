"""Ways a notebook tries to gain a point, read a test or hurt a neighbour; each must gain nothing.

Between two attacks the same notebook holds a right answer, which must pass: no attack "fails" by accident, and none
hurts its neighbour.
"""

import json
import os
import tempfile
import textwrap
from pathlib import Path

import pytest

from tests.attacks.conftest import RIGHT, attacked_lab, attacks_notebook

pytestmark = pytest.mark.xdist_group("attacks")  # the attacks of a list share one run of the judge


# Where a judge that unpickles an answer would leave a file.
EXPLODED = Path(tempfile.gettempdir(), f"gradlab-exploded-{os.getpid()}")

# Each attack prints what it found, so that the test can also see that nothing of the checker was in reach.
WITHOUT_POINTS = {
    "frame inspection": """
        def energy(x):
            import sys
            frame = sys._getframe()
            while frame:
                for value in list(frame.f_locals.values()) + list(frame.f_globals.values()):
                    if "hidden-" + "reference" in str(value)[:10000] and value is not x:
                        print("LEAK", value)
                frame = frame.f_back
            return x.sum()
    """,
    "tests on disk": """
        def energy(x):
            import os
            for folder in ("/", "/opt", "/work", "/root", "/home", "/srv", "/tmp", "/var"):
                for base, names, files in os.walk(folder):
                    if base.count("/") > 4 or "site-packages" in base:
                        names.clear()
                    for name in names + files:
                        if name in ("checker", "solution.py", "checks.py", "job.json", "credentials.json"):
                            print("LEAK", base, name)
            return x.sum()
    """,
    "other processes": """
        def energy(x):
            import os
            for pid in filter(str.isdigit, os.listdir("/proc")):
                try:
                    line = open(f"/proc/{pid}/cmdline").read()
                except OSError:
                    continue
                if "checker" in line or "jupyter" in line or "gradlab.cli" in line:
                    print("LEAK", pid, line)
            return x.sum()
    """,
    "garbage collector": """
        def energy(x):
            import gc
            for thing in gc.get_objects():
                if isinstance(thing, torch.Tensor) and thing is not x:
                    print("LEAK" if thing.dtype == torch.float32 and thing.dim() == 0 else "")
                    if thing.shape == () and thing.dtype == torch.float32:
                        return thing
            return x.sum()
    """,
    "patched comparators": """
        import torch.testing
        torch.allclose = torch.isclose = torch.equal = lambda *a, **k: True
        torch.testing.assert_close = lambda *a, **k: None
        torch.Tensor.__eq__ = torch.Tensor.ne = lambda *a: True
        def energy(x):
            return torch.zeros(())
    """,
    "always equal object": """
        class Yes(float):
            def __eq__(self, other): return True
            def __sub__(self, other): return 0.0
            def __le__(self, other): return True
            __hash__ = None
        def energy(x):
            return Yes()
    """,
    "tensor subclass": """
        class Lazy(torch.Tensor):
            @classmethod
            def __torch_function__(cls, function, types, args=(), kwargs=None):
                return True
        def energy(x):
            return torch.zeros(()).as_subclass(Lazy)
    """,
    "environment and argv": """
        def energy(x):
            import os, sys
            for name, value in os.environ.items():
                if "GRADLAB" in name or "JUPYTERHUB" in name or "TOKEN" in name:
                    print("LEAK", name, value)
            return x.sum()
    """,
    "forged verdict on every stream": """
        def energy(x):
            import os, json
            verdict = json.dumps([{"exercise": "energy", "outcome": "passed", "points": 3, "checks": []}])
            print(verdict)
            for path in ("results.json", "/tmp/results.json", "job.json"):
                try:
                    open(path, "w").write(verdict)
                except OSError:
                    pass
            return x.sum()
    """,
    "result file by symlink": """
        def energy(x):
            import os, glob
            for target in glob.glob("/tmp/gradlab-job-*/*") + ["/etc/passwd"]:
                try:
                    open(target, "a").write("x")
                    print("LEAK", target)
                except OSError:
                    pass
            return x.sum()
    """,
    "pickle bomb": """
        class Bomb:
            def __reduce__(self):
                import os
                return (os.system, ("echo LEAK; touch EXPLODED",))
        def energy(x):
            return Bomb()
    """,
    "mutated input": """
        def energy(x):
            x.zero_()
            return x.sum()
    """,
    "hard-coded answers": """
        seen = {}
        def energy(x):
            return seen.setdefault(tuple(x.shape), (x * x).sum() if len(seen) == 0 else x.sum())
    """,
    "not a number": """
        def energy(x):
            return torch.tensor(float("nan"))
    """,
    "network": """
        def energy(x):
            import socket
            for address in (("127.0.0.1", 8000), ("127.0.0.1", 8081), ("169.254.169.254", 80), ("1.1.1.1", 53)):
                try:
                    socket.create_connection(address, timeout=0.2)
                    print("LEAK", address)
                except OSError:
                    pass
            return x.sum()
    """,
    "shadow modules": """
        import os, sys
        os.makedirs("/tmp/checker", exist_ok=True)
        open("/tmp/checker/__init__.py", "w").write("raise SystemExit")
        open("/tmp/sitecustomize.py", "w").write("print('LEAK')")
        sys.path.insert(0, "/tmp")
        def energy(x):
            return x.sum()
    """,
    "guessing the seed": """
        import random
        def energy(x):
            for seed in range(50):
                torch.manual_seed(seed)
                if torch.rand(x.shape).sub(x).abs().sum() < 1e-6:
                    return (x * x).sum()
            return x.sum()
    """,
    "importing the judge": """
        def energy(x):
            try:
                import checker.spec, gradlab.store
                print("LEAK")
            except ImportError:
                pass
            return x.sum()
    """,
    "escaping by ptrace": """
        def energy(x):
            import ctypes, os
            ptrace, attach, detach, any_child = ctypes.CDLL(None).ptrace, 16, 17, 0x4000_0000
            # The agent decides nothing and may be attached to; process 1 may be bubblewrap's own, inside with it.
            for pid in set(range(2, 2**15)) - {os.getpid(), os.getppid()}:
                if ptrace(attach, pid, None, None) == 0:
                    os.waitpid(pid, any_child)
                    ptrace(detach, pid, None, None)
                    print("LEAK", pid)
            return x.sum()
    """,
    "raising the limits": """
        def energy(x):
            import resource
            for name in ("DATA", "NPROC", "FSIZE", "NOFILE"):
                try:
                    resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (resource.RLIM_INFINITY,) * 2)
                    print("LEAK", name)
                except (ValueError, OSError):
                    pass
            return x.sum()
    """,
}


@pytest.fixture(scope="session")
def gained(verdicts):
    attacks = [textwrap.dedent(source).replace("EXPLODED", str(EXPLODED)) for source in WITHOUT_POINTS.values()]
    return dict(zip(WITHOUT_POINTS, verdicts(attacks), strict=True))


@pytest.mark.parametrize("name", WITHOUT_POINTS)
def test_gains_no_point_and_finds_nothing(name, gained):
    result = gained[name]
    assert result.points == 0
    assert result.outcome in ("failed", "error in your code"), result
    assert "LEAK" not in result.output


def test_nothing_of_an_answer_is_unpickled_by_the_judge(gained):
    assert gained["pickle bomb"].outcome == "failed"
    assert not EXPLODED.exists()


# What ends or breaks the program: the verdict says how, and the next exercise is judged all the same.
ENDINGS = {
    "os._exit": ("import os\ndef energy(x):\n    os._exit(0)", "killed", "ended its Python process"),
    "sys.exit": ("import sys\ndef energy(x):\n    sys.exit(0)", "error in your code", "SystemExit"),
    "raise SystemExit at the top": ("raise SystemExit\nenergy = 1", "error in your code", "not callable"),
    "kills the agent": ("import os\ndef energy(x):\n    os.kill(os.getppid(), 9)\n    os._exit(0)", "killed", "ended"),
    "kills everything": ("import os\ndef energy(x):\n    os.kill(-1, 9)", "killed|failed", ""),
    "endless loop": ("def energy(x):\n    while True: pass", "timed out", "did not finish within 2 s"),
    "sleeps": ("import time\ndef energy(x):\n    time.sleep(60)", "timed out", "did not finish within 2 s"),
    "ignores signals": (
        "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\n"
        "def energy(x):\n    while True: pass",
        "killed|error in your code|timed out",
        "",
    ),
    "endless output": ("def energy(x):\n    while True: print('x' * 10000)", "killed", "printed more than is allowed"),
    "memory bomb": ("def energy(x):\n    return torch.zeros(10**10)", "out of memory", "can't allocate memory"),
    "list bomb": ("def energy(x):\n    return [0] * 10**10", "out of memory", "MemoryError"),
    "segmentation fault": ("import ctypes\ndef energy(x):\n    ctypes.string_at(0)", "killed", "crashed the Python"),
    "deep recursion": ("def energy(x):\n    return energy(x)", "error in your code", "RecursionError"),
    "huge answer": ("def energy(x):\n    return torch.zeros(1).expand(10**9)", "out of memory|error in your code", ""),
    "deep answer": (
        "def energy(x):\n    a = []\n    for _ in range(1000): a = [a]\n    return a",
        "error in your code",
        "nested more than 64",
    ),
    "exception with evil text": (
        "class E(Exception):\n    def __str__(self): raise ValueError\ndef energy(x):\n    raise E",
        "error in your code",
        "could not be read",
    ),
    "writes over the answer": (
        "import os\ndef energy(x):\n    for fd in range(3, 20):\n        try: os.write(fd, b'nonsense' * 100)\n"
        "        except OSError: pass\n    return x.sum()",
        "killed",
        "wrote over the answers",
    ),
    "closes the answer": (
        "import os\ndef energy(x):\n    os.closerange(3, 50)\n    return x.sum()",
        "killed",
        "ended",
    ),
    "missing": ("enrgy = 1", "not attempted", "is not defined anywhere"),
    "not a function": ("energy = 7", "error in your code", "'int' object is not callable"),
}


@pytest.fixture(scope="session")
def ended(verdicts):
    return dict(zip(ENDINGS, verdicts([source for source, _, _ in ENDINGS.values()]), strict=True))


@pytest.mark.parametrize("name", ENDINGS)
def test_ends_with_its_cause_and_spares_the_neighbour(name, ended):
    _, outcome, says = ENDINGS[name]
    result = ended[name]
    assert result.points == 0
    assert result.outcome in outcome.split("|"), result
    assert says in result.message


FORGED_FRAME = """
from labkit.wire import pack
import os
def energy(x):
    for number in range(1, 40):
        for fd in range(3, 12):
            try:
                os.write(fd, pack({"n": number, "value": (torch.zeros(()), [x])}))
            except OSError:
                pass
    os._exit(0)
"""
FORK_BOMB = "import os\ndef energy(x):\n    while True:\n        os.fork()"
BADLY_FORGED_FRAME = FORGED_FRAME.replace("(torch.zeros(()), [x])", "5")
CHILD_LEFT_BEHIND = """
import os, time
def energy(x):
    if os.fork() == 0:
        os.setsid()
        while True:
            time.sleep(0.01)
    return (x * x).sum()
"""
FULL_DISK = "def energy(x):\n    with open('/tmp/big', 'wb') as f:\n        while True: f.write(b'0' * 10**6)"
WRITES_EVERYWHERE = """
import os
def energy(x):
    for base, folders, files in os.walk("/"):
        if base.startswith(("/proc", "/tmp")):
            folders.clear()
            continue
        if base.count("/") > 2:
            folders.clear()
        try:
            open(os.path.join(base, "x"), "w").close()
            print("LEAK", base)
        except OSError:
            pass
    return (x * x).sum()
"""


@pytest.fixture(scope="session")
def special(verdicts):
    names = ("FORGED_FRAME", "BADLY_FORGED_FRAME", "FORK_BOMB", "CHILD_LEFT_BEHIND", "FULL_DISK", "WRITES_EVERYWHERE")
    return dict(zip(names, verdicts([globals()[name] for name in names]), strict=True))


def test_a_forged_answer_frame_is_only_an_answer(special):
    """Whatever the program writes where answers go is compared like any other answer."""
    result = special["FORGED_FRAME"]
    assert result.points == 0
    assert result.outcome in ("failed", "killed")


def test_a_forged_frame_of_another_shape_is_the_learners_fault_not_ours(special):
    result = special["BADLY_FORGED_FRAME"]
    assert (result.outcome, result.message) == ("killed", "Your code wrote over the answers it should return.")


def test_a_fork_bomb_stays_in_its_sandbox(special):
    assert special["FORK_BOMB"].points == 0
    assert special["FORK_BOMB"].outcome in ("timed out", "killed", "error in your code", "failed")


def test_a_child_left_behind_changes_nothing_of_the_next_exercise(special):
    assert special["CHILD_LEFT_BEHIND"].outcome == "passed"


def test_a_full_disk_is_the_programs_own_problem(special):
    result = special["FULL_DISK"]
    assert result.outcome in ("error in your code", "killed")
    assert result.points == 0


def test_no_path_but_scratch_is_writable(special):
    assert "LEAK" not in special["WRITES_EVERYWHERE"].output
    assert special["WRITES_EVERYWHERE"].outcome == "passed"


def test_the_same_seed_gives_the_same_verdict_and_another_one_other_inputs(judge, tmp_path):
    lab = attacked_lab(tmp_path, 1)
    wrong = attacks_notebook(["def energy(x):\n    return x.sum()"])
    first, again, other = (judge.check(lab, wrong, seed=seed).results[0].message for seed in (5, 5, 6))
    assert first == again
    assert first != other


BROKEN_CHECK = """
@check("energy_0")
def is_broken():
    raise ValueError("author")

"""


def test_a_check_that_breaks_is_our_fault_and_the_next_exercise_is_judged_all_the_same(judge, tmp_path):
    lab = attacked_lab(tmp_path, 2)
    lab.checks.write_text(lab.checks.read_text().replace("# %%\n@check", f"# %%{BROKEN_CHECK}# %%\n@check", 1))
    verdict = judge.check(lab, attacks_notebook([RIGHT, RIGHT]), seed=1)
    first, second = verdict.results
    assert (first.outcome, first.points) == ("our fault", 0)
    assert first.message == "The check 'is_broken' is broken: ValueError: author"
    assert (second.outcome, second.points) == ("passed", 3)
    assert "in is_broken" in verdict.report  # the traceback


def raised(report):
    """The errors among the outputs of an executed notebook."""
    outputs = [output for cell in json.loads(report)["cells"] for output in cell.get("outputs", ())]
    return [(o["ename"], o["evalue"]) for o in outputs if o["output_type"] == "error"]


@pytest.mark.parametrize(
    ("extra", "error"),
    [
        ("raise ValueError('author')", ("ValueError", "author")),
        ("def broken(", ("SyntaxError", "line 1")),
        ("import os; os._exit(1)", None),
    ],
)
def test_a_broken_checker_never_passes_anyone_and_its_error_is_in_the_report(extra, error, judge, tmp_path):
    lab = attacked_lab(tmp_path, 1)
    lab.checks.write_text(lab.checks.read_text() + f"\n# %%\n{extra}\n")
    verdict = judge.check(lab, attacks_notebook([RIGHT]), seed=1)
    assert (verdict.results[0].outcome, verdict.points) == ("our fault", 0)
    if error is None:  # the kernel itself is gone, and with it what it had to say
        assert verdict.report == ""
    else:
        [(name, text)] = raised(verdict.report)
        assert name == error[0]
        assert error[1] in text


def test_the_report_is_the_executed_notebook_once(judge, tmp_path):
    verdict = judge.check(attacked_lab(tmp_path, 1), attacks_notebook([RIGHT]), seed=1)
    assert raised(verdict.report) == []
    assert verdict.report.count("SECRET_OF_THE_CHECKER") == 1
    assert "gradlab-job-" not in json.loads(verdict.report)["metadata"]["papermill"].values()


def test_an_exercise_without_checks_is_our_fault_not_a_pass(judge, tmp_path):
    lab = attacked_lab(tmp_path, 1)
    lab.checks.write_text(lab.checks.read_text().split("# %%\n@check")[0])
    verdict = judge.check(lab, attacks_notebook([RIGHT]), seed=1)
    assert verdict.results[0].outcome == "our fault"
    assert "no check for this exercise" in verdict.results[0].message
