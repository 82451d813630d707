# %% [markdown]
# ## Parameters of an LSTM
#
# `lstm_parameters(inputs, hidden, layers, bidirectional)` is how many numbers `torch.nn.LSTM` learns.

# %% part="stub"
def lstm_parameters(inputs: int, hidden: int, layers: int = 1, bidirectional: bool = False) -> int:
    """Weights and both biases of all four gates, layers and directions. Roughly 4 lines."""
    raise NotImplementedError("Write lstm_parameters.")


# %% part="solution"
def lstm_parameters(inputs: int, hidden: int, layers: int = 1, bidirectional: bool = False) -> int:
    directions = 2 if bidirectional else 1
    first = 4 * hidden * (inputs + hidden + 2)
    later = 4 * hidden * (directions * hidden + hidden + 2)
    return directions * (first + (layers - 1) * later)


# %% part="mistake"
def lstm_parameters(inputs: int, hidden: int, layers: int = 1, bidirectional: bool = False) -> int:
    directions = 2 if bidirectional else 1
    first = 4 * hidden * (inputs + hidden + 1)
    later = 4 * hidden * (directions * hidden + hidden + 1)
    return directions * (first + (layers - 1) * later)


# %% part="test"
def test_one_layer(lstm_parameters):
    """One layer has four gates with two biases each."""
    import torch

    for inputs, hidden in ((1, 1), (3, 5), (10, 4)):
        want = sum(p.numel() for p in torch.nn.LSTM(inputs, hidden).parameters())
        assert lstm_parameters(inputs, hidden) == want, (inputs, hidden)


# %% part="test"
def test_layers_and_directions(lstm_parameters):
    """Later layers read both directions of the one below."""
    import torch

    for layers, both in ((2, False), (1, True), (3, True)):
        want = sum(p.numel() for p in torch.nn.LSTM(3, 4, layers, bidirectional=both).parameters())
        assert lstm_parameters(3, 4, layers, both) == want, (layers, both)
