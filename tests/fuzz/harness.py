"""What the fuzz targets share. Run one by hand from the repository's root: ``python -m tests.fuzz.fuzz_unpack``.

Arguments are libFuzzer's, for example ``-max_total_time=60`` or ``-runs=5000 -seed=1``, then a folder for what it finds
worth keeping; without one it starts from the seeds alone each time. An input that breaks a promise is written to a file
whose name is printed last; give that file as the only argument to see it again.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import atheris
import numpy as np
import torch

from labkit.wire import Handle

__all__ = ["Draw", "run"]

_FLOATS = [0.0, -0.0, 1.5, float("nan"), float("inf"), -float("inf"), 2.0**61, 1e-320]
_INTEGERS = [0, 1, -1, 2, 10, 255, 2**31, 2**53, 2**61 - 1, 2**63, -(2**63), 2**64, 10**400]
_TEXTS = ["", "a", "n", "value", "error", "x" * 1001, "\uffff", "é", "<script>", "\0", "{got}", "%s"]
_DTYPES = [torch.float32, torch.float64, torch.int64, torch.bool, torch.bfloat16, torch.complex64, torch.uint8]


class Draw:
    """Values of the wire, drawn from the fuzzer's bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = atheris.FuzzedDataProvider(data)

    def below(self, count: int) -> int:
        return self._data.ConsumeIntInRange(0, count - 1)

    def choice(self, options: list[Any]) -> Any:
        return options[self.below(len(options))]

    def value(self, depth: int = 0) -> Any:
        """Any value that can be packed."""
        kinds: list[Callable[[int], Any]] = [
            self.word, self.tensor, self.array, self._list, self._tuple, self._dict, self._set,
        ]  # fmt: skip
        return kinds[self.below(len(kinds) if depth < 4 else 3)](depth)

    def word(self, depth: int = 0) -> Any:
        """What can be a key."""
        options: list[Any] = [
            None, True, False, self.choice(_INTEGERS), self.choice(_FLOATS), self.choice(_TEXTS), b"bytes",
            complex(self.choice(_FLOATS), 1.0), torch.Size([2, 3]), torch.float32, torch.device("cuda", 1),
            Handle(self.choice([0, 1, 2, 3, 99]), "lab.Net", "Net()"), np.float32(1.5), np.int64(3),
            self._data.ConsumeIntInRange(-1000, 1000), self._data.ConsumeUnicodeNoSurrogates(8),
        ]  # fmt: skip
        return self.choice(options)

    def tensor(self, depth: int = 0) -> torch.Tensor:
        shape = [self.below(4) for _ in range(self.below(4))]
        value = torch.zeros(shape) + self.choice(_FLOATS)
        if value.numel() and self.below(2):
            value.view(-1)[self.below(value.numel())] = self.choice(_FLOATS)
        value = (
            value.nan_to_num().to(dtype) if not (dtype := self.choice(_DTYPES)).is_floating_point else value.to(dtype)
        )
        return value.transpose(0, -1) if value.dim() and self.below(2) else value

    def array(self, depth: int = 0) -> np.ndarray[Any, Any]:
        array: np.ndarray[Any, Any] = self.tensor().to(torch.float32).numpy()
        return array.astype(self.choice(["f4", "f8", "c8", ">f2"]))

    def _list(self, depth: int) -> list[Any]:
        return [self.value(depth + 1) for _ in range(self.below(4))]

    def _tuple(self, depth: int) -> tuple[Any, ...]:
        return tuple(self._list(depth))

    def _dict(self, depth: int) -> dict[Any, Any]:
        return {self.word(): self.value(depth + 1) for _ in range(self.below(4))}

    def _set(self, depth: int) -> set[Any]:
        return {self.word() for _ in range(self.below(4))}


def run(target: Callable[[bytes], None], seeds: Iterable[bytes] = (), words: Iterable[str] = ()) -> None:
    """Fuzz ``target`` as the command line says. Never returns.

    ``seeds`` are inputs to begin with, ``words`` what mutations put in. An input may take 10 s and 2 GiB.
    """
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        corpus, found, dictionary = Path(folder) / "seeds", Path(folder) / "found", Path(folder) / "words"
        corpus.mkdir()
        found.mkdir()
        for number, seed in enumerate(seeds):
            (corpus / str(number)).write_bytes(seed)
        dictionary.write_text("".join(_entry(word) for word in words))
        options = [f"-dict={dictionary}", "-timeout=10", "-rss_limit_mb=2048", "-max_len=4096"]
        given = [Path(argument) for argument in sys.argv[1:]]
        folders = [] if any(path.is_file() for path in given) else [str(corpus)]
        if folders and not any(path.is_dir() for path in given):
            folders.insert(0, str(found))
        atheris.Setup([sys.argv[0], *options, *sys.argv[1:], *folders], target)
        atheris.Fuzz()


def _entry(word: str) -> str:
    """A line of a libFuzzer dictionary."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in word.encode()) + '"\n'
