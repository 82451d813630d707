# exercise: every_digit
# outcome: failed
# says: Integers became float64, which has every integer only up to 2**53.
import torch


def every_digit(data):
    return torch.tensor(data, dtype=torch.float64)
