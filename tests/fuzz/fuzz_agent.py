"""Any requests: a program answers each with one frame of the form that the judge takes, and goes on.

What is asked comes from the judge, but carries what learner code returned before. Half of the inputs are a byte stream,
of which :class:`Frames` makes values until it ends or breaks.
"""

from __future__ import annotations

import os
from typing import Any

import atheris

with atheris.instrument_imports(include=["labkit.wire", "labkit.decoder", "labkit.frames", "labkit.program"]):
    from labkit.frames import Frames
    from labkit.program import Program
    from labkit.wire import PREFIX, WireError, pack, prefix_lengths, unpack

from checker.student import _answers
from tests.fuzz.harness import Draw, run

SOURCE = """
import torch
class Net(torch.nn.Linear):
    def __init__(self): super().__init__(2, 3)
    def __repr__(self): raise RuntimeError("no repr")
class Number(float):
    def __eq__(self, other): return True
    __hash__ = float.__hash__
net, number, text = Net(), Number(2), "text"
def same(*values, **named): return values, named
def fails(*values): raise ValueError(values)
def late(*values): yield values
def keys(*values): return {Number(1): values, number: net, print: None}
"""
NAMES = ["net", "number", "text", "same", "fails", "late", "keys", "Net", "nothing", "__name__"]
PARTS = ["weight", "training", "real", "__class__", "nothing"]
START = {
    "op": "start", "n": 1, "seed": 1, "future": [], "cpu_seconds": 10**6,
    "segments": [{"cell": 1, "line": 1, "source": SOURCE}],
}  # fmt: skip


def request(draw: Draw, number: int) -> dict[str, Any]:
    """A request as the judge makes it, of things that may not be there."""
    made: dict[str, Any] = {
        "op": draw.choice(["get", "call", "put", "set", "each", "module", "forward", "backward", "trace", "nothing"]),
        "n": number, "target": draw.choice([*NAMES, draw.word()]), "keep": bool(draw.below(2)), "after": True,
        "path": [
            draw.choice([("attribute", draw.choice(PARTS)), ("item", draw.value())]) for _ in range(draw.below(3))
        ],
        "args": [draw.value() for _ in range(draw.below(3))],
        "kwargs": {"dim": draw.value()} if draw.below(2) else {},
        "value": draw.value(), "graph": draw.word(), "upstream": [draw.tensor()],
        "parameters": bool(draw.below(2)), "wrt": [0],
        "calls": [{"args": [draw.value()], "kwargs": {}, "parameters": {}}],
    }  # fmt: skip
    if not draw.below(8):
        made.pop(draw.choice([key for key in made if key not in ("op", "n")]))
    return made


def replies_to(stream: bytes) -> bytes:
    """What a program answers to these bytes. Files, so that nothing waits for anything."""
    requests, replies = os.memfd_create("requests"), os.memfd_create("replies")
    os.pwrite(requests, stream, 0)
    frames = Frames(requests, os.dup(replies))
    try:
        Program(frames).serve(START)
        return os.pread(replies, os.fstat(replies).st_size, 0)
    finally:
        frames.requests.close()
        frames._replies.close()
        os.close(replies)


def read(stream: bytes) -> list[Any]:
    """All values of a stream that :class:`Frames` can make something of."""
    requests = os.memfd_create("requests")
    os.pwrite(requests, stream, 0)
    frames = Frames(requests, os.open(os.devnull, os.O_WRONLY))
    values = []
    try:
        while (value := frames.receive()) is not None:
            values.append(value)
    except WireError:
        pass
    finally:
        frames.requests.close()
        frames._replies.close()
    return values


def target(data: bytes) -> None:
    if data[:1] < b"\x80":
        read(data[1:])
        return
    draw = Draw(data[1:])
    asked = [request(draw, number) for number in range(2, 2 + draw.below(6))]
    try:
        stream = b"".join(pack(value) for value in [*asked, {"op": "end", "n": 99}])
    except WireError:
        return
    answers = replies_to(stream)
    for one in [START, *asked]:
        header, payload = prefix_lengths(answers[: PREFIX.size])
        body, answers = answers[PREFIX.size :][: header + payload], answers[PREFIX.size + header + payload :]
        reply = unpack(body[:header], body[header:])
        assert _answers(one, reply), f"{one} was answered with {reply}"
    assert answers == b"", "more than one answer to a request"


if __name__ == "__main__":
    seeds = [b"\x80" + bytes((n * k) % 256 for n in range(256)) for k in range(1, 40, 3)]
    run(target, [*seeds, b"\0" + pack({"op": "end", "n": 1}) + pack([1.5, "a"])], ["GLW1", '["list"', '["tensor"'])
