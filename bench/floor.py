"""The floor: what the four exercises and their tests cost with nothing around them.

A process that has torch imported and its lazy parts loaded forks; the child runs the learner's answers and the tests
and ends. No notebook, no kernel, no confinement, no verdict. Each line of standard input is one fork, a JSON object:
``wrong`` names the exercise that is answered wrongly, or is null; ``memory`` asks the child for its private memory too,
which takes longer than all the rest.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback

import torch

from bench.formats import Exercise, answers, exercises
from bench.measure import private_memory


def _program(lab: tuple[Exercise, ...], wrong: str | None) -> str:
    """The learner's answers, and every test with its call."""
    given = answers(lab, wrong)
    parts = ["import torch"]
    for exercise in lab:
        parts.append(given[exercise.function])
        parts += [f"{test.source}\n{test.name}({exercise.function})" for test in exercise.tests]
    return "\n\n".join(parts)


def _fork(program: str, memory: bool) -> dict[str, float | bool]:
    """Seconds from before the fork to the child's end, MiB the child had for itself, and whether all tests passed."""
    reading, writing = os.pipe()
    started = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            exec(compile(program, "<program>", "exec"), {})
            if memory:
                os.write(writing, str(private_memory()).encode())
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    private = os.read(reading, 100)
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - started
    os.close(reading)
    cpu = usage.ru_utime + usage.ru_stime
    return {"wall": wall, "cpu": cpu, "passed": status == 0, "private": float(private or 0)}


def main() -> None:
    torch.set_num_threads(1)
    lab = exercises()
    exec(compile(_program(lab, None), "<program>", "exec"), {})  # loads what these calls import lazily
    for line in sys.stdin:
        wanted = json.loads(line)
        print(json.dumps(_fork(_program(lab, wanted["wrong"]), wanted["memory"])), flush=True)


if __name__ == "__main__":
    main()
