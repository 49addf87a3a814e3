"""A neuron on real Loihi 2 silicon, step by step.

The data of NIR's paper (Pedersen et al., "Neuromorphic intermediate representation", Nature
Communications 2024; https://github.com/neuromorphs/NIR, paper/01_lif/lif_lava_loihi_fixed.csv)
hold what one LIF neuron on a Loihi 2 chip did in 1,000 steps: a weight of 10, current decay 4095,
membrane decay 163, threshold 25, no bias. A spike takes one step to the neuron, so the chip's step
``t + 1`` is step ``t`` here.

The spikes are equal, and so is the membrane, but for the four steps with a spike: there the chip's
register reads 128 and ours 0, as Lava's does. On the chip a fired neuron's register holds its
refractory state instead, 128 = 2 << 6, and the next step starts from 0 on either side
(https://github.com/lava-nc/lava/issues/282).
"""

from hashlib import sha256

import numpy as np
import pytest
import torch
from builders import LOIHI, linear, population, segment

from hwsim.backends.fast.backend import Fast
from hwsim.backends.lava.backend import Lava
from hwsim.backends.reference import Reference

MISSING = Lava().unavailable()
STEPS, DELAY = 1000, 1
INPUTS = [
    60, 220, 270, 310, 320, 350, 370, 400, 410, 430, 440, 450, 460, 470, 480, 490, 500,
    510, 520, 530, 670, 680, 690, 700, 710, 720, 730, 740, 750, 760, 770, 780, 840, 850,
]  # fmt: skip
SPIKES = [461, 511, 711, 761]
REFRACTORY = 2 << 6
CHIP_READS = [0, 640, 614, 1099, 128, 0]
MEMBRANE_SHA256 = "754aa9304634729fa1f3b84ec4655023b986a84ea83e5c3cc7d21dc01cfb799f"
"""Of the membrane in all steps as text, numbers with a space between them, as the chip gave it."""


def run(backend, **constants):
    """The neuron's run in one sample of 1,000 steps."""
    synapse = linear("w", "in", (1,), np.array([[10]]), sign_mode="excitatory")
    values = {"threshold": 25, "du": 4095, "dv": 163, **constants}
    chip = segment(population("lif", (1,), synapse, **values), inputs={"in": (1,)}, steps=STEPS)
    spikes = torch.zeros(STEPS, 1, 1, dtype=torch.bool)
    spikes[INPUTS] = True
    membranes = backend.name != "lava"
    return backend.compile(chip, LOIHI.registers)({"in": spikes}, membranes=membranes)


def spike_steps(run):
    """As the chip counts them."""
    return (np.flatnonzero(run.spikes["lif"].numpy()) + DELAY).tolist()


def as_read_out(run):
    """The membrane in the chip's steps, with its refractory state where it has just fired."""
    membrane = np.zeros(STEPS, np.int64)
    membrane[DELAY:] = run.membranes["lif"].flatten().numpy()[:-DELAY]
    membrane[SPIKES] += REFRACTORY  # where it reads 0 itself
    return membrane


def digest(membrane):
    return sha256(" ".join(map(str, membrane)).encode()).hexdigest()


@pytest.mark.parametrize("backend", [Reference(), Fast()], ids=lambda backend: backend.name)
def test_every_step_equals_the_chip(backend):
    found = run(backend)
    assert spike_steps(found) == SPIKES
    membrane = as_read_out(found)
    assert membrane[[60, 61, 62, 460, 461, 462]].tolist() == CHIP_READS
    assert membrane.max() == 1589
    assert digest(membrane) == MEMBRANE_SHA256


@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
def test_lava_spikes_as_the_chip():
    assert spike_steps(run(Lava())) == SPIKES


@pytest.mark.parametrize("changed", [{"dv": 162}, {"dv": 164}, {"threshold": 24}, {"du": 4000}])
def test_the_trace_tells_constants_apart(changed):
    """Otherwise it would prove little."""
    assert digest(as_read_out(run(Reference(), **changed))) != MEMBRANE_SHA256
