# exercise: describe
# outcome: failed
# says: Give the dtype itself, not its name.
def describe(x):
    return {
        "dtype": str(x.dtype),
        "shape": tuple(x.shape),
        "stride": x.stride(),
        "device": str(x.device),
        "requires_grad": x.requires_grad,
    }
