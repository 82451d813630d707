# exercise: settle
# outcome: failed
# says: Note the mode of each module and put each one back.
import torch
from torch import nn


def unsettled(model):
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name for name, tensor in tensors if nn.parameter.is_lazy(tensor)}


def settle(model, sample):
    model.eval()
    with torch.no_grad():
        model(sample)
    model.train()
