# exercise: every_digit
# outcome: failed
# says: casting does not bring them back
import torch


def every_digit(data):
    return torch.tensor(data).double()
