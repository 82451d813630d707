# exercise: matmul_shape
# outcome: failed
# says: 1 stretches to the other size, and that is 0 here.
from itertools import zip_longest


def matmul_shape(a, b):
    if not a or not b:
        raise ValueError("rank 0")
    inner = b[-2] if len(b) > 1 else b[0]
    if a[-1] != inner:
        raise ValueError("inner sizes differ")
    batch = []
    for p, q in zip_longest(a[:-2][::-1], b[:-2][::-1], fillvalue=1):
        if p != q and 1 not in (p, q):
            raise ValueError("batch axes differ")
        batch.append(max(p, q))
    return (*batch[::-1], *a[-2:-1], *(b[-1:] if len(b) > 1 else ()))
