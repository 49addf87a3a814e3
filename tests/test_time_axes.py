"""Wherever the steps lie: behind the samples, folded into them, late, or only some of them."""

import pytest
import snntorch as snn
import torch
from builders import law
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import hwsim
from has8.errors import BadInput, TraceError
from hwsim import simulate
from mapping import load, map_model, save
from mapping.graph.evaluate import evaluate
from mapping.graph.ir import Kind, Signal

STEPS, SAMPLES = 6, 9


def eighths(net):
    """Weights that are exact in float32 whatever the order of sums."""
    for parameter in net.parameters():
        if parameter.dim():
            parameter.data = (parameter * 16).round() / 8
    return net


class Net(nn.Module):
    """Two spiking layers; how the steps come in and go out is given."""

    def __init__(self, steps_of=lambda x: x.unbind(1), answer=lambda out: torch.stack(out, 1)):
        super().__init__()
        options = {"beta": 0.5, "threshold": 0.5, "reset_mechanism": "zero"}
        self.conv, self.lif1 = nn.Conv2d(2, 3, 3), snn.Leaky(**options)
        self.fc, self.lif2 = nn.Linear(3 * 16, 5), snn.Leaky(**options)
        self.steps_of, self.answer = steps_of, answer

    def forward(self, x):
        mem1, mem2, out = self.lif1.init_leaky(), self.lif2.init_leaky(), []
        for arriving in self.steps_of(x):
            spikes, mem1 = self.lif1(self.conv(arriving), mem1)
            spikes, mem2 = self.lif2(self.fc(spikes.flatten(1)), mem2)
            out.append(spikes)
        return self.answer(out)


@pytest.fixture
def events():
    torch.manual_seed(0)
    return (torch.rand(SAMPLES, STEPS, 2, 6, 6) < 0.5).float()


@pytest.fixture
def equal():
    """Holds a mapping to its network: every spike of the graph, fast and reference alike."""

    def check(net, x, **options):
        mapped = map_model(net, calibration=x, **options)
        with torch.no_grad():
            expected = net(x)
        assert expected.any() and not expected.all()
        assert torch.equal(evaluate(mapped.graph, x), expected)
        run = simulate(mapped, x, batch_size=4)
        assert run.logits.shape == expected.shape and run.activity.samples == SAMPLES
        assert torch.equal(run.logits, simulate(mapped, x, "reference").logits)
        return mapped

    return check


def onto_chip(mapped):
    return {name for segment in mapped.partition.on_chip for name in segment.nodes}


@pytest.mark.parametrize(
    "steps_of",
    [
        lambda x: [x[:, t] for t in range(x.size(1))],
        lambda x: [x[:, t, ...] for t in range(STEPS)],
        lambda x: [x.select(1, t) for t in range(x.shape[1])],
        lambda x: x.unbind(1),
        lambda x: x.unbind(dim=1),
        lambda x: x.transpose(0, 1).contiguous(),
        lambda x: x.permute(1, 0, 2, 3, 4),
        lambda x: x.movedim(1, 0).unbind(0),
        lambda x: torch.swapaxes(x, 0, 1),
    ],
)
def test_samples_may_come_first(events, equal, steps_of):
    net = eighths(Net(steps_of))
    mapped = equal(net, events, inputs="spikes")
    assert mapped.graph.input.type == Signal((STEPS, 2, 6, 6), Kind.SPIKE)
    assert onto_chip(mapped) == {"conv", "lif1", "fc", "lif2"}
    assert mapped.partition.rejections == ()
    values = equal(net, events * 0.5)
    assert values.graph.input.type == Signal((STEPS, 2, 6, 6))
    assert onto_chip(values) == {"fc", "lif2"}


@pytest.mark.parametrize(
    "steps_of",
    [
        lambda x: [x[:, t].view(-1, 2, 6, 6) for t in range(STEPS)],
        lambda x: x.view(-1, STEPS, 2, 6, 6).unbind(1),
        lambda x: x.permute(1, 0, 2).view(STEPS, -1, 2, 6, 6),
        lambda x: x.transpose(0, 1).unflatten(2, (2, 6, 6)),
    ],
)
def test_the_shape_of_a_step_may_change_before_or_after(events, equal, steps_of):
    mapped = equal(eighths(Net(steps_of)), events.flatten(2), inputs="spikes")
    assert onto_chip(mapped) >= {"conv", "lif1", "fc", "lif2"}


