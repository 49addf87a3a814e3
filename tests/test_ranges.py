"""What a model's own encoder refuses, every path of its mapping refuses, and no port clips."""

import math

import pytest
import torch
from builders import feed, population, registers, segment
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from has8 import calibrate
from has8.encoders import (
    BitPlaneEncoder,
    DuplicateEncoder,
    LatencyEncoder,
    PaperBitPlaneEncoder,
    PhaseEncoder,
    RateEncoder,
    encode_rate,
)
from has8.errors import BadInput
from hwsim.backends.registry import find_backend
from hwsim.boundary import encode
from mapping.graph.ops import OPS
from mapping.graph.trace.modules import trace

ENCODERS = {
    "bitplane": lambda: calibrate(BitPlaneEncoder(), torch.tensor([[-1.0, 2.0]])),
    "duplicate": lambda: DuplicateEncoder(3),
    "latency": lambda: LatencyEncoder(5),
    "latency_log": lambda: LatencyEncoder(5, "log"),
    "phase": lambda: PhaseEncoder(4),
}
edges = st.sampled_from([0.0, 1.0, -0.0, 1.0000001, -1e-7, 256.0, -3.0, math.nan])


def outcome(run, x):
    """What a path answers: spikes, or the sentence that it refuses with."""
    try:
        return run(x).float().tolist()
    except BadInput as error:
        return str(error)


@pytest.mark.parametrize("coding", ENCODERS)
@settings(deadline=None)
@given(values=st.lists(edges | st.floats(0, 1, width=32), min_size=1, max_size=4))
@example([math.nan])
@example([0.5, 1.25])
@example([-0.5])
def test_a_mapping_answers_or_refuses_as_the_models_own_encoder_does(coding, values):
    encoder, x = ENCODERS[coding]().eval(), torch.tensor([values])
    node = trace(nn.Sequential(encoder), (len(values),)).output
    own = outcome(encoder, x)
    assert outcome(lambda x: OPS["encode"].run(node, x), x) == own
    if coding != "duplicate":  # its values stay on the host
        assert outcome(lambda x: encode(node, x)[0], x) == own
    if coding in ("bitplane", "duplicate"):
        assert ("takes numbers, not NaN" in own) == any(map(math.isnan, values))
    else:
        assert ("takes values in [0, 1]" in own) != all(0 <= value <= 1 for value in values)


def test_encoders_that_are_not_mapped_take_no_nan_either():
    x = torch.tensor([[0.5, math.nan]])
    with pytest.raises(BadInput, match="takes numbers, not NaN"):
        PaperBitPlaneEncoder().eval()(x)
    with pytest.raises(BadInput, match="takes values in"):
        RateEncoder(4)(x)
    with pytest.raises(BadInput, match="takes values in"):
        encode_rate(torch.tensor([1.5]), 4)


def test_a_calibration_that_meets_nan_keeps_the_range():
    encoder, spoilt = BitPlaneEncoder(), nn.Linear(2, 2)
    nn.init.constant_(spoilt.weight, math.nan)
    with pytest.raises(BadInput, match="takes numbers, not NaN"):
        calibrate(nn.Sequential(spoilt, encoder), torch.ones(1, 2))
    assert (encoder.lo.item(), encoder.hi.item()) == (0, 1)


@pytest.mark.parametrize("backend", ["reference", "fast"])
@pytest.mark.parametrize("events", [2.0, 0.5, -1.0, math.nan])
def test_a_port_takes_spikes_and_no_numbers_of_events(backend, events):
    chip = segment(population("n", (1,), feed("in", [[4, 4]])), inputs={"in": (2,)}, steps=2)
    run = find_backend(backend).compile(chip, registers())
    spikes = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert torch.equal(run({"in": spikes}).spikes["n"], run({"in": spikes.bool()}).spikes["n"])
    with pytest.raises(BadInput, match="'in' sends spikes, 0 or 1 in a step, not"):
        run({"in": spikes * events})
