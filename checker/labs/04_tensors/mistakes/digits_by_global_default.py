# exercise: every_digit
# outcome: failed
# says: every tensor and layer that anyone creates from now on has it
import torch


def every_digit(data):
    torch.set_default_dtype(torch.float64)
    return torch.tensor(data)
