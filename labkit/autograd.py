"""Gradients of learner code: a call whose graph is kept, and the walk back through it.

Runs in the sandbox beside learner code; the judge draws the upstream gradient and trusts no word of what comes back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Graph", "tensors"]


@dataclass(frozen=True)
class Graph:
    """One call: the tensors it returned, those it was differentiated by, and the parameters by name."""

    outputs: list[torch.Tensor]
    inputs: list[torch.Tensor]
    parameters: dict[str, torch.Tensor]

    def backward(
        self, upstream: Sequence[torch.Tensor | None]
    ) -> tuple[list[torch.Tensor | None], dict[str, torch.Tensor | None]]:
        """Vector-Jacobian products by input and by parameter; None where no path leads (``torch.autograd.grad``)."""
        sources = [*self.inputs, *self.parameters.values()]
        # A weighted sum instead of grad_outputs, which load PyTorch's symbolic shapes for a second and more.
        sums = [
            (output * given.to(output.device).conj()).sum().real.double().cpu()
            for output, given in zip(self.outputs, upstream, strict=True)
            if given is not None and output.requires_grad
        ]
        found: Sequence[torch.Tensor | None] = [None] * len(sources)
        if sums and sources:
            found = torch.autograd.grad(torch.stack(sums).sum(), sources, allow_unused=True)
        dense = [grad.to_dense() if grad is not None and grad.is_sparse else grad for grad in found]
        return dense[: len(self.inputs)], dict(zip(self.parameters, dense[len(self.inputs) :], strict=True))


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in a value, through lists, tuples and dicts, in their order; both ends count them alike."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item)
