# exercise: mean_squared_error
# outcome: failed
# says: That is the sum of the squares, not their mean.
def mean_squared_error(prediction, target):
    return ((prediction - target) ** 2).sum().item()