def test_rows_of_an_image_are_steps(equal):
    """Sequential images, a row a step."""

    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.lif1 = nn.Linear(5, 12), snn.Leaky(0.5, reset_mechanism="zero")
            self.fc2, self.lif2 = nn.Linear(12, 4), snn.Leaky(0.5, reset_mechanism="zero")

        def forward(self, x):
            x = x.squeeze(1)
            mem1, mem2, total = self.lif1.init_leaky(), self.lif2.init_leaky(), 0
            for row in range(x.size(1)):
                spikes, mem1 = self.lif1(self.fc1(x[:, row, :]), mem1)
                spikes, mem2 = self.lif2(self.fc2(spikes), mem2)
                total = total + spikes
            return total

    torch.manual_seed(0)
    x = torch.randint(0, 9, (SAMPLES, 1, 7, 5)) / 4
    mapped = equal(eighths(Rows()), x)
    assert mapped.graph.input.type == Signal((1, 7, 5))
    assert onto_chip(mapped) == {"fc2", "lif2"}


def test_steps_may_come_last(events, equal):
    x = events.movedim(1, -1).contiguous()
    net = eighths(Net(lambda x: [x[..., t] for t in range(x.shape[-1])]))
    mapped = equal(net, x, inputs="spikes")
    assert onto_chip(mapped) == {"conv", "lif1", "fc", "lif2"}


@law(12)
@given(
    into=st.integers(1, 4), out=st.integers(0, 2), steps=st.integers(2, 7), seed=st.integers(0, 99)
)
def test_steps_may_lie_on_any_axis(into, out, steps, seed):
    torch.manual_seed(seed)
    x = (torch.rand(4, steps, 2, 6, 6) < 0.5).float().movedim(1, into).contiguous()
    net = eighths(Net(lambda x: x.movedim(into, 0), lambda record: torch.stack(record, out)))
    (graph, values) = (
        map_model(net, calibration=x, inputs=inputs, partition="none").graph
        for inputs in ("spikes", "values")
    )
    with torch.no_grad():
        expected = net(x)
    assert torch.equal(evaluate(graph, x), expected)
    assert torch.equal(evaluate(values, x), expected)


def test_time_first_data_may_be_moved_behind_the_samples(events, equal):
    x = events.transpose(0, 1).contiguous()

    class Behind(Net):
        def forward(self, x):
            return super().forward(x.transpose(0, 1)).sum(1)

    mapped = equal(eighths(Behind()), x, inputs="spikes")
    assert mapped.graph.input.type == Signal((2, 6, 6), Kind.SPIKE, STEPS)
    assert onto_chip(mapped) == {"conv", "lif1", "fc", "lif2"}


def test_samples_first_are_kept_run_in_parts_and_answered_by_class(events, tmp_path):
    net = eighths(Net())
    mapped = map_model(net, calibration=events, inputs="spikes")
    again = load(save(mapped, tmp_path / "first.h8"))
    whole = simulate(again, events)
    parts = [simulate(again, part, first=i * 2) for i, part in enumerate(events.split(2))]
    assert torch.equal(whole.logits, torch.cat([part.logits for part in parts]))
    with torch.no_grad():
        answers = net(events).sum(1).argmax(1)
    assert hwsim.agreement(again, events, labels=answers).float_accuracy == 1
    assert hwsim.compare(again, events, "fast", "reference").samples == SAMPLES
    with pytest.raises(BadInput, match=r"\('N', 6, 2, 6, 6\)"):
        simulate(again, events[:, :5])
    with pytest.raises(BadInput, match="0 or 1"):
        simulate(again, events * 0.5)


def test_single_samples_are_no_steps(events):
    one = Net(list, lambda out: torch.stack(out)[:, 0])
    with pytest.raises(TraceError, match="takes single samples of a batch: axis 1"):
        map_model(one, calibration=events.transpose(0, 1), inputs="spikes")
    with pytest.raises(TraceError, match="at step 3 neuron 'lif1'"):
        net = Net(lambda x: [x[:, t if t != 3 else 0] for t in range(STEPS)])
        map_model(net, calibration=events, inputs="spikes")


