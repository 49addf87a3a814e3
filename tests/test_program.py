"""A mapping made ready once: runs are equal however often and in whatever parts, state goes on."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from builders import IMAGE, everything
from torch import nn

from has8.blocks import OverTime
from has8.encoders import Decoder, PhaseEncoder
from has8.errors import BackendError, BadInput
from has8.neurons import Leaky
from hwsim import Faults, Faulty, simulate
from hwsim.backends.fast.backend import Fast
from hwsim.backends.protocol import SegmentState
from hwsim.program import Program, joined
from mapping import map_model

RECORD = ("spikes", "membranes")


@pytest.fixture(scope="module")
def mapped():
    return map_model(everything(), input_shape=IMAGE)


@pytest.fixture(scope="module")
def delayed(mapped):
    """The same network with synapses whose spikes arrive one and three steps late."""
    chip, *others = mapped.chip_segments
    one, two = chip.populations
    late = [replace(s, delay=d) for s, d in zip(two.synapses, (1, 3), strict=True)]
    populations = (one, replace(two, synapses=tuple(late)))
    return replace(mapped, chip_segments=(replace(chip, populations=populations), *others))


@pytest.fixture(scope="module", params=["mapped", "delayed"])
def network(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def images():
    return torch.rand(9, *IMAGE, generator=torch.Generator().manual_seed(0))


def assert_equal(one, two, logits=torch.equal):
    """Everything that two runs tell."""
    assert logits(one.logits, two.logits)
    for what in ("spikes", "inputs", "membranes"):
        left, right = getattr(one, what), getattr(two, what)
        assert left.keys() == right.keys()
        for segment, tensors in left.items():
            assert tensors.keys() == right[segment].keys()
            for name, tensor in tensors.items():
                assert torch.equal(tensor, right[segment][name]), (what, name)
    assert_same_state(one.state, two.state)
    assert one.activity.samples == two.activity.samples
    for what in ("events", "updated"):
        left, right = getattr(one.activity, what), getattr(two.activity, what)
        assert left.keys() == right.keys()
        assert all(np.array_equal(counts, right[name]) for name, counts in left.items())
    assert one.activity.overflows == two.activity.overflows


def assert_same_state(one, two):
    assert one.keys() == two.keys()
    for segment, state in one.items():
        other = two[segment].registers
        assert state.registers.keys() == other.keys()
        for name, registers in state.registers.items():
            assert registers.keys() == other[name].keys()
            for key, register in registers.items():
                assert torch.equal(register.long(), other[name][key].long()), (name, key)
        assert state.past.keys() == two[segment].past.keys()
        assert all(torch.equal(x, two[segment].past[k]) for k, x in state.past.items())


def close(one, two):
    """Floats of the host, which may be summed otherwise in batches of another size."""
    return torch.allclose(one, two, atol=1e-5)


@pytest.mark.parametrize("backend", ["fast", "reference"])
def test_run_twice_gives_equal_results_which_are_those_of_simulate(network, images, backend):
    program = Program(network, backend)
    first = program.run(images, record=RECORD)
    program.run(1 - images, keep_state=True)  # leaves nothing behind
    assert_equal(program.run(images, record=RECORD), first)
    assert_equal(simulate(network, images, backend, record=RECORD), first)
    assert not first.state


@pytest.mark.parametrize("cuts", [(3,), (1, 2, 8)])
def test_parts_joined_are_one_run(network, images, cuts):
    program = Program(network)
    whole = program.run(images, record=RECORD, keep_state=True, batch_size=len(images))
    bounds = [0, *cuts, len(images)]
    parts = [
        program.run(images[a:b], record=RECORD, first=a, keep_state=True, batch_size=2)
        for a, b in pairwise(bounds)
    ]
    assert_equal(joined(network, parts), whole, close)
    # and from a state, of which each batch takes its samples
    again = program.run(images, record=RECORD, state=whole.state, keep_state=True)
    small = program.run(images, record=RECORD, state=whole.state, keep_state=True, batch_size=4)
    assert_equal(small, again, close)


def test_keeping_the_state_changes_nothing_else(network, images):
    program = Program(network)
    kept = program.run(images, record=RECORD, keep_state=True)
    assert_equal(replace(kept, state={}), program.run(images, record=RECORD))


@pytest.mark.parametrize("backend", ["fast", "reference"])
def test_state_that_is_handed_over_is_where_the_next_run_begins(network, images, backend):
    """As a chain of the executables made by hand: each segment from what it kept."""
    program = Program(network, backend)
    first = program.run(images, record=RECORD, keep_state=True)
    second = program.run(images, record=RECORD, state=first.state, keep_state=True)
    cleared = program.run(images, record=RECORD, keep_state=True)
    assert_equal(cleared, first)
    differs = [
        not torch.equal(second.spikes[chip.name][p.name], cleared.spikes[chip.name][p.name])
        for chip in network.chip_segments
        for p in chip.populations
    ]
    assert any(differs)
    registers = network.target.registers
    for chip in network.chip_segments:
        execute = program.backend.compile(chip, registers)
        one = execute(first.inputs[chip.name], keep_state=True)
        two = execute(second.inputs[chip.name], membranes=True, state=one.state, keep_state=True)
        for name, spikes in two.spikes.items():
            assert torch.equal(spikes, second.spikes[chip.name][name])
            assert torch.equal(two.membranes[name], second.membranes[chip.name][name])
        assert_same_state({chip.name: two.state}, {chip.name: second.state[chip.name]})


def test_state_means_the_same_to_fast_and_reference(network, images):
    fast, reference = (Program(network, name) for name in ("fast", "reference"))
    first = fast.run(images, keep_state=True)
    assert_same_state(first.state, reference.run(images, keep_state=True).state)
    for one, two in ((fast, reference), (reference, fast)):  # each from what the other kept
        state = one.run(1 - images, keep_state=True).state
        runs = [p.run(images, record=RECORD, state=state, keep_state=True) for p in (one, two)]
        assert_equal(*runs)


def test_a_membrane_goes_on_by_hand():
    """It keeps half in each step, and what it kept decides whether one more input fires."""
    linear = nn.Linear(1, 1, bias=False)
    linear.weight.data.fill_(0.4)
    net = nn.Sequential(PhaseEncoder(1), OverTime(linear), Leaky(threshold=0.5), Decoder((1.0,)))
    program = Program(map_model(net, input_shape=(1,)), "reference")
    state, fired, membranes = None, [], []
    for _ in range(4):  # 0.4, then 0.2 + 0.4, which fires and clears, and again
        run = program.run(torch.ones(1, 1), record=RECORD, state=state, keep_state=True)
        state = run.state
        fired.append(int(run.logits))
        (membrane,) = run.membranes["chip"].values()
        membranes.append(int(membrane))
    assert fired == [0, 1, 0, 1]
    assert membranes[1] == membranes[3] == 0 < membranes[0] == membranes[2]


def test_state_of_something_else_is_refused(mapped, delayed, images):
    program = Program(mapped)
    state = program.run(images, keep_state=True).state
    late = Program(delayed).run(images, keep_state=True).state
    name = mapped.chip_segments[0].name
    registers = state[name].registers
    wrong = {
        "other samples": (state, images[:4]),
        "no state": ({}, images),
        "one segment": ({name: state[name]}, images),
        "other segments": ({**state, "x": state[name]}, images),
        "no neurons": ({**state, name: SegmentState({})}, images),
        "one register": ({**state, name: SegmentState(
            {n: {"v": r["v"]} for n, r in registers.items()})}, images),
        "other neurons": ({**state, name: SegmentState(
            {n: {k: x[..., :1] for k, x in r.items()} for n, r in registers.items()})}, images),
        "delays": (late, images),
    }  # fmt: skip
    for what, (given, x) in wrong.items():
        with pytest.raises(BadInput, match=r"the state (is )?of"):
            program.run(x, state=given)
            pytest.fail(what)
    with pytest.raises(BadInput, match=f"the state of {name!r} must be what it kept of 9 samples"):
        Program(delayed).run(images, state=state)


def test_what_cannot_keep_state_says_so(mapped, images):
    program = Program(mapped, Faulty(Fast(), Faults(dead_neurons=0.1)))
    with pytest.raises(BackendError, match="only into runs from cleared state"):
        program.run(images, keep_state=True)
