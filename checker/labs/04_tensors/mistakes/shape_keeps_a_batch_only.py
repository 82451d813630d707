# exercise: matmul_shape
# outcome: failed
# says: The batch axes come from both sides, broadcast; these are only those of a.
def matmul_shape(a, b):
    if not a or not b:
        raise ValueError("rank 0")
    inner = b[-2] if len(b) > 1 else b[0]
    if a[-1] != inner:
        raise ValueError("inner sizes differ")
    if len(a) == 1:
        return b[:-2] + b[-1:] if len(b) > 1 else ()
    return a[:-1] + (b[-1:] if len(b) > 1 else ())
