# exercise: settle
# outcome: failed
# says: The dry run was counted as a batch of training
import torch
from torch import nn


def unsettled(model):
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name for name, tensor in tensors if nn.parameter.is_lazy(tensor)}


def settle(model, sample):
    with torch.no_grad():
        model(sample)
