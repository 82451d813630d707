# exercise: mean_squared_error
# outcome: failed
# says: A tensor with one element becomes a Python number with .item()
def mean_squared_error(prediction, target):
    return ((prediction - target) ** 2).mean()
