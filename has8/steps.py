"""A loop over steps around a network that takes one step in a call."""

from __future__ import annotations

from typing import Literal

import snntorch as snn
import torch
from torch import Tensor, nn

from has8 import given
from has8.encoders.latency import LatencyEncoder
from has8.encoders.rate import RateEncoder
from has8.errors import BadInput
from has8.values import value, whole

Readout = Literal["count", "spikes", "membrane_sum", "membrane_last", "membrane_max"]
Input = Literal["static", "steps", "rate", "latency"]


class StepLoop(nn.Module):
    """What :func:`over_time` makes."""

    def __init__(
        self, net: nn.Module, steps: int | None, readout: Readout, input: Input, seed: int
    ) -> None:
        super().__init__()
        self.net, self.steps, self.readout, self.input = net, steps, readout, input
        self.encode: nn.Module | None = None
        if steps is not None and input in ("rate", "latency"):
            self.encode = RateEncoder(steps, seed) if input == "rate" else LatencyEncoder(steps)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, ...]``, or ``[T, B, ...]`` with the input "steps", to ``[B, ...]``.

        The readout "spikes" gives ``[T, B, ...]``.
        """
        for module in self.net.modules():
            if isinstance(module, snn.SpikingNeuron) and hasattr(module, "reset_mem"):
                module.reset_mem()
        if self.input == "steps" and self.steps is not None and len(x) != self.steps:
            raise BadInput(f"the loop runs {self.steps} steps, and the input has {len(x)}")
        if self.encode is not None:
            x = self.encode(x)
        spikes, membranes = [], []
        for arriving in [x] * (self.steps or 1) if self.input == "static" else list(x):
            answer = self.net(arriving)
            if isinstance(answer, tuple):
                spikes.append(answer[0])
                membranes.append(answer[-1])
            else:
                spikes.append(answer)
        if self.readout == "spikes":
            return torch.stack(spikes)
        if self.readout == "count":
            return torch.stack(spikes).sum(0)
        if not membranes:
            raise BadInput(
                f"the readout {self.readout!r} needs the membranes of the last neuron: make it "
                f"with output=True"
            )
        if self.readout == "membrane_last":
            last: Tensor = membranes[-1]
            return last
        every = torch.stack(membranes)
        return every.sum(0) if self.readout == "membrane_sum" else every.amax(0)

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return f"steps={self.steps}, readout={self.readout!r}"


def over_time(
    net: nn.Module,
    steps: int | None = None,
    readout: Readout = "count",
    input: Input = "static",
    seed: int = 0,
) -> nn.Module:
    """A network together with the loop over its steps, as :func:`mapping.map_model` takes it.

    Args:
        net: takes one step in a call, and keeps the state of snnTorch's neurons from call to call
            (``init_hidden=True``); the loop clears it before the first step.
        steps: how many; may be left out where the input has them.
        readout: "count" of spikes, "spikes" of all steps, or the sum, the last or the largest of
            the membranes (of a last neuron with ``output=True``).
        input: "static" gives the same ``[B, ...]`` in every step, "steps" takes ``[T, B, ...]``,
            "rate" makes spikes of ``[B, ...]`` in [0, 1] by chance
            (:class:`has8.encoders.RateEncoder`), and "latency" one of each, the larger the earlier
            (:class:`has8.encoders.LatencyEncoder`).
        seed: of the draws of "rate" in evaluation.

    Raises:
        BadInput: if an argument is of another type or out of range, or a neuron of ``net`` does
            not keep its state from call to call.
    """
    given.instance(net, nn.Module, "a model")
    for name, module in net.named_modules():
        if isinstance(module, snn.SpikingNeuron) and not module.init_hidden:
            raise BadInput(
                f"neuron {name or type(module).__name__!r} does not keep its state from step to "
                f"step: make it with init_hidden=True; a network whose forward has the loop over "
                f"steps, and its readout, needs no other around it"
            )
    readout = value(readout, Readout, "readout")
    input, seed = value(input, Input, "input"), whole(seed, "seed", 0)
    if steps is not None or input != "steps":
        steps = whole(steps, "steps", 1)
    return StepLoop(net, steps, readout, input, seed)
