"""What the tool-chain needs to know of one kind of layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from mapping.chip.wiring import Wiring
from mapping.graph.ir import Node, Signal

Lowered = tuple[Mapping[str, Any], Mapping[str, Tensor]]
"""(attributes, tensors) of a node."""

Role = Literal["host", "synapse", "neuron", "input", "encode", "decode"]


@dataclass(frozen=True, slots=True)
class SynapseKind:
    """How a layer becomes synapses; with it, all that a chip, a simulator or a price needs.

    Args:
        wiring: who reaches whom, from attributes, weights and the source's signal.
        canonical: the weights, as the layer has them, as ``[C_out, C_in / groups, kH, kW]`` of
            that wiring; gradients pass through.
        scaled: the weights, as the layer has them, with each output channel times a factor of its
            own, ``[C_out]``.
        price: which of a chip's synaptic operations one of its synapses is.
    """

    wiring: Callable[[Mapping[str, Any], Tensor, Signal], Wiring]
    canonical: Callable[[Mapping[str, Any], Tensor, Wiring], Tensor]
    scaled: Callable[[Mapping[str, Any], Tensor, Tensor], Tensor]
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
    """

    name: str
    modules: tuple[type[nn.Module], ...]
    lower: Callable[[Any], Lowered]
    infer: Callable[[Mapping[str, Any], Mapping[str, Tensor], tuple[Signal, ...]], Signal]
    run: Callable[..., Tensor]
    role: Role = "host"
    sees_time: bool = False
    synapse: SynapseKind | None = None


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


def pair(value: Any) -> list[int]:
    """A torch size argument, one number or two, as [H, W]."""
    if isinstance(value, int):
        return [value, value]
    height, width = value
    return [int(height), int(width)]


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
