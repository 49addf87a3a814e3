"""snnTorch's neurons that no constants describe: their steps, unrolled, as calls of torch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import snntorch as snn
import torch
from torch import Tensor, nn

from mapping.graph.ir import Signal
from mapping.graph.ops.cells import kind_of, states_of
from mapping.graph.trace.opaque import Recorded, record

STATES: dict[type[nn.Module], tuple[str, ...]] = {
    snn.Alpha: ("syn_exc", "syn_inh", "mem"),
    snn.SLSTM: ("syn", "mem"),
    snn.SConv2dLSTM: ("syn", "mem"),
}
"""What such neurons keep from step to step, in the order in which they take it."""
WHY: dict[type[nn.Module], str] = {
    snn.Alpha: "its membrane is the difference of two currents (snn.Alpha), and a chip's neuron "
    "has one current and a membrane: use snn.Synaptic",
    snn.SLSTM: "its gates multiply what they get with each other (snn.SLSTM), and a chip's neuron "
    "adds: use snn.RSynaptic",
    snn.SConv2dLSTM: "its gates multiply what they get with each other (snn.SConv2dLSTM), and a "
    "chip's neuron adds: use snn.Synaptic behind a convolution, with feedback",
}
"""Why they stay on the host, and what would not."""


@dataclass(eq=False)
class Foreign:
    """One of these neurons.

    Args:
        cell: the layer.
        states: what it keeps.
        why: it stays on the host.
        currents: what arrived in each step of a run.
    """

    cell: Any
    states: tuple[str, ...]
    why: str
    currents: list[Tensor] = field(default_factory=list)

    def content(self, what: str, signal: Signal) -> Recorded:
        """Its spikes ("spk") or one of its states in all steps, as a node of torch's calls.

        Args:
            what: "spk" or one of ``states``.
            signal: what drives it.

        Raises:
            ValueError: if its steps cannot be followed.
        """
        two = torch.stack(self.currents)
        three = torch.cat([two, two[:, :1].flip(0) / 2 + two[:, 1:2] / 2], 1)
        return record(self._over_steps(what), [[two], [three]], [signal])

    def _over_steps(self, what: str) -> Callable[[Tensor], Tensor]:
        def call(x: Tensor) -> Tensor:
            cell = copy.deepcopy(self.cell)
            for name in self.states:
                setattr(cell, name, torch.zeros(0))
            found = []
            for current in x:
                result = cell(current)
                spikes = result[0] if isinstance(result, tuple) else result
                found.append(spikes if what == "spk" else getattr(cell, what))
            return torch.stack(found)

        return call


def foreign(cell: nn.Module, said: str) -> Foreign | None:
    """One of these neurons; None for a class whose states nobody knows.

    Args:
        cell: of snnTorch.
        said: why no constants describe it.
    """
    kind = type(cell)
    if kind in STATES:
        return Foreign(cell, STATES[kind], WHY[kind])
    return Foreign(cell, states_of(cell), said) if kind_of(cell) is not None else None
