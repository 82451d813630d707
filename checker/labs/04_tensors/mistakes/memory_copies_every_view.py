# exercise: shared
# outcome: failed
# says: a positive step is no obstacle
import torch


def shared(array):
    if not array.flags.writeable or not array.flags.c_contiguous:
        return torch.from_numpy(array.copy())
    return torch.from_numpy(array)


def copied(array):
    return torch.from_numpy(array.copy())
