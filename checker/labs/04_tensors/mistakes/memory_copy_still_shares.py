# exercise: shared
# outcome: failed
# says: a write to the tensor changed the array. They still share their memory.
import torch


def shared(array):
    if not array.flags.writeable or any(step < 0 for step in array.strides):
        return torch.from_numpy(array.copy())
    return torch.from_numpy(array)


def copied(array):
    return torch.as_tensor(array)
