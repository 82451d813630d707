"""Random inputs of a check, drawn in the judge's process from a secret seed that never leaves it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import torch

__all__ = ["Draw"]

T = TypeVar("T")
Layout = Literal["contiguous", "transposed", "strided"]


class Draw:
    """Inputs for one check; the same seed and name draw the same values, whatever ran before."""

    def __init__(self, seed: int, name: str = "") -> None:
        self.random = random.Random(f"{seed}/{name}")
        self.generator = torch.Generator().manual_seed(self.random.getrandbits(62))

    def integer(self, low: int, high: int) -> int:
        """An int in ``[low, high]``, both included."""
        return self.random.randint(low, high)

    def real(self, low: float = -1.0, high: float = 1.0) -> float:
        """A float in ``[low, high]``."""
        return self.random.uniform(low, high)

    def boolean(self) -> bool:
        return self.random.random() < 0.5

    def choice(self, options: Sequence[T]) -> T:
        return self.random.choice(options)

    def sample(self, options: Sequence[T], count: int) -> list[T]:
        """``count`` different elements in random order."""
        return self.random.sample(options, count)

    def shuffled(self, options: Sequence[T]) -> list[T]:
        return self.random.sample(options, len(options))

    def word(self, length: int = 8) -> str:
        """A lower-case nonsense word."""
        return "".join(self.random.choices("abcdefghijklmnopqrstuvwxyz", k=length))

    def shape(self, rank: int, low: int = 1, high: int = 5) -> tuple[int, ...]:
        """``rank`` sizes, each in ``[low, high]``."""
        return tuple(self.random.randint(low, high) for _ in range(rank))

    def tensor(
        self,
        *shape: int,
        dtype: torch.dtype = torch.float32,
        low: float = -1.0,
        high: float = 1.0,
        layout: Layout = "contiguous",
    ) -> torch.Tensor:
        """Uniform values in ``[low, high)`` (integers and bools: ``[low, high]``).

        ``transposed`` keeps the values' order in memory reversed in its axes; ``strided`` is every second element of a
        larger tensor here, and arrives in the sandbox contiguous.
        """
        stored = list(reversed(shape)) if layout == "transposed" else list(shape)
        if layout == "strided" and stored:
            stored[-1] *= 2
        if dtype is torch.bool:
            made = torch.randint(0, 2, stored, generator=self.generator).bool()
        elif dtype.is_floating_point or dtype.is_complex:
            # Drawn in double precision: a float64 input must have digits that float32 would lose.
            unit = torch.rand(stored, generator=self.generator, dtype=torch.float64)
            made = (unit * (high - low) + low).to(dtype)
        else:
            made = torch.randint(int(low), int(high) + 1, stored, generator=self.generator).to(dtype)
        if layout == "transposed":
            return made.permute(*range(made.dim() - 1, -1, -1))
        return made[..., ::2] if layout == "strided" and stored else made

    def array(self, *shape: int, dtype: Any = np.float64, low: float = -1.0, high: float = 1.0) -> np.ndarray[Any, Any]:
        """A NumPy array of uniform values; integers in ``[low, high]``."""
        kind = np.dtype(dtype)
        values = torch.rand(list(shape), generator=self.generator, dtype=torch.float64).numpy()
        if kind.kind in "iu":
            made = np.floor(values * (int(high) + 1 - int(low)) + int(low))
        else:
            made = values < 0.5 if kind.kind == "b" else values * (high - low) + low
        return np.asarray(made, dtype=kind)