@pytest.mark.parametrize(
    ("answer", "last"),
    [
        (lambda out: torch.stack(out, 1), "stack"),
        (lambda out: torch.stack(out, dim=-1), "stack"),
        (lambda out: torch.stack(out).permute(1, 0, 2), "stack"),
        (lambda out: torch.stack(out, 1).transpose(0, 1), "neuron"),
        (lambda out: torch.cat([o.unsqueeze(0) for o in out]), "neuron"),
        (lambda out: torch.stack(out, 1).sum(1), "decode"),
        (lambda out: torch.stack(out).sum(0), "decode"),
        (lambda out: torch.stack(out).mean(0) * STEPS, "decode"),
        (lambda out: torch.stack(out, -1).sum(-1), "decode"),
        (lambda out: torch.stack(out, 1).amax(1), "largest"),
        (lambda out: sum(out), "decode"),
        (lambda out: sum(out[2:]), "decode"),
        (lambda out: torch.stack(out[-3:]).sum(0), "decode"),
        (lambda out: torch.stack(out[2:]), "some_steps"),
        (lambda out: torch.stack(out)[2:5], "some_steps"),
        (lambda out: torch.stack(out, 1)[:, ::2], "stack"),
        (lambda out: torch.stack(out[1:]).amax(0), "largest"),
        (lambda out: torch.stack([torch.zeros_like(out[0]), *out[:-1]]), "delay"),
        (lambda out: torch.stack([torch.zeros_like(out[0]), *out[:-1]], 1).sum(1), "decode"),
    ],
)
def test_steps_are_read_out_in_many_ways(events, equal, answer, last):
    mapped = equal(eighths(Net(answer=answer)), events, inputs="spikes")
    assert mapped.graph.output.op == last
    assert onto_chip(mapped) == {"conv", "lif1", "fc", "lif2"}


class LayerByLayer(nn.Module):
    """Each layer takes all steps at once, each neuron loops over them: ``[T, B, ...]``."""

    def __init__(self, fold, unfold, batch_first=False):
        super().__init__()
        options = {"beta": 0.5, "threshold": 0.5, "reset_mechanism": "zero"}
        self.conv, self.norm, self.act = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Tanh()
        self.lif1, self.fc, self.lif2 = snn.Leaky(**options), nn.Linear(16, 5), snn.Leaky(**options)
        self.pool = nn.AvgPool2d(2)
        self.fold, self.unfold, self.first = fold, unfold, batch_first

    def spiking(self, lif, x):
        mem, out, axis = lif.init_leaky(), [], int(self.first)
        for t in range(x.shape[axis]):
            spikes, mem = lif(x[:, t] if self.first else x[t], mem)
            out.append(spikes)
        return torch.stack(out, axis)

    def forward(self, x):
        sides = x.shape[:2]
        y = self.norm(self.conv(self.fold(x)))
        y = self.spiking(self.lif1, self.unfold(y, sides))
        y = self.fc(self.pool(self.fold(y)).flatten(1))
        return self.spiking(self.lif2, self.unfold(y, sides))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(
    ("fold", "unfold"),
    [
        (lambda x: x.flatten(0, 1), lambda y, sides: y.view(*sides, *y.shape[1:])),
        (lambda x: x.flatten(0, 1), lambda y, sides: y.unflatten(0, sides)),
        (lambda x: x.reshape(-1, *x.shape[2:]), lambda y, s: y.reshape(s[0], -1, *y.shape[1:])),
        (
            lambda x: x.reshape(x.size(0) * x.size(1), *x.shape[2:]),
            lambda y, sides: y.reshape(*sides, *y.shape[1:]),
        ),
    ],
)
def test_layers_may_run_on_all_steps_at_once(events, equal, fold, unfold, batch_first):
    net = eighths(LayerByLayer(fold, unfold, batch_first)).eval()
    x = events if batch_first else events.transpose(0, 1).contiguous()
    mapped = equal(net, x, inputs="spikes")
    assert onto_chip(mapped) == {"conv", "lif1", "fc", "lif2"}
    assert mapped.partition.rejections == ()


def test_folded_steps_pass_through_layers_that_no_file_describes(events, equal):
    class Odd(LayerByLayer):
        def forward(self, x):
            y = self.act(self.norm(self.conv(x.flatten(0, 1)))) + 1
            y = self.spiking(self.lif1, y.view(*x.shape[:2], 4, 4, 4))
            y = self.pool(y.flatten(0, 1)).view(*x.shape[:2], -1)
            return self.spiking(self.lif2, self.fc(y.flatten(0, 1)).view(*x.shape[:2], -1))

    x = events.transpose(0, 1).contiguous()
    net = eighths(Odd(None, None)).eval()
    mapped = map_model(net, calibration=x, inputs="spikes")
    with torch.no_grad():
        assert torch.allclose(evaluate(mapped.graph, x), net(x))
    assert onto_chip(mapped) == {"fc", "lif2"}


def test_folded_steps_are_no_answer_and_no_neuron_takes_them(events):
    x = events.transpose(0, 1).contiguous()

    class Answer(Net):
        def forward(self, x):
            return super().forward(x).flatten(0, 1)

    with pytest.raises(TraceError, match=r"on one axis: give each an axis of its own, view\(6, B"):
        map_model(Answer(list, torch.stack), calibration=x, inputs="spikes")
    with pytest.raises(TraceError, match="'lif1' .*takes all steps at once"):
        map_model(Net(lambda x: [x.flatten(0, 1)] * 2), calibration=x, inputs="spikes")
