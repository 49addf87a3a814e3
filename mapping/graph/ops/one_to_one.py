"""A synapse from each neuron to the one of the same place, with a weight for each channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mapping.chip.wiring import Axis, Wiring, shape3
from mapping.graph.ir import Kind, Node, Signal
from mapping.graph.ops.op import LayerAttrs, Lowered, Op, SynapseKind, check_bias


class OneToOne(nn.Module):
    """A factor of each channel; also of snnTorch's neurons with ``all_to_all=False``.

    Args:
        weight: a number, or one for each neuron of a vector or for each channel.
        bias: what is added, likewise; None for nothing.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def over(self, shape: tuple[int, ...]) -> OneToOne:
        """With a weight for each channel of neurons of some shape.

        Raises:
            ValueError: if the neurons of a channel have different ones.
        """
        return OneToOne(
            _of_channels(self.weight, shape),
            None if self.bias is None else _of_channels(self.bias, shape),
        )

    def extra_repr(self) -> str:
        """Its numbers, by which two of them are told apart."""
        bias = "" if self.bias is None else f" + {self.bias.tolist()}"
        return f"{self.weight.tolist()}{bias}"

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, ...]`` times the weights, ``[C]``, and the bias."""
        each = (-1, *(1,) * (x.dim() - 2))
        product = x * self.weight.view(each)
        return product if self.bias is None else product + self.bias.view(each)


def _of_channels(numbers: Tensor, shape: tuple[int, ...]) -> Tensor:
    each = numbers.broadcast_to(shape).reshape(shape[0], -1)
    if not bool((each == each[:, :1]).all()):
        raise ValueError("its recurrent weights V differ within a channel: give it one each")
    return each[:, 0].clone()


def lower(module: OneToOne) -> Lowered:
    """No attributes; weight and bias ``[C]``."""
    bias = {} if module.bias is None else {"bias": module.bias}
    return {}, {"weight": module.weight, **bias}


def infer(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """The shape stays; spikes become values."""
    (given,) = inputs
    if len(tensors["weight"]) != given.shape[0]:
        raise ValueError(f"it has weights for {len(tensors['weight'])} channels, not for {given}")
    check_bias(tensors, given.shape[0])
    return Signal(given.shape, Kind.VALUE, given.steps)


def wiring(attrs: Mapping[str, Any], weight: Tensor, source: Signal) -> Wiring:
    """Channels alone, through a window of one element."""
    channels, *extents = shape3(source.shape)
    rows, cols = (Axis(1, 1, 0, 1, extent) for extent in extents)
    return Wiring(rows, cols, channels, channels, channels)


def canonical(attrs: Mapping[str, Any], weight: Tensor, wires: Wiring) -> Tensor:
    """One weight for each channel."""
    return weight.view(-1, 1, 1, 1)


def scaled(attrs: Mapping[str, Any], weight: Tensor, factor: Tensor) -> Tensor:
    """Each channel times a factor."""
    return weight * factor


def layer(wires: Wiring, weight: Tensor, source: Signal) -> tuple[Mapping[str, Any], Tensor] | None:
    """Windows of one element, each channel by itself."""
    alone = wires.groups == wires.channels_in == wires.channels_out
    single = all(axis == Axis(1, 1, 0, 1, axis.size_in) for axis in (wires.rows, wires.cols))
    return ({}, weight.flatten()) if alone and single else None


def run(node: Node, x: Tensor) -> Tensor:
    """``[B, C, ...]`` times the weights, and the bias."""
    each = (-1, *(1,) * (x.dim() - 2))
    product = x * node.tensors["weight"].view(each)
    return product + node.tensors["bias"].view(each) if "bias" in node.tensors else product


OPS = (
    Op(
        "one_to_one",
        (OneToOne,),
        lower,
        infer,
        run,
        role="synapse",
        synapse=SynapseKind(wiring, canonical, scaled, layer, "synop_sparse"),
        attrs=LayerAttrs,
        tensors={"weight": 1},
        optional={"bias": 1},
    ),
)
