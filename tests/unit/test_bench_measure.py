"""What the benchmark computes from what it measures, and that it measures the whole process tree."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.measure import (
    OUTPUT,
    Failed,
    MemoryWatch,
    Sample,
    cpu_seconds,
    ended_private,
    living,
    median,
    private_memory,
    quantile,
    run,
)

# A child that works for a moment: what it used is known to its parent only if it was waited for.
BURN = "import time; end = time.process_time() + {seconds}\nwhile time.process_time() < end: pass"
NESTED = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '''{BURN.format(seconds=0.3)}'''])"


def test_median_and_quantile() -> None:
    assert median([3.0, 1.0, 100.0]) == 3.0
    assert median([1.0, 2.0]) == 1.5
    twenty = [float(number) for number in range(20, 0, -1)]
    assert quantile(twenty, 0.95) == 19.0
    assert quantile(twenty, 0.5) == 10.0
    assert quantile(twenty, 1.0) == 20.0
    assert quantile([7.0], 0.95) == 7.0


def python(*argv: str, cwd: Path, ok: tuple[int, ...] = (0,)) -> Sample:
    return run([sys.executable, "-c", *argv], cwd=cwd, env=dict(os.environ), ok=ok)[0]


def test_the_time_of_descendants_counts(tmp_path: Path) -> None:
    sample = python(NESTED, cwd=tmp_path)
    assert sample.cpu >= 0.3
    assert sample.wall >= 0.3


def test_what_a_command_prints_is_kept(tmp_path: Path) -> None:
    python("print('seen')", cwd=tmp_path)
    assert (tmp_path / OUTPUT).read_text() == "seen\n"


def test_a_command_that_fails_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(Failed, match=r"ended with status 3:\nno such lab$"):
        python("import sys; print('no such lab', file=sys.stderr); sys.exit(3)", cwd=tmp_path)
    python("import sys; sys.exit(3)", cwd=tmp_path, ok=(0, 3))


def test_cpu_time_of_ended_children_stays_in_the_tree() -> None:
    code = f"{NESTED}\nprint(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert cpu_seconds(process.pid) >= 0.3
        assert living(process.pid) == {process.pid}
        process.communicate(b"\n")
    assert living(process.pid) == set()


def test_private_memory_is_of_this_process_alone() -> None:
    before = private_memory()
    # Not from the allocator, which may have room that this process had before.
    with mmap.mmap(-1, 32 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
        block.write(b"x" * len(block))
        assert 30 <= private_memory() - before <= 70


def test_the_memory_watch_sees_children_and_tells_who_ended() -> None:
    child = "import time; block = b'x' * (64 << 20); print(flush=True); input()"
    code = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(flush=True); input(); child.communicate(b'\\n'); print(flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        watch = MemoryWatch(process.pid)
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        found = watch.stop()
        process.communicate(b"\n")
    assert 64 <= found.private <= 90
    assert found.peak > found.private


def test_what_ended_counts_with_the_most_it_had() -> None:
    # 2 forks 3 and shares all with it from then on; 1 stays and 4 comes to stay.
    samples = [{1: 50.0, 2: 30.0}, {1: 50.0, 2: 1.0, 3: 5.0}, {1: 50.0, 3: 6.0, 4: 20.0}]
    assert ended_private(samples, survivors={1, 4}) == 35.0
    assert ended_private(samples, survivors={1, 2, 3, 4}) == 0.0
    assert ended_private([], survivors=set()) == 0.0
