# exercise: settle
# outcome: failed
# says: 0.weight is an empty parameter: its shape (0,) is known.
def unsettled(model):
    return {name for name, tensor in model.state_dict().items() if tensor.size() == (0,)}


def settle(model, sample):
    model(sample)
