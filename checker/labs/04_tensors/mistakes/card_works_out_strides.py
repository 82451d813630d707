# exercise: describe
# outcome: failed
# says: Those are the strides of a contiguous tensor of this shape; this one was transposed.
import math


def describe(x):
    return {
        "dtype": x.dtype,
        "shape": tuple(x.shape),
        "stride": tuple(math.prod(x.shape[axis + 1 :]) for axis in range(x.dim())),
        "device": str(x.device),
        "requires_grad": x.requires_grad,
    }
