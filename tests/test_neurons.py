"""Leaky over a whole tensor equals snnTorch's Leaky stepped, and keeps no state."""

import pickle

import pytest
import snntorch as snn
import torch
from builders import law
from hypothesis import given
from hypothesis import strategies as st
from snntorch import surrogate

from has8.errors import BadInput, CheckpointError
from has8.kernels import paths
from has8.neurons import Leaky, leaky, make_neuron
from mapping.graph.ops import neuron
from mapping.graph.ops.cells import constants_of
from mapping.graph.ops.neuron import lower


# snnTorch's own spikes are float32 whatever its input, so exact equality is a law of float32.
def stepped(x, beta, threshold, gain, alpha=2.0):
    """The plain snnTorch loop that Leaky must equal."""
    cell = snn.Leaky(
        beta,
        threshold=threshold,
        reset_mechanism="zero",
        spike_grad=surrogate.atan(alpha=alpha),
    )
    mem, spikes = torch.zeros_like(x[0]), []
    for current in x:
        spike, mem = cell(current if gain == 1 else current * gain, mem)
        spikes.append(spike)
    return torch.stack(spikes)


@law(40)
@given(
    steps=st.integers(1, 9),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    beta=st.floats(0, 1, width=32, allow_subnormal=False),
    threshold=st.floats(0.125, 2, width=32),
    gain=st.sampled_from([1.0, 0.5]),
    seed=st.integers(0, 1000),
)
def test_equals_stepping_snntorch_forward_and_backward(steps, shape, beta, threshold, gain, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(steps, *shape, generator=generator) * 2
    weight = torch.randn(steps, *shape, generator=generator)
    results = []
    for run in (
        lambda v: Leaky(beta, threshold, gain)(v),
        lambda v: stepped(v, beta, threshold, gain),
    ):
        leaf = x.clone().requires_grad_()
        spikes = run(leaf)
        (spikes * weight).sum().backward()
        results.append((spikes.detach(), leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@law(40)
@given(
    steps=st.integers(1, 9),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    beta=st.floats(0, 1),
    threshold=st.floats(0.125, 2),
    gain=st.sampled_from([1.0, 0.5, 0.3]),
    seed=st.integers(0, 1000),
)
def test_leaky_is_the_recurrence_of_its_definition(steps, dtype, beta, threshold, gain, seed):
    generator = torch.Generator().manual_seed(seed)
    currents = torch.randn(steps, 2, 5, generator=generator, dtype=dtype) * 2
    currents.requires_grad_()
    membranes, spikes = leaky(currents, beta, threshold, gain)
    assert not spikes.requires_grad and not membranes.requires_grad
    v = torch.zeros(2, 5, dtype=dtype)
    for current, membrane, fired in zip(currents.detach(), membranes, spikes, strict=True):
        v = v * beta + current * gain
        assert torch.equal(membrane, v)
        assert torch.equal(fired, (v > threshold).to(dtype))
        v = torch.where(v > threshold, torch.zeros_like(v), v)


def test_leaky_by_hand():
    membranes, spikes = leaky(torch.tensor([1.0, 1.0, 1.0, 0.0]).view(4, 1), 0.5, 1.25)
    assert membranes.flatten().tolist() == [1.0, 1.5, 1.0, 0.5]
    assert spikes.flatten().tolist() == [0.0, 1.0, 0.0, 0.0]
    halved, _ = leaky(torch.tensor([[1.0]]), 0.5, 1.25, gain=0.5)
    assert halved.item() == 0.5


def test_state_does_not_outlive_a_forward():
    neuron, x = Leaky(0.9), torch.full((3, 2, 4), 0.4)
    first = neuron(x)
    assert torch.equal(neuron(x), first)
    assert neuron(torch.rand(5, 7, 1)).shape == (5, 7, 1)
    assert neuron.mem.numel() == 0


def test_hard_reset_is_right_after_the_spike_and_threshold_is_strict():
    spikes = Leaky(beta=1.0)(torch.tensor([1.0, 0.5, 0.25, 1.0]).view(4, 1))
    # 1.0 is not above 1; 1.5 fires and resets; 0.25; 1.25 fires
    assert spikes.flatten().tolist() == [0, 1, 0, 1]


def test_lif_with_low_bits_first_sums_the_code_exactly():
    """Without firing v_8 = x / 256 (the released LIF on the planes of 200: 0.78125)."""
    bits = torch.tensor([(200 >> k) & 1 for k in range(8)], dtype=torch.float64)
    beta, gain = make_neuron("lif").constants[0], make_neuron("lif").gain
    v = torch.tensor(0.0, dtype=torch.float64)
    for bit in bits:
        v = v * beta + bit * gain
    assert v.item() == 200 / 256


def test_neurons_are_snntorch_neurons_and_are_not_kept_alive():
    before = len(snn.SpikingNeuron.instances)
    assert isinstance(make_neuron("if"), snn.Leaky)
    assert len(snn.SpikingNeuron.instances) == before


@pytest.mark.parametrize(
    "bad",
    [
        {"beta": 1.5},
        {"beta": -0.1},
        {"beta": float("nan")},
        {"beta": torch.rand(3)},
        {"threshold": 0.0},
        {"threshold": float("nan")},
        {"threshold": float("inf")},
        {"threshold": torch.ones(3)},
        {"gain": float("inf")},
        {"alpha": 0.0},
    ],
)
def test_constants_out_of_range_are_refused(bad):
    with pytest.raises(BadInput, match=r"a neuron needs"):
        Leaky(**bad)
    with pytest.raises(BadInput, match="neuron must be one of if, lif"):
        make_neuron("izhikevich")


CONSTANTS = {"beta": st.floats(0, 1, width=32), "threshold": st.floats(0.125, 2, width=32)}


def oracle(cell, x, gain=1.0):
    """Spikes and membranes of snnTorch's own cell, stepped from a cleared membrane."""
    mem, spikes, membranes = torch.zeros_like(x[0]), [], []
    for current in x:
        spike, mem = cell(current * gain, mem)
        spikes.append(spike)
        membranes.append(mem)
    return torch.stack(spikes), torch.stack(membranes)


@law(30)
@given(
    learn=st.booleans(),
    way=st.sampled_from(["load", "assign", "in place", "replaced", "pickled"]),
    seed=st.integers(0, 1000),
    **CONSTANTS,
)
def test_what_the_state_says_is_what_runs(beta, threshold, learn, way, seed):
    cell = snn.Leaky(
        beta, threshold=threshold, reset_mechanism="zero", learn_beta=learn, learn_threshold=learn
    )
    neuron = Leaky()
    x = torch.randn(6, 2, 5, generator=torch.Generator().manual_seed(seed)) * 2
    neuron(x)  # whatever it remembers of its first constants must not stay
    if way in ("load", "assign"):
        state = {key: value.detach() for key, value in cell.state_dict().items()}
        neuron.load_state_dict(state, assign=way == "assign")
    elif way == "replaced":
        neuron.beta, neuron.threshold = torch.tensor(beta), torch.tensor(threshold)
    else:
        neuron.beta.fill_(beta)
        neuron.threshold.fill_(threshold)
    if way == "pickled":
        neuron = pickle.loads(pickle.dumps(neuron))
    with torch.no_grad():
        spikes, membranes = oracle(cell, x)
        assert torch.equal(neuron(x), spikes)
        with paths.plain():
            assert torch.equal(neuron(x), spikes)
        assert torch.equal(leaky(x, *neuron.constants)[0], membranes)
    assert lower(neuron)[0]["beta"] == neuron.beta.item() == neuron.constants[0]
    assert lower(neuron)[0]["threshold"] == neuron.threshold.item() == neuron.constants[1]


def test_a_constant_that_float32_rounds_is_the_rounded_one_everywhere():
    cell, neuron = snn.Leaky(0.1, threshold=0.3, reset_mechanism="zero"), Leaky(0.1, 0.3)
    x = torch.linspace(-1, 1, 60, dtype=torch.float64).view(6, 10)
    assert torch.equal(neuron(x), oracle(cell, x)[0].double())
    assert neuron.constants == (cell.beta.item(), cell.threshold.item())


def test_constants_are_read_again_after_each_change_wherever_they_are(monkeypatch):
    neuron = Leaky(0.5)
    monkeypatch.setattr(torch.Tensor, "device", torch.device("cuda"))  # where they are remembered
    assert neuron.constants == neuron.constants == (0.5, 1.0)
    assert neuron._known is not None
    neuron.beta.fill_(0.25)
    assert neuron.constants == (0.25, 1.0)
    neuron.threshold = torch.tensor(2.0)
    assert neuron.constants == (0.25, 2.0)
    neuron.load_state_dict(Leaky(0.75, 3.0).state_dict())
    assert neuron.constants == (0.75, 3.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": torch.tensor(1.25)}, "beta in"),
        ({"beta": torch.tensor(float("nan"))}, "beta in"),
        ({"threshold": torch.tensor(float("nan"))}, "beta in"),
        ({"threshold": torch.tensor(float("inf"))}, "beta in"),
        ({"threshold": torch.tensor(0.0)}, "beta in"),
        ({"beta": torch.rand(5)}, "single number, not .5,"),
        ({"threshold": torch.ones(2, 2)}, "single number, not .2, 2"),
        ({"beta": 0.5}, "single number, not float"),
        ({"reset_mechanism_val": torch.tensor(0)}, "another reset"),
        ({"graded_spikes_factor": torch.tensor(2.0)}, "graded spikes"),
    ],
)
def test_a_state_that_cannot_be_carried_is_refused_while_loading(changes, message):
    model = torch.nn.Sequential(Leaky())
    state = model.state_dict() | {f"0.{name}": value for name, value in changes.items()}
    with pytest.raises(CheckpointError, match=message) as caught:
        model.load_state_dict(state)
    assert "'0" in str(caught.value) and "\n" not in str(caught.value)
    assert model[0].constants == (0.5, 1.0)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("beta", torch.tensor(2.0), "beta in"),
        ("threshold", torch.ones(4), "one number as its threshold"),
        ("beta", torch.nn.Parameter(torch.tensor(0.5)), "no gradient reaches"),
    ],
)
def test_constants_that_are_set_are_held_to_the_same_rules(name, value, message):
    neuron = Leaky()
    setattr(neuron, name, value)
    with pytest.raises(BadInput, match=message):
        neuron(torch.rand(3, 2, 4))


