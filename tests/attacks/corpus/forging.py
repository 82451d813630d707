"""Attacks on the comparison: what is returned, raised, patched or replayed in the place of a right answer."""

from tests.attacks.attack import Attack

__all__ = ["ATTACKS"]

ATTACKS = [
    Attack(
        "patches the comparison",
        (4,),
        "replaces whatever compares tensors, arrays and floats",
        """
        import math, operator
        import numpy as np
        import torch.testing
        def energy(x):
            always = lambda *args, **kwargs: True
            torch.allclose = torch.isclose = torch.equal = math.isclose = operator.eq = always
            np.allclose = np.array_equal = always
            torch.testing.assert_close = np.testing.assert_allclose = lambda *args, **kwargs: None
            torch.Tensor.__eq__ = torch.Tensor.ne = torch.Tensor.__bool__ = torch.Tensor.all = always
            print("tried")
            return torch.zeros(())
        """,
    ),
    Attack(
        "switches off assertions",
        (5,),
        "takes away AssertionError, tracebacks and exception hooks, and catches whatever is raised",
        """
        import builtins, sys, traceback
        def energy(x):
            builtins.AssertionError = type("Quiet", (BaseException,), {})
            sys.tracebacklimit = 0
            sys.excepthook = sys.unraisablehook = traceback.print_exc = lambda *args: None
            sys.flags = None
            print("tried")
            return torch.zeros(())
        """,
    ),
    Attack(
        "equals everything",
        (6,),
        "returns a float that says yes to every comparison",
        """
        class Yes(float):
            def __eq__(self, other): return True
            def __sub__(self, other): return 0.0
            def __le__(self, other): return True
            __lt__ = __ge__ = __gt__ = __le__
            __rsub__ = __sub__
            __hash__ = None
            dtype, shape, device = torch.float32, torch.Size([]), torch.device("cpu")
        def energy(x):
            print("tried")
            return Yes()
        """,
    ),
    Attack(
        "returns a tensor of its own kind",
        (7,),
        "returns a subclass of Tensor that answers every operation with True",
        """
        class Lazy(torch.Tensor):
            @classmethod
            def __torch_function__(cls, function, types, args=(), kwargs=None):
                return True
        def energy(x):
            print("tried")
            return torch.zeros(()).as_subclass(Lazy)
        """,
    ),
    Attack(
        "computes when compared",
        (7, 20),
        "returns an object that has no value until somebody looks at it",
        """
        class Later:
            def __init__(self, x): self.x = x
            def __array__(self, *args, **kwargs): return (self.x * self.x).sum().numpy()
            def __float__(self): return float((self.x * self.x).sum())
            def __getattr__(self, name): return getattr((self.x * self.x).sum(), name)
            def __eq__(self, other): return True
            __class__ = property(lambda self: torch.Tensor)
        def energy(x):
            print("tried")
            return Later(x)
        """,
    ),
    Attack(
        "returns a pickle bomb",
        (13,),
        "returns an object that runs a command wherever it is unpickled",
        """
        class Bomb(dict):
            def __reduce__(self):
                import os
                return (os.system, ("echo LEAK; touch @EXPLODED@",))
            __reduce_ex__ = lambda self, protocol: self.__reduce__()
        class Tensor(torch.Tensor):
            __reduce_ex__ = lambda self, protocol: Bomb().__reduce__()
        def energy(x):
            print("tried")
            return [Bomb(a=Tensor(2)), Tensor(3)]
        """,
    ),
    Attack(
        "knows the visible cases",
        (14,),
        "has a table of answers by shape, right for those that a learner has seen",
        """
        table = {(2,): 1.0, (2, 2): 2.0, (3, 4): 12.0}
        def energy(x):
            print("tried")
            return torch.tensor(table.get(tuple(x.shape), 0.0))
        """,
    ),
    Attack(
        "gives its first answer again",
        (18,),
        "computes once, and returns the same tensor ever after",
        """
        first = []
        def energy(x):
            print("tried")
            first.append((x * x).sum())
            return first[0]
        """,
    ),
    Attack(
        "zeroes its argument",
        (16,),
        "changes the argument so that the wrong answer is right for it",
        """
        def energy(x):
            x.zero_()
            print("tried")
            return x.sum()
        """,
    ),
    Attack(
        "returns not a number",
        (3,),
        "returns NaN, with which no comparison is ever false",
        """
        def energy(x):
            print("tried")
            return torch.tensor(float("nan"))
        """,
    ),
    Attack(
        "computes in half precision",
        (23,),
        "rounds to 16 bits on the way",
        """
        def energy(x):
            print("tried")
            half = x.half()
            return (half * half).sum().float()
        """,
    ),
    Attack(
        "stops the clocks",
        (19,),
        "replaces every clock it can name, and sleeps past its time by another's",
        """
        import time
        def energy(x):
            for name in ("time", "monotonic", "perf_counter", "process_time", "thread_time"):
                setattr(time, name, lambda: 0.0)
                setattr(time, name + "_ns", lambda: 0)
            print("tried", flush=True)
            time.sleep(600)
        """,
        ends="timed out",
        says="Your code did not finish within 3 s.",
        seconds=3,
    ),
    Attack(
        "lets a thread finish",
        (9, 20),
        "returns at once, and a thread writes the right value into the tensor afterwards",
        """
        import threading, time
        def energy(x):
            answer = torch.zeros(())
            def later():
                time.sleep(0.01)
                answer.copy_((x * x).sum())
            threading.Thread(target=later).start()
            print("tried")
            return answer
        """,
    ),
    Attack(
        "prints a verdict",
        (11, 10),
        "prints verdicts on every stream and writes them into files that a judge might read",
        """
        import json, os, sys
        def energy(x):
            verdict = json.dumps([{"exercise": "energy", "outcome": "passed", "points": 3, "message": ""}])
            print(verdict)
            print(verdict, file=sys.stderr)
            for path in ("results.json", "/tmp/results.json", "job.json", "@JOBS@/results.json", "/dev/stdin"):
                try:
                    open(path, "w").write(verdict)
                except OSError:
                    pass
            print("tried")
            return x.sum()
        """,
    ),
    Attack(
        "throws an exception that lies",
        (5, 52),
        "raises an exception whose class, name, text and bases are not what they seem, and are huge",
        """
        class Liar(type):
            def mro(cls): return [*type.mro(cls)]
            __name__ = property(lambda cls: 1 / 0)
        class Passed(Exception, metaclass=Liar):
            __class__ = property(lambda self: MemoryError)
            __traceback__ = property(lambda self: None)
            __str__ = lambda self: "passed" * 10**6
            __repr__ = lambda self: 1 / 0
        base = Passed
        for _ in range(200):
            base = type("passed" * 200, (base,), {})
        def energy(x):
            print("tried")
            raise base(x)
        """,
        ends="error in your code|killed",
        cut_short=True,
    ),
    Attack(
        "raises what cannot be told",
        (5, 52),
        "raises an exception whose text cannot be had",
        """
        class Silent(Exception):
            def __str__(self): raise SystemExit
        def energy(x):
            print("tried")
            raise Silent
        """,
        ends="error in your code",
        says="raised Silent: (the error's own text could not be read)",
    ),
    Attack(
        "is named as the judge's own",
        (32, 53),
        "gives its names those of the checker notebook, and changes what torch does for everybody after it",
        """
        student = check = draw = begin = end = sandboxes = job = None
        def energy(x):
            global student, check, draw, begin, end, sandboxes, job
            student = check = draw = begin = end = sandboxes = job = "job.json"
            torch.set_default_dtype(torch.float64)
            torch.set_default_device("meta")
            torch.set_num_threads(2)
            torch.manual_seed(0)
            torch.set_grad_enabled(False)
            print("tried")
            return (x * x).sum()
        """,
        ends="passed",
    ),
    Attack(
        "traces everything",
        (21, 53),
        "hooks into every call, import and collection there is, for the next program to run into",
        """
        import gc, sys, threading
        class Finder:
            def find_spec(self, name, path=None, target=None): print("LEAK" if "checker" in name else "", end="")
        def energy(x):
            sys.meta_path.insert(0, Finder())
            sys.settrace(lambda *args: None)
            sys.setprofile(lambda *args: None)
            threading.settrace(lambda *args: None)
            gc.callbacks.append(lambda *args: None)
            sys.setrecursionlimit(10**6)
            gc.freeze()
            print("tried")
            return (x * x).sum()
        """,
        ends="passed",
    ),
    Attack(
        "lies about its layer",
        (6, 54),
        "is a module whose list of parameters and whose state are not those it computes with",
        """
        class energy(nn.Linear):
            def state_dict(self, *args, **kwargs): return {"weight": torch.zeros(0), "bias": 5, 7: None}
            def load_state_dict(self, *args, **kwargs): print("tried")
            def named_parameters(self, *args, **kwargs): return {"weight": self.weight, "bias": self.bias}.items()
        """,
        kind="layer",
    ),
    Attack(
        "has parameters without end",
        (6, 54),
        "is a module that names one parameter after another",
        """
        class energy(nn.Linear):
            def named_parameters(self, *args, **kwargs):
                print("tried", flush=True)
                number = 0
                while True:
                    number += 1
                    yield f"weight{number}", self.weight
        """,
        kind="layer",
        ends="timed out|error in your code|out of memory",
        cut_short=True,
        seconds=2,
    ),
    Attack(
        "claims to be a layer",
        (6, 54),
        "is no module but says so, and answers every question with itself",
        """
        class energy:
            __class__ = property(lambda self: nn.Module)
            def __init__(self, *args): print("tried")
            def __getattr__(self, name): return self
            def __call__(self, *args, **kwargs): return self
            def __iter__(self): return iter([("weight", self), ("bias", self)])
            shape, dtype, requires_grad = torch.Size([2, 3]), torch.float32, True
        """,
        kind="layer",
        ends="failed|error in your code",
    ),
]
