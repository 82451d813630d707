# exercise: every_digit
# outcome: failed
# says: That is PyTorch's default for Python floats: about 7 digits.
import torch


def every_digit(data):
    return torch.tensor(data)
