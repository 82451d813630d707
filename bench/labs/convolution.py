# %% [markdown]
# ## Output size of a convolution
#
# `output_size(size, kernel, stride, padding, dilation)` is how many outputs a convolution gives along one axis.

# %% part="stub"
def output_size(size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """The number of positions at which the kernel fits. Roughly 2 lines."""
    raise NotImplementedError("Write output_size.")


# %% part="solution"
def output_size(size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    reach = dilation * (kernel - 1) + 1
    return (size + 2 * padding - reach) // stride + 1


# %% part="mistake"
def output_size(size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    return (size + 2 * padding - kernel) // stride + 1


# %% part="test"
def test_stride_and_padding(output_size):
    """Stride and padding count as in a real layer."""
    import torch

    for size, kernel, stride, padding in ((8, 3, 1, 0), (8, 3, 2, 1), (7, 7, 4, 3), (5, 1, 3, 0), (28, 5, 2, 2)):
        layer = torch.nn.Conv1d(1, 1, kernel, stride, padding)
        want = layer(torch.zeros(1, 1, size)).shape[-1]
        assert output_size(size, kernel, stride, padding) == want, (size, kernel, stride, padding)


# %% part="test"
def test_dilation(output_size):
    """A dilated kernel reaches further."""
    import torch

    for size, kernel, dilation in ((9, 3, 2), (16, 3, 4), (11, 2, 5)):
        layer = torch.nn.Conv1d(1, 1, kernel, dilation=dilation)
        want = layer(torch.zeros(1, 1, size)).shape[-1]
        assert output_size(size, kernel, 1, 0, dilation) == want, (size, kernel, dilation)
