# exercise: settle
# outcome: failed
# says: The model was in training mode and is in eval mode now
import torch
from torch import nn


def unsettled(model):
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name for name, tensor in tensors if nn.parameter.is_lazy(tensor)}


def settle(model, sample):
    model.eval()
    with torch.no_grad():
        model(sample)
