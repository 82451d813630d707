# exercise: matmul_shape
# outcome: failed
# says: it should raise ValueError. torch refuses
import torch


def matmul_shape(a, b):
    if not a or not b:
        raise ValueError("rank 0")
    inner = b[-2] if len(b) > 1 else b[0]
    if a[-1] != inner:
        raise ValueError("inner sizes differ")
    return (*torch.broadcast_shapes(a[:-2], b[:-2]), *a[-2:-1], *(b[-1:] if len(b) > 1 else ()))
