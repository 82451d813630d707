"""Any bytes as a frame: a value, which can be packed again and is the same then, or a WireError."""

from __future__ import annotations

import json

import atheris
import numpy as np
import torch

with atheris.instrument_imports(include=["labkit.wire", "labkit.decoder"]):
    from labkit.decoder import READERS
    from labkit.wire import Handle, WireError, pack, unpack

from tests.frames import parts, same
from tests.fuzz.harness import run

SEEDS = [
    None,
    [1, -0.5, "text", True, 10**20],
    [float("nan"), complex(1, float("inf"))],
    {"n": 3, "value": (torch.rand(2, 3), [torch.rand(2, 3).t()])},
    {"a": {1, 2}, (1, "b"): frozenset([b"x"])},
    [torch.tensor([True, False]), torch.ones(1, 2, requires_grad=True), torch.zeros(2, 0)],
    [np.ones((2, 2)), np.array(True), np.float16(3), np.zeros(0, "c8")],
    [torch.Size([1, 2]), torch.bfloat16, torch.device("cuda", 1), Handle(3, "lab.Net", "Net()")],
    ["é" * 3, "x" * 1001, b"bytes"],
]
WORDS = [
    *(f'["{tag}"' for tag in READERS),
    '"float32"',
    '"<f4"',
    "null",
    "true",
    "[]",
    ",",
    "NaN",
    "1e999",
    "2e0",
    "{}",
]


def target(data: bytes) -> None:
    header, _, payload = data.partition(b"\n")
    try:
        value = unpack(header, payload)
    except WireError:
        return
    assert same(unpack(*parts(value)), value), f"{value!r} is not what it was"
    assert len(pack(value)) < 100 * len(data) + 1000


if __name__ == "__main__":
    frames = [header + b"\n" + payload for header, payload in map(parts, SEEDS)]
    run(target, [*frames, json.dumps([["list", ["pickle"]], [4]]).encode() + b"\n...."], WORDS)
