# exercise: matmul_shape
# outcome: out of memory
# says: can't allocate memory
import torch


def matmul_shape(a, b):
    try:
        return tuple((torch.zeros(a) @ torch.zeros(b)).shape)
    except RuntimeError as error:
        if "allocate" in str(error):
            raise
        raise ValueError(str(error)) from None
