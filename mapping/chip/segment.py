"""What a chip is given: populations of neurons and the synapses between them, all integers.

These types hold NumPy arrays and plain values only, so that a simulator can be given them in an
interpreter without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Port:
    """Spikes that enter a segment: ``bool[T, B, *shape]``.

    Args:
        name: the graph node that makes them (an encoder, or a neuron of another segment).
        shape: of one sample in one step.
    """

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Synapse:
    """All synapses from one source to one population.

    Args:
        name: the graph node it comes from.
        source: a port's or a population's name.
        kind: "conv2d" or "linear".
        attrs: for conv2d ``stride``, ``padding``, ``dilation`` (pairs, (H, W) order) and
            ``groups``; empty for linear.
        weight: mantissas on the target's grid; ``[out, in/groups, kH, kW]`` or ``[out, in]``.
        weight_exp: a weight acts as ``weight * 2**weight_exp``, before the shift of 6 bits.
        sign_mode: "mixed", "excitatory" or "inhibitory".
        weight_bits: bits that one stored weight takes.
    """

    name: str
    source: str
    kind: str
    attrs: Mapping[str, Any]
    weight: IntArray
    weight_exp: int
    sign_mode: str
    weight_bits: int


@dataclass(frozen=True, slots=True)
class Population:
    """Neurons that share their constants: one layer.

    Per step: ``u = wrap(decay(u, du + 1) + (sum w s << 6))``;
    ``v = clip(decay(v, dv) + u + bias)``; spike where ``v > threshold << 6``; there ``v = 0``.

    Args:
        name: the neuron's graph node.
        shape: ``(C, H, W)`` or ``(N,)``.
        synapses: what feeds it, in the order of the graph.
        neuron: the neuron model, "lif" with hard reset.
        threshold: the mantissa of each channel, ``int64[C]``; the membrane is compared with
            ``threshold * 64``, strictly.
        bias: the mantissa of each channel, ``int64[C]``.
        bias_exp: the bias acts as ``bias * 2**bias_exp`` in every step.
        du: current decay, 0..4095; the chip adds one, so 4095 lets a current last one step.
        dv: membrane decay, 0..4096, in 1/4096 a step.
    """

    name: str
    shape: tuple[int, ...]
    synapses: tuple[Synapse, ...]
    neuron: str
    threshold: IntArray
    bias: IntArray
    bias_exp: int
    du: int
    dv: int

    @property
    def size(self) -> int:
        """How many neurons."""
        return int(np.prod(self.shape))

    def per_channel(self, constants: IntArray) -> IntArray:
        """One number for each channel, ``[C]``, in a shape that broadcasts over the neurons."""
        return constants.reshape(-1, *(1,) * (len(self.shape) - 1))

    @property
    def most_drive(self) -> int:
        """The largest possible |sum of weights| into one neuron in one step, before the shift.

        Weight exponents must not be negative.
        """
        drive = np.zeros(self.shape, np.int64)
        for synapse in self.synapses:
            weight = np.abs(synapse.weight) << synapse.weight_exp
            sums = weight.reshape(len(weight), -1).sum(1)
            if synapse.kind == "linear":
                drive += sums.reshape(self.shape)
            else:
                drive += self.per_channel(sums)
        return int(drive.max())


@dataclass(frozen=True, slots=True)
class ChipSegment:
    """A part of the network that runs on chip as one piece.

    Args:
        name: unique in its model.
        steps: steps of one sample; all state is cleared between samples.
        inputs: where spikes come in.
        populations: in topological order.
        outputs: names of the populations whose spikes the host (or another segment) needs.
    """

    name: str
    steps: int
    inputs: tuple[Port, ...]
    populations: tuple[Population, ...]
    outputs: tuple[str, ...]

    def loop(self) -> tuple[str, str] | None:
        """The first population that is fed by itself or a later one, and by which; None if none."""
        known = {port.name for port in self.inputs}
        for population in self.populations:
            for synapse in population.synapses:
                if synapse.source not in known:
                    return population.name, synapse.source
            known.add(population.name)
        return None

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The shape of a port or a population."""
        sources: list[Port | Population] = [*self.inputs, *self.populations]
        return next(source.shape for source in sources if source.name == name)

    def population(self, name: str) -> Population:
        """The population called ``name``."""
        return next(item for item in self.populations if item.name == name)
