# exercise: mean_squared_error
# outcome: error in your code
# says: Can't call numpy() on Tensor that requires grad
import numpy as np


def mean_squared_error(prediction, target):
    return float(np.mean((prediction.numpy() - target.numpy()) ** 2))
