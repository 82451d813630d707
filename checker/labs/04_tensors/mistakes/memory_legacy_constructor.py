# exercise: shared
# outcome: failed
# says: The dtype changed to PyTorch's default.
import torch


def shared(array):
    if not array.flags.writeable or any(step < 0 for step in array.strides):
        return torch.Tensor(array.copy())
    return torch.Tensor(array)


def copied(array):
    return torch.Tensor(array.copy())
