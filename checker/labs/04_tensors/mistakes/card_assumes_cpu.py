# exercise: describe
# outcome: failed
# says: The tensor is on the device meta: ask it, do not assume.
def describe(x):
    return {
        "dtype": x.dtype,
        "shape": tuple(x.shape),
        "stride": x.stride(),
        "device": "cpu",
        "requires_grad": x.requires_grad,
    }
