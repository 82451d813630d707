# exercise: matmul_shape
# outcome: failed
# says: it should raise ValueError. torch refuses: mat1 and mat2 shapes cannot be multiplied
import torch


def matmul_shape(a, b):
    if not a or not b:
        raise ValueError("rank 0")
    inner = b[-2] if len(b) > 1 else b[0]
    if a[-1] != inner and 1 not in (a[-1], inner):
        raise ValueError("inner sizes differ")
    try:
        batch = torch.broadcast_shapes(a[:-2], b[:-2])
    except RuntimeError as error:
        raise ValueError(str(error)) from None
    return (*batch, *a[-2:-1], *(b[-1:] if len(b) > 1 else ()))
