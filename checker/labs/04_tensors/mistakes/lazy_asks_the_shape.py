# exercise: settle
# outcome: error in your code
# says: Can't access the shape of an uninitialized parameter
def unsettled(model):
    return {name for name, tensor in model.state_dict().items() if tensor.shape == (0,)}


def settle(model, sample):
    model(sample)
