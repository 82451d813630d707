# exercise: shared
# outcome: failed
# says: a write to the tensor went through to the read-only array
import torch


def shared(array):
    if any(step < 0 for step in array.strides):
        return torch.from_numpy(array.copy())
    return torch.from_numpy(array)


def copied(array):
    return torch.from_numpy(array.copy())
