# %% [markdown]
# ## Softmax from scratch
#
# `softmax(x, dim)` turns the values along one axis into probabilities, for logits of any size, and without
# calling a softmax of PyTorch's.

# %% part="stub"
def softmax(x: torch.Tensor, dim: int) -> torch.Tensor:
    """exp(x) divided by its sum along axis dim; same shape and dtype as x. Roughly 2 lines."""
    raise NotImplementedError("Write softmax.")


# %% part="solution"
def softmax(x: torch.Tensor, dim: int) -> torch.Tensor:
    powers = (x - x.amax(dim, keepdim=True)).exp()
    return powers / powers.sum(dim, keepdim=True)


# %% part="mistake"
def softmax(x: torch.Tensor, dim: int) -> torch.Tensor:
    return x.exp() / x.exp().sum(dim, keepdim=True)


# %% part="test"
def test_any_axis(softmax):
    """Along any axis the values are those of the definition."""
    import torch
    from torch.testing import assert_close

    generator = torch.Generator().manual_seed(1)
    for shape in ((4,), (1, 5), (3, 4), (2, 3, 4)):
        x = torch.randn(shape, generator=generator)
        for dim in range(-1, len(shape)):
            assert_close(softmax(x, dim), torch.softmax(x, dim))


# %% part="test"
def test_large_logits(softmax):
    """Logits of a thousand neither overflow nor vanish."""
    import torch
    from torch.testing import assert_close

    x = torch.tensor([[1000.0, 999.0, -1000.0], [-1000.0, -1001.0, -1002.0]])
    assert_close(softmax(x, 1), torch.softmax(x, 1))
    assert_close(softmax(x.double(), 0), torch.softmax(x.double(), 0))
