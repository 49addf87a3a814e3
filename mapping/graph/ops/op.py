"""What the tool-chain needs to know of one kind of layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from msgspec import Meta, Struct
from torch import Tensor, nn

from mapping.chip.wiring import Axis, Wiring, shape3
from mapping.graph.ir import Node, Signal

Lowered = tuple[Mapping[str, Any], Mapping[str, Tensor]]
"""(attributes, tensors) of a node."""

Role = Literal["host", "synapse", "neuron", "input", "encode", "decode"]

Natural = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
_MOST = torch.finfo(torch.float32).max
Real = Annotated[float, Meta(ge=-_MOST, le=_MOST)]
"""A number that float32 holds."""
AboveZero = Annotated[float, Meta(gt=0, le=_MOST)]
"""One of more than 0."""


class Attrs(Struct, frozen=True, forbid_unknown_fields=True):
    """The attributes of a kind of node, by name, with types and ranges; here: none."""


class LayerAttrs(Attrs, frozen=True, kw_only=True):
    """Attributes of a layer.

    Args:
        written: dense multiply-accumulates of one step as the model has them, where a pass has made
            another layer of it, which suits a chip: what a host would compute; None for its own.
    """

    written: Natural | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """A layer as weights that slide over its input, and a bias.

    Args:
        wiring: who reaches whom.
        weight: ``float64[C_out, C_in / groups, kH, kW]`` of that wiring.
        bias: of each output channel, ``float64[C_out]``; None for none.
    """

    wiring: Wiring
    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True, slots=True)
class SynapseKind:
    """How a layer becomes synapses; with it, all that a chip, a simulator or a price needs.

    Args:
        wiring: who reaches whom, from attributes, weights and the source's signal.
        canonical: the weights, as the layer has them, as ``[C_out, C_in / groups, kH, kW]`` of
            that wiring; gradients pass through.
        scaled: the weights, as the layer has them, with each output channel times a factor of its
            own, ``[C_out]``.
        layer: the inverse of wiring and canonical: attributes and weights of the layer that some
            weights over a source are; None if it is none of this kind.
        price: which of a chip's synaptic operations one of its synapses is.
    """

    wiring: Callable[[Mapping[str, Any], Tensor, Signal], Wiring]
    canonical: Callable[[Mapping[str, Any], Tensor, Wiring], Tensor]
    scaled: Callable[[Mapping[str, Any], Tensor, Tensor], Tensor]
    layer: Callable[[Wiring, Tensor, Signal], tuple[Mapping[str, Any], Tensor] | None]
    price: Literal["synop_conv", "synop_dense", "synop_sparse"]


@dataclass(frozen=True, slots=True)
class Op:
    """One kind of layer: the facts by which the tool-chain traces, types, runs and maps it.

    Args:
        name: the kind, as nodes carry it.
        modules: torch modules that become a node of this kind.
        lower: reads attributes and tensors off such a module.
        infer: the output's type from attributes, tensors and input types; raises
            :class:`ValueError` with a sentence if they do not fit together.
        run: float semantics; tensors are ``[B, ...]``, or ``[T, B, ...]`` if ``sees_time``.
        role: what it can be on a chip; "host" if nothing.
        synapse: how it becomes synapses, where ``role`` is "synapse".
        sees_time: whether ``run`` wants the time axis; otherwise time is merged into the batch.
        inputs: how many nodes feed it; None for any number from 1.
        attrs: types and ranges of its attributes; a struct, or a union of tagged ones.
        tensors: the tensors that it needs, by name, and how many axes each has.
        optional: the tensors that it may have besides.
        any_tensors: whether its tensors have names and axes of the node's own instead.
        reason: why it stays on the host although it works on steps, where its name does not say.
        affine: what it is as weights that slide over an input of a type, where it is that without
            being a synapse; None of that where it is not.
        macs: multiply-accumulates of one sample over all steps, of the node and the types of its
            inputs, where it multiplies without being a synapse.
    """

    name: str
    modules: tuple[type[nn.Module], ...]
    lower: Callable[[Any], Lowered]
    infer: Callable[[Mapping[str, Any], Mapping[str, Tensor], tuple[Signal, ...]], Signal]
    run: Callable[..., Tensor]
    role: Role = "host"
    sees_time: bool = False
    synapse: SynapseKind | None = None
    inputs: int | None = 1
    attrs: Any = Attrs
    tensors: Mapping[str, int] = field(default_factory=dict)
    optional: Mapping[str, int] = field(default_factory=dict)
    any_tensors: bool = False
    reason: str | None = None
    affine: Callable[[Node, Signal], Affine | None] | None = None
    macs: Callable[[Node, Sequence[Signal]], int] | None = None


def nothing(module: nn.Module) -> Lowered:
    """For a kind of node that has neither attributes nor tensors of a module's."""
    return {}, {}