# snnTorch's own neurons, as nodes of a graph

RESETS = st.sampled_from(["zero", "subtract", "none"])
SHAPES = st.sampled_from([None, None, (), (1,), (4, 1, 1), (1, 4, 1, 1), (3,), (2, 3), (4, 2, 3)])


@st.composite
def constants(draw, low=0.0, high=1.0):
    """A number, or a tensor that broadcasts over images of (4, 2, 3)."""
    shape = draw(SHAPES)
    if shape is None:
        return draw(st.floats(low, high, width=32))
    generator = torch.manual_seed(draw(st.integers(0, 1000)))
    return low + (high - low) * torch.rand(shape, generator=generator)


PART = constants()


@st.composite
def cells(draw):
    kind, reset = draw(st.sampled_from([snn.Leaky, snn.Synaptic, snn.Lapicque])), draw(RESETS)
    rest = {"threshold": draw(constants(0.125, 2.0)), "reset_mechanism": reset}
    if kind is snn.Lapicque:
        return kind(beta=draw(st.floats(0.4, 0.99)), **rest)
    if kind is snn.Synaptic:
        options = {"learn_alpha": draw(st.booleans()), "reset_delay": draw(st.booleans())}
        return kind(draw(PART), draw(PART), **options, **rest)
    learned = {name: draw(st.booleans()) for name in ("learn_beta", "learn_threshold")}
    return kind(draw(PART), **learned, reset_delay=draw(st.booleans()), **rest)


