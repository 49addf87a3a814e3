"""snnTorch's neurons that no chip has: they run on the host, and say why."""

from __future__ import annotations

import pytest
import snntorch as snn
import torch
from torch import nn

from has8.errors import TraceError
from hwsim import agreement, compare, simulate
from mapping import load, map_model, save

STEPS = 9


class Mixed(nn.Module):
    """A neuron that no chip has in front of one that all have."""

    def __init__(self, front: nn.Module, cell: nn.Module, features: int, recurrent: bool = False):
        super().__init__()
        self.front, self.cell, self.recurrent = front, cell, recurrent
        self.back = nn.Linear(features, 4)
        self.lif = snn.Leaky(beta=0.8, threshold=0.2)

    def forward(self, x):
        state, mem = self.cell.reset_mem(), self.lif.init_leaky()
        state = state if isinstance(state, tuple) else (state,)
        spikes = torch.zeros(x.shape[1], 8)
        record = []
        for step in range(len(x)):
            arriving = self.front(x[step]) + spikes if self.recurrent else self.front(x[step])
            spikes, *state = self.cell(arriving, *state)
            out, mem = self.lif(self.back(spikes.flatten(1)), mem)
            record.append(out)
        return torch.stack(record).sum(0)


def dense(cell, **options):
    return Mixed(nn.Linear(6, 8), cell, 8, **options), (6,)


CELLS = {
    "alpha": lambda: dense(snn.Alpha(alpha=0.9, beta=0.7, threshold=0.1)),
    "alpha, zero": lambda: dense(
        snn.Alpha(alpha=0.9, beta=0.7, threshold=0.1, reset_mechanism="zero")
    ),
    "slstm": lambda: dense(snn.SLSTM(8, 8, threshold=0.05)),
    "slstm, subtract": lambda: dense(snn.SLSTM(8, 8, threshold=0.05, reset_mechanism="subtract")),
    "sconv2dlstm": lambda: (
        Mixed(nn.Conv2d(2, 3, 3, padding=1), snn.SConv2dLSTM(3, 3, 3, threshold=0.05), 48),
        (2, 4, 4),
    ),
}


@pytest.mark.parametrize("name", CELLS)
def test_they_run_on_the_host_and_what_follows_them_on_the_chip(name, tmp_path):
    torch.manual_seed(4)
    model, shape = CELLS[name]()
    model.eval()
    x = (torch.rand(STEPS, 5, *shape) < 0.5).float()
    with torch.no_grad():
        expected = model(x)
    mapped = map_model(model, calibration=x, inputs="spikes", scales="search")
    assert [p.name for chip in mapped.chip_segments for p in chip.populations] == ["lif"]
    assert torch.equal(agreement(mapped, x).float_answers, expected.argmax(1))
    assert mapped.graph["cell"].op == "fired"
    (why,) = [r.reason for r in mapped.partition.rejections if r.node == "cell"]
    assert f"snn.{type(model.cell).__name__}" in why
    assert "use snn." in why
    assert compare(mapped, x, "reference", "fast").equal
    save(mapped, tmp_path / "net.h8")
    again = simulate(load(tmp_path / "net.h8"), x)
    assert again.activity.events["cell"].sum() > 0
    assert torch.equal(again.logits, simulate(mapped, x, batch_size=2).logits)


def test_one_in_a_loop_over_steps_is_refused_with_its_name():
    model, shape = dense(snn.Alpha(alpha=0.9, beta=0.7, threshold=0.1), recurrent=True)
    x = (torch.rand(STEPS, 5, *shape) < 0.5).float()
    with pytest.raises(TraceError, match=r"'cell'.*in a loop over steps.*use snn\.Synaptic"):
        map_model(model.eval(), calibration=x, inputs="spikes")


def test_a_neuron_that_cannot_be_followed_says_why():
    with pytest.warns(UserWarning, match="Inhibition is an unstable feature"):
        cell = snn.Leaky(beta=0.9, inhibition=True)
    model, shape = dense(cell)
    x = (torch.rand(STEPS, 5, *shape) < 0.5).float()
    with pytest.raises(TraceError, match=r"'cell'.*inhibition=True.*leave it out"):
        map_model(model.eval(), calibration=x, inputs="spikes")


class Fixed(snn.Leaky):
    """A subclass that only fixes constants."""

    def __init__(self):
        super().__init__(beta=0.8, threshold=0.3)


class Doubled(snn.Leaky):
    """A subclass with dynamics of its own."""

    def _base_state_function(self, input_):
        return super()._base_state_function(2 * input_)


def test_a_subclass_that_only_fixes_constants_is_that_neuron():
    torch.manual_seed(0)
    model, shape = dense(Fixed())
    x = (torch.rand(STEPS, 5, *shape) < 0.5).float()
    mapped = map_model(model.eval(), calibration=x, inputs="spikes")
    (chip,) = mapped.chip_segments
    assert [p.name for p in chip.populations] == ["cell", "lif"]
    model, _ = dense(Doubled(beta=0.8))
    with pytest.raises(TraceError, match=r"Doubled is no neuron.*overrides nothing but __init__"):
        map_model(model.eval(), calibration=x, inputs="spikes")


def test_a_forward_that_makes_tensors_of_the_batch_size_is_followed():
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 8)

        def forward(self, x):
            return self.fc(x.flatten(1)) + torch.zeros(x.size(0), 8)

    torch.manual_seed(0)
    net, x = Padded().eval(), torch.rand(4, 6)
    mapped = map_model(net, calibration=x)
    with torch.no_grad():
        assert torch.allclose(simulate(mapped, x).logits, net(x), atol=1e-6)
