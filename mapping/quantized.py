"""Layers that compute what the chip would, with the weights of those whose place they take.

Batch norm is folded with its running statistics, weights and biases are rounded by the function
that mapping uses, at scales that stay, and neurons run in whole numbers. Gradients pass straight
through rounding (what is clipped gets none) and through the neurons' arctan surrogate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from has8.blocks import OverTime, SpikingLayer
from has8.encoders import Decoder
from has8.iir import SharedIIR
from has8.kernels import storage
from has8.neurons import ATAN_ALPHA
from mapping.chip.wiring import Wiring
from mapping.graph.ir import Node
from mapping.graph.ops.neuron import lower as lower_neuron
from mapping.graph.passes import folded
from mapping.integers.neurons import ChipNeurons
from mapping.integers.rounding import Scale, float_layer, to_integers
from mapping.integers.sums import weighted_sums
from mapping.targets.schema import Registers


@dataclass(frozen=True, slots=True)
class Rule:
    """How one layer is rounded.

    Args:
        synapses: its nodes of weights, that of the layer first.
        wires: who reaches whom through each of them.
        neuron: the node that they drive.
        scale: how its floats become integers.
        registers: the target's.
        bits: bits of a weight.
    """

    synapses: tuple[Node, ...]
    wires: tuple[Wiring, ...]
    neuron: Node
    scale: Scale
    registers: Registers
    bits: int

    def __deepcopy__(self, memo: object) -> Rule:
        """Frozen, so that copies of a model can share it."""
        return self


class QuantizedLayer(SpikingLayer):
    """A spiking layer that computes what the chip would; it shares the modules of another.

    Args:
        layer: whose synapses, batch norm and neuron it takes over.
        rule: how its floats become integers.
    """

    def __init__(self, layer: SpikingLayer, rule: Rule) -> None:
        nn.Module.__init__(self)
        self.synapses, self.neuron = layer.synapses, layer.neuron
        self._rule = rule

    def forward(self, x: Tensor, decode: Decoder | None = None) -> Tensor:
        """``[T, B, ...]`` of 0 and 1 to spikes; decoded, to values."""
        narrow = storage.narrow_type(x)
        with torch.autocast(x.device.type, enabled=False):  # sums need all their bits
            spikes = self._spikes(x, narrow)
        return spikes if decode is None else decode(spikes)

    def _spikes(self, x: Tensor, narrow: torch.dtype) -> Tensor:
        rule = self._rule
        attrs, _ = lower_neuron(self.neuron)
        floats = float_layer([self._folded()], rule.wires, replace(rule.neuron, attrs=attrs))
        integers = to_integers(floats, rule.scale, rule.registers, rule.bits)
        neurons = ChipNeurons.of(floats, rule.registers, x.device)
        (weight,), (wires,) = neurons.weights(integers), rule.wires
        x, layer = x.flatten(0, 1).to(neurons.dtype), self.synapses[0]
        if narrow == torch.bfloat16:
            drive: Tensor = _NarrowGradient.apply(x, weight, layer, wires)
        else:
            drive = _sums(layer, wires, x, weight)
        alpha = self.neuron.alpha * attrs["threshold"]
        drive = drive.reshape(-1, *rule.neuron.type.shape)
        spikes = neurons(drive, rule.neuron.type.steps or 1, integers, alpha)
        return spikes.to(storage.real(narrow))

    def _folded(self) -> Node:
        """The synapse with today's weights, and batch norm's running statistics in them."""
        layer, norm, rule = self.synapses[0], self.norm, self._rule
        node = replace(rule.synapses[0], tensors=_tensors(layer, "weight", "bias"))
        if norm is None:
            return node
        names = ("running_mean", "running_var", "weight", "bias")
        attrs = {"eps": norm.eps}
        batchnorm = Node("norm", "batchnorm", (), node.type, attrs, _tensors(norm, *names))
        return replace(node, tensors=folded(node, batchnorm))


class QuantizedFilters(SharedIIR):
    """A neuron with shared filters that computes what the chip would, with the weights before it.

    Args:
        neuron: whose place it takes.
        layer: the weights that reach it; its module keeps them, and does nothing any more.
        rule: how their floats become integers; the second synapse, if any, is the bias of a current
            that lasts, which a neuron that fires in every step sends.
    """

    def __init__(self, neuron: SharedIIR, layer: nn.Module, rule: Rule) -> None:
        nn.Module.__init__(self)
        self.constants, self._rule = neuron.constants, rule
        self._before = (layer,)  # in a tuple, since it is no part of this module

    def forward(self, x: Tensor) -> Tensor:
        """Spikes ``[T, B, ...]`` that reach the weights to spikes ``[T, B, ...]``."""
        with torch.autocast(x.device.type, enabled=False):  # sums need all their bits
            return self._spikes(x).to(x.dtype)

    def _spikes(self, x: Tensor) -> Tensor:
        rule, (layer,) = self._rule, self._before
        main, *others = rule.synapses
        nodes = [replace(main, tensors=_tensors(layer, *main.tensors))]
        for node in others:
            bias = _tensors(layer, "bias")["bias"].view_as(node.tensors["weight"])
            nodes.append(replace(node, tensors={"weight": bias}))
        floats = float_layer(nodes, rule.wires, rule.neuron)
        integers = to_integers(floats, rule.scale, rule.registers, rule.bits)
        neurons = ChipNeurons.of(floats, rule.registers, x.device)
        (weight, *biases), shape = neurons.weights(integers), rule.neuron.type.shape
        x = x.flatten(0, 1).to(neurons.dtype)
        drive = weighted_sums(rule.wires[0], x, weight).reshape(-1, *shape)
        for wires, bias in zip(rule.wires[1:], biases, strict=True):
            drive = drive + weighted_sums(wires, x.new_ones(wires.in_shape)[None], bias).view(shape)
        return neurons(_whole(drive), rule.neuron.type.steps or 1, integers, ATAN_ALPHA)


class Before(OverTime):
    """The layers in front of :class:`QuantizedFilters`, which computes them; it passes on spikes.

    Args:
        layers: whose modules it takes over.
    """

    def __init__(self, layers: OverTime) -> None:
        super().__init__(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """The same."""
        return x


def _tensors(module: nn.Module, *names: str) -> dict[str, Tensor]:
    """The named parameters and buffers that a module has, as float32."""
    found = {name: getattr(module, name) for name in names}
    return {name: tensor.float() for name, tensor in found.items() if tensor is not None}


def _sums(layer: nn.Module, wires: Wiring, x: Tensor, weight: Tensor) -> Tensor:
    """What a layer makes of spikes with these weights and no bias."""
    with torch.backends.nnpack.flags(enabled=False):
        if isinstance(layer, nn.Conv2d):  # the layer knows a faster way for few pixels
            swapped = {"weight": weight}
            if layer.bias is not None:
                swapped["bias"] = weight.new_zeros(len(weight))
            sums: Tensor = functional_call(layer, swapped, (x,))
        else:
            sums = weighted_sums(wires, x, weight)
    return _whole(sums)


def _whole(sums: Tensor) -> Tensor:
    """Sums of integers; cuDNN may take Winograd's algorithm, which multiplies by fractions."""
    return sums + (sums.round() - sums).detach() if sums.is_cuda else sums


class _NarrowGradient(torch.autograd.Function):
    """:func:`_sums`, exact forwards; backwards in bfloat16, which holds spikes and weights too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, layer: nn.Module, wires: Wiring) -> Tensor:
        ctx.save_for_backward(x.bfloat16(), weight.bfloat16())
        ctx.layer, ctx.wires, ctx.dtype = layer, wires, weight.dtype
        return _sums(layer, wires, x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight = (tensor.requires_grad_() for tensor in ctx.saved_tensors)
        with torch.enable_grad():
            sums = _sums(ctx.layer, ctx.wires, x, weight)
        grad_x, grad_weight = torch.autograd.grad(sums, (x, weight), grads[0].bfloat16())
        return grad_x.to(ctx.dtype), grad_weight.to(ctx.dtype), None, None