def run_node(op: Op, node: Node, inputs: tuple[Tensor, ...], steps: int | None) -> Tensor:
    """Run one node on real tensors.

    Args:
        op: the node's kind.
        node: the node; its tensors must have the inputs' dtype and device.
        inputs: by slot, ``[B, ...]`` or, where the input's type has steps, ``[T, B, ...]``.
        steps: T of the first input, or None.
    """
    if steps is None or op.sees_time:
        return op.run(node, *inputs)
    merged = op.run(node, *(x.flatten(0, 1) for x in inputs))
    split: Tensor = merged.unflatten(0, (steps, -1))
    return split


def scaled_outputs(attrs: Mapping[str, Any], weight: Tensor, factor: Tensor) -> Tensor:
    """Weights whose first axis is that of the outputs, with each of these times a factor."""
    return weight * factor.view(-1, *(1,) * (weight.dim() - 1))


def each_channel(shape: tuple[int, ...], factor: Tensor, offset: Tensor | None = None) -> Affine:
    """A factor, and an offset, of each channel of a shape."""
    channels, *extents = shape3(shape)
    rows, cols = (Axis(1, 1, 0, 1, extent) for extent in extents)
    wiring = Wiring(rows, cols, channels, channels, channels)
    return Affine(wiring, factor.double().view(-1, 1, 1, 1), offset)


def windows(wires: Wiring, axes: int) -> Mapping[str, Any] | None:
    """The attributes of a convolution along some axes that has a wiring; None if none has."""
    sides = (wires.rows, wires.cols)
    if any(axis.padding < 0 or axis.spread > 1 or axis.extra for axis in sides):
        return None
    used = sides[:axes]
    return {
        "stride": [axis.stride for axis in used],
        "padding": [axis.padding for axis in used],
        "dilation": [axis.dilation for axis in used],
        "groups": wires.groups,
    }


def check_bias(tensors: Mapping[str, Tensor], outputs: int) -> None:
    """Refuse a bias that has not one value for each output.

    Raises:
        ValueError: if there is such a bias.
    """
    if "bias" in tensors and len(tensors["bias"]) != outputs:
        raise ValueError(f"its bias has {len(tensors['bias'])} values for {outputs} outputs")


def pair(value: Any) -> list[int]:
    """A torch size argument, one number or two, as [H, W]."""
    if isinstance(value, int):
        return [value, value]
    height, width = value
    return [int(height), int(width)]


def single(value: Any) -> list[int]:
    """A torch size argument of one axis as a list of one."""
    return [value] if isinstance(value, int) else [int(value[0])]


def sliding(module: Any, sizes: Callable[[Any], list[int]]) -> Lowered:
    """Stride, padding, dilation, groups, weight and bias of one of torch's convolutions.

    Args:
        module: nn.Conv1d or nn.Conv2d.
        sizes: a size argument as a list with a number for each axis: :func:`single`, :func:`pair`.

    Raises:
        ValueError: if it pads otherwise than with as many zeros in front as behind.
    """
    if module.padding_mode != "zeros":
        raise ValueError(f"padding mode {module.padding_mode!r} is not supported, only 'zeros'")
    dilation, kernel = sizes(module.dilation), sizes(module.kernel_size)
    if module.padding == "valid":
        padding = [0] * len(kernel)
    elif module.padding == "same":
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        if any(r % 2 for r in reach):
            raise ValueError("padding='same' with an even kernel is not symmetric; pad explicitly")
        padding = [r // 2 for r in reach]
    else:
        padding = sizes(module.padding)
    attrs = {
        "stride": sizes(module.stride),
        "padding": padding,
        "dilation": dilation,
        "groups": module.groups,
    }
    return attrs, parameters(module, "weight", "bias")


def window(extent: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> int:
    """How many positions a sliding window takes along one axis.

    Raises:
        ValueError: if none.
    """
    count = (extent + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    if count < 1:
        raise ValueError(
            f"a window of {kernel} (stride {stride}, padding {padding}) does not fit "
            f"into an extent of {extent}"
        )
    return count


def parameters(module: nn.Module, *names: str) -> dict[str, Tensor]:
    """The named parameters or buffers that the module has, detached, float32, on the CPU."""
    found = {}
    for name in names:
        value = getattr(module, name, None)
        if value is not None:
            found[name] = value.detach().float().cpu().clone()
    return found