@law(60)
@given(cells(), st.integers(1, 12), st.integers(0, 1000))
def test_the_constants_of_snntorchs_cells_compute_what_they_do(cell, steps, seed):
    x = torch.randn(steps, 3, 4, 2, 3, generator=torch.Generator().manual_seed(seed)) * 2
    state = [torch.zeros(3, 4, 2, 3)] * (2 if isinstance(cell, snn.Synaptic) else 1)
    expected, left = [], []
    with torch.no_grad():
        for current in x:
            spike, *state = cell(current, *state)
            expected.append(spike)
            left.append(state[-1])
    spikes, membranes = neuron.stepped(constants_of(cell), x)
    if isinstance(cell, snn.Lapicque):  # multiplies in another order
        certain = (membranes - cell.threshold).abs().cummin(0)[0] > 1e-4
        assert torch.equal(spikes[certain], torch.stack(expected)[certain])
    else:
        assert torch.equal(spikes, torch.stack(expected))
        if constants_of(cell)["reset"] == "subtract_at_once":
            assert torch.equal(membranes, torch.stack(left))


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        (snn.Alpha(0.9, 0.8), "Alpha is no neuron that mapping knows: use snn.Leaky"),
        (snn.Lapicque(0.2), "changes sign"),
        (snn.Leaky(0.9, state_quant=torch.round), "state_quant"),
    ],
)
def test_a_cell_that_no_constants_describe_is_refused(cell, sentence):
    with pytest.raises(ValueError, match=sentence):
        constants_of(cell)
