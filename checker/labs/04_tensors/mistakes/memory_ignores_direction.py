# exercise: shared
# outcome: error in your code
# says: At least one stride in the given numpy array is negative
import torch


def shared(array):
    if not array.flags.writeable:
        return torch.tensor(array)
    return torch.from_numpy(array)


def copied(array):
    return torch.from_numpy(array.copy())
