# exercise: shared
# outcome: failed
# says: The tensor has a copy; sharing was asked for.
import torch


def shared(array):
    return torch.tensor(array)


def copied(array):
    return torch.from_numpy(array.copy())
