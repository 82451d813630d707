# exercise: describe
# outcome: failed
# says: It was computed from a parameter, so autograd follows it
def describe(x):
    return {
        "dtype": x.dtype,
        "shape": tuple(x.shape),
        "stride": x.stride(),
        "device": str(x.device),
        "requires_grad": x.requires_grad and x.is_leaf,
    }
