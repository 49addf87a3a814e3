"""Each layer that stays on the host has a sentence that is true of it and says what to do."""

import msgspec
import pytest
import snntorch as snn
import torch
from torch import nn

from has8.errors import BadInput, TraceError
from hwsim import simulate
from mapping import check_model, load_target, map_model


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


class Delayed(nn.Module):
    """A layer that takes what came two steps before, of values or of spikes."""

    def __init__(self, steps=5, of="spikes"):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
        self.l1 = snn.Leaky(beta=0.5, threshold=0.25, reset_mechanism="zero")
        self.l2 = snn.Leaky(beta=0.5, reset_mechanism="zero")
        self.steps, self.of = steps, of

    def forward(self, x):
        a, b, counts = self.l1.init_leaky(), self.l2.init_leaky(), 0
        past = [torch.zeros(len(x), 3 if self.of == "values" else 6)] * 2
        for _ in range(self.steps):
            k, a = self.l1(self.first(x), a)
            past.append(self.last(k) if self.of == "values" else k)
            late = past.pop(0)
            k, b = self.l2(late if self.of == "values" else self.last(late), b)
            counts = counts + k
        return counts


def test_what_is_delayed_on_the_host_says_what_a_chip_delays():
    said = reasons(Delayed(of="values"))
    assert "only spikes, not values: delay the spikes that they are made of" in said["last.late"]
    assert "(delay), not from synapses alone" in said["l2"]
    sheet = load_target("loihi")
    short = msgspec.structs.replace(sheet.registers, delay_max=1)
    sheet = msgspec.structs.replace(sheet, registers=short)
    mapped = map_model(Delayed(), sheet, calibration=torch.rand(4, 4))
    said = {r.node: r.reason for r in mapped.partition.rejections}
    assert "on their way to its own neurons, and 'last' is on the host" in said["l1.late"]
    assert "'last' takes spikes 2 steps late" in said["l2"]


def test_a_loop_with_fewer_steps_than_a_delay_is_told_to_run_more():
    with pytest.raises(TraceError, match="'last' takes zeros .* run more steps than it has"):
        reasons(Delayed(steps=2))
    assert reasons(Delayed(steps=3))


def test_a_current_that_the_host_reads_too_says_who_takes_it():
    class Read(Delayed):
        def forward(self, x):
            a, b = self.l1.init_leaky(), self.l2.init_leaky()
            for _ in range(4):
                k, a = self.l1(self.first(x), a)
                k, b = self.l2(self.last(k), b)
            return k + b

    said = reasons(Read())
    assert said["l2"].startswith("the current of 'last' goes to 'l2.membrane' too, and on a chip")
    assert "a chip clears it with the spike" in said["l2.membrane"]


def test_a_whole_number_is_the_shape_of_a_vector():
    mapped = map_model(Net().eval(), input_shape=4)
    assert mapped.graph.input.type.shape == (4,)
    with pytest.raises(BadInput, match=r"takes samples \('N', 4\)"):
        simulate(mapped, torch.rand(2, 5))
