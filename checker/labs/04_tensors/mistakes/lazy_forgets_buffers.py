# exercise: settle
# outcome: failed
# says: Buffers can be without a shape too: the running statistics of batch norm.
from torch import nn


def unsettled(model):
    return {name for name, tensor in model.named_parameters() if nn.parameter.is_lazy(tensor)}


def settle(model, sample):
    model(sample)
