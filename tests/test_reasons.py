"""Each layer that stays on the host has a sentence that is true of it and says what to do."""

import pytest
import snntorch as snn
import torch
from torch import nn

from has8.errors import BadInput, TraceError
from hwsim import simulate
from mapping import check_model, map_model


class Net(nn.Module):
    def __init__(self, middle=None, threshold=1.0):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
        self.middle = middle or nn.Identity()
        self.l1 = snn.Leaky(beta=0.5, threshold=threshold)
        self.l2 = snn.Leaky(beta=0.5)

    def forward(self, x):
        a, b, counts = self.l1.init_leaky(), self.l2.init_leaky(), 0
        for _ in range(4):
            k, a = self.l1(self.first(x), a)
            k, b = self.l2(self.last(self.middle(k)), b)
            counts = counts + k
        return counts


def reasons(net):
    return {x.name: x.reason for x in check_model(net.eval(), calibration=torch.rand(4, 4)).layers}


@pytest.mark.parametrize("least", [0.0, -0.25])
@pytest.mark.parametrize("several", [False, True])
def test_a_threshold_must_be_above_zero(least, several):
    threshold = torch.tensor([least, 1, 1, 1, 1, 1]) if several else least
    said = rf"'l1' \(Leaky\) cannot be mapped: its threshold must be above 0, not {least:g}$"
    with pytest.raises(TraceError, match=said):
        reasons(Net(threshold=threshold))


@pytest.mark.parametrize("middle", [nn.Linear(6, 6), nn.BatchNorm1d(6)])
def test_layers_in_a_row_are_one_on_the_chip(middle):
    said = reasons(Net(middle))
    assert "middle" not in said and "the target has such neurons" in said["l2"]


def test_a_whole_number_is_the_shape_of_a_vector():
    mapped = map_model(Net().eval(), input_shape=4)
    assert mapped.graph.input.type.shape == (4,)
    with pytest.raises(BadInput, match=r"takes samples \('N', 4\)"):
        simulate(mapped, torch.rand(2, 5))
