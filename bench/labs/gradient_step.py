# %% [markdown]
# ## One step of gradient descent by hand
#
# For the mean squared error of `x @ w + b` against `y`, `gradient_step(w, b, x, y, rate)` gives the next `w` and
# `b`, with gradients worked out on paper instead of by autograd.

# %% part="stub"
def gradient_step(
    w: torch.Tensor, b: torch.Tensor, x: torch.Tensor, y: torch.Tensor, rate: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """w of shape (features,), b of shape (), x of shape (batch, features), y of shape (batch,). Roughly 2 lines."""
    raise NotImplementedError("Write gradient_step.")


# %% part="solution"
def gradient_step(
    w: torch.Tensor, b: torch.Tensor, x: torch.Tensor, y: torch.Tensor, rate: float
) -> tuple[torch.Tensor, torch.Tensor]:
    slope = 2 * (x @ w + b - y) / len(y)
    return w - rate * x.T @ slope, b - rate * slope.sum()


# %% part="mistake"
def gradient_step(
    w: torch.Tensor, b: torch.Tensor, x: torch.Tensor, y: torch.Tensor, rate: float
) -> tuple[torch.Tensor, torch.Tensor]:
    slope = (x @ w + b - y) / len(y)
    return w - rate * x.T @ slope, b - rate * slope.sum()


# %% part="test"
def test_same_as_sgd(gradient_step):
    """The step is the one that torch.optim.SGD takes."""
    import torch
    from torch.testing import assert_close

    generator = torch.Generator().manual_seed(2)
    for batch, features in ((1, 1), (8, 3), (5, 4)):
        x = torch.randn(batch, features, generator=generator)
        y = torch.randn(batch, generator=generator)
        w = torch.randn(features, generator=generator).requires_grad_()
        b = torch.randn((), generator=generator).requires_grad_()
        next_w, next_b = gradient_step(w.detach().clone(), b.detach().clone(), x, y, 0.1)
        optimiser = torch.optim.SGD([w, b], lr=0.1)
        torch.nn.functional.mse_loss(x @ w + b, y).backward()
        optimiser.step()
        assert_close(next_w, w.detach())
        assert_close(next_b, b.detach())


# %% part="test"
def test_loss_falls(gradient_step):
    """Ten steps bring the loss below a hundredth of what it was."""
    import torch

    generator = torch.Generator().manual_seed(3)
    x = torch.randn(16, 2, generator=generator)
    y = x @ torch.tensor([2.0, -1.0]) + 0.5
    w, b = torch.zeros(2), torch.zeros(())
    for _ in range(10):
        w, b = gradient_step(w, b, x, y, 0.3)
    before, after = y.square().mean().item(), (x @ w + b - y).square().mean().item()
    assert after < before / 100, f"the loss went from {before:.3g} to {after:.3g}"
