"""Between host and chip: values to spikes, spikes to values, and counting what passes.

What the graph's own encoders and decoders compute, in one compiled pass where there is one.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from has8.encoders.bitplane import BitPlaneEncoder, plane_of_step
from has8.encoders.ranges import check_numbers
from hwsim import kernels
from hwsim.activity import Counts
from hwsim.backends.fast.layout import logical, stored
from hwsim.backends.protocol import binary
from mapping.chip.neurons import Lif
from mapping.chip.segment import Population
from mapping.graph.ir import Node
from mapping.graph.ops import OPS
from mapping.graph.ops.neuron import constants_of
from mapping.integers.rounding import excitability, written
from mapping.targets.schema import Registers


def encode(node: Node, x: Tensor) -> tuple[Tensor, Counts]:
    """The spikes of an encoder whose output is spikes.

    Args:
        node: of kind "encode".
        x: values ``float32[B, *shape]``.

    Returns:
        Spikes ``bool[T, B, *shape]``, and how many samples have one, ``int64[T, *shape]``.

    Raises:
        BadInput: if the coding cannot take the values.
    """
    if node.attrs["coding"] != BitPlaneEncoder.coding or not _quick(x):
        spikes = binary(OPS["encode"].run(node, x), node.name)
        return spikes, count(spikes, 1)
    check_numbers(x, BitPlaneEncoder.coding)
    planes = torch.tensor(plane_of_step(node.attrs["order"]), dtype=torch.int32)
    values, steps, lo = x.movedim(1, -1).contiguous(), len(planes), node.attrs["lo"]
    samples, *neurons = values.shape
    spikes = torch.empty(samples, steps, *neurons, dtype=torch.bool)
    fired = torch.zeros(steps, *neurons, dtype=torch.int32)
    kernels.call(
        "encode", samples, steps, values[0].numel(), values, lo, node.attrs["hi"] - lo, planes,
        spikes, fired,
    )  # fmt: skip
    return logical(spikes), fired.movedim(-1, 1).numpy().astype(np.int64)


def repack(node: Node, x: Tensor) -> Tensor:
    """Trains of spikes or values of each step as payloads, or payloads as trains.

    Args:
        node: of kind "pack", "grade" or "unpack".
        x: spikes of 0 and 1, values, or payloads in whole numbers, ``[T, B, *shape]``.

    Returns:
        ``[T, B, *shape]``, bool or payloads in whole numbers, in memory as the chip's spikes lie.

    Raises:
        BadInput: if a train to be packed has other than 0 and 1.
    """
    given = binary(x, node.name) if node.op == "pack" else x
    kind = getattr(torch, node.type.payload.kind)
    changed: Tensor = OPS[node.op].run(node, given).to(kind)
    return logical(stored(changed))


def written_biases(
    neuron: Node, population: Population, registers: Registers, current: Tensor
) -> tuple[Tensor, int]:
    """The mantissas that the host writes for a current that is the same in every step.

    Args:
        neuron: the population's node.
        population: one with a port for its biases.
        registers: the target's.
        current: of each sample, in the neuron's floats, ``float32[B, *shape]``.

    Returns:
        ``int64[B, *shape]``, the biases that the population has in every sample included; and how
        many are clipped to what the register holds.
    """
    lif, shape = population.neuron, population.shape
    assert isinstance(lif, Lif)
    # A channel's unit is its largest threshold, as that of its weights is.
    thresholds = np.broadcast_to(lif.threshold, shape).reshape(shape[0], -1).max(1)
    bias = torch.from_numpy(np.broadcast_to(lif.bias, shape).astype(np.float64))
    held, clipped = written(
        neuron,
        torch.from_numpy(thresholds.astype(np.float64)),
        bias,
        int(lif.bias_exp),
        registers,
        current.cpu(),
    )
    return held.long(), clipped


def read_membranes(
    neuron: Node, population: Population, registers: Registers, membranes: Tensor
) -> Tensor:
    """Membranes in the neuron's floats, from the register's integers.

    Args:
        neuron: the population's node.
        population: whose membranes they are.
        registers: the target's.
        membranes: whole numbers ``[B, *shape]``.

    Returns:
        ``float32[B, *shape]``.
    """
    lif, shape = population.neuron, population.shape
    assert isinstance(lif, Lif)
    thresholds = np.broadcast_to(lif.threshold, shape).reshape(shape[0], -1).max(1)
    unit = excitability(neuron)[1] * torch.from_numpy(thresholds << registers.threshold_shift)
    gain = torch.as_tensor(constants_of(neuron)["gain"], dtype=torch.float64)
    values: Tensor = membranes.double() * gain / unit.view(-1, *(1,) * (len(shape) - 1))
    return values.float()


def decode(node: Node, spikes: Tensor) -> Tensor:
    """The values of a decoder.

    Args:
        node: of kind "decode".
        spikes: ``bool[T, B, *shape]``.

    Returns:
        ``float32[B, *shape]``; terms are added in the order of the steps.
    """
    if not _quick(spikes):
        decoded: Tensor = OPS["decode"].run(node, spikes.float())
        return decoded
    dense = stored(spikes)
    samples, steps, *neurons = dense.shape
    values = torch.empty(samples, *neurons, dtype=torch.float32)
    weights = node.tensors["weights"].float().contiguous()
    kernels.call("decode", samples, steps, dense[0, 0].numel(), dense, weights, values)
    return values.movedim(-1, 1)


def count(x: Tensor, batch_axis: int) -> Counts:
    """How many samples are not zero, for each element: ``int64``, without the batch axis."""
    if x.dtype == torch.bool and batch_axis == 1:
        return _count_spikes(x)
    if batch_axis or x.dtype != torch.float32 or not _quick(x):
        counts: Counts = (x != 0).sum(batch_axis).cpu().numpy()
        return counts
    values = x.movedim(1, -1).contiguous()
    total = torch.zeros(values.shape[1:], dtype=torch.int32)
    kernels.call("count", len(values), total.numel(), values, total)
    return total.movedim(-1, 0).numpy().astype(np.int64)


def _count_spikes(x: Tensor) -> Counts:
    """The counts of spikes ``bool[T, B, *shape]``."""
    dense = stored(x).cpu().numpy().view(np.uint8)
    total = np.zeros(dense.shape[1:], np.int64)
    for start in range(0, len(dense), 255):  # as many as a byte can count
        total += np.add.reduce(dense[start : start + 255], axis=0, dtype=np.uint8)
    return np.moveaxis(total, -1, 1)


def _quick(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.numel() > 0 and kernels.available()
