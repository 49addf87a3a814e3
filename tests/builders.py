"""Small chip segments by hand, for every test that needs one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from mapping.chip.neurons import Lif
from mapping.chip.segment import ChipSegment, Population, Port, Synapse
from mapping.chip.wiring import Axis, Wiring, dense, shape3
from mapping.targets.schema import Registers, load_target

LOIHI = load_target("loihi")

Pair = int | Sequence[int]


def pair(value: Pair) -> tuple[int, int]:
    """One number for both axes, or one for each."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def window(
    in_shape: Sequence[int],
    weight_shape: Sequence[int],
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Wiring:
    """The wiring of a convolution with weights ``[out, in / groups, kH, kW]``."""
    channels, *extents = shape3(in_shape)
    rows, cols = (
        Axis(weight_shape[2 + a], pair(stride)[a], pair(padding)[a], pair(dilation)[a], extents[a])
        for a in (0, 1)
    )
    return Wiring(rows, cols, channels, weight_shape[0], groups)


def conv(
    name: str,
    source: str,
    in_shape: Sequence[int],
    weight: np.ndarray,
    *,
    exp: int = 0,
    sign_mode: str = "mixed",
    bits: int = 8,
    delay: int = 0,
    **attrs: Any,
) -> Synapse:
    """A convolution; ``attrs`` are stride, padding, dilation and groups."""
    wires = window(in_shape, weight.shape, **attrs)
    return Synapse(name, source, wires, weight.astype(np.int64), exp, sign_mode, bits, delay)


def linear(
    name: str,
    source: str,
    in_shape: Sequence[int],
    weight: np.ndarray,
    *,
    exp: int = 0,
    sign_mode: str = "mixed",
    bits: int = 8,
    delay: int = 0,
) -> Synapse:
    """All to all, by weights ``[out, in]`` with the source in C order."""
    wires = dense(len(weight), in_shape)
    weight = weight.astype(np.int64).reshape(wires.weight_shape)
    return Synapse(name, source, wires, weight, exp, sign_mode, bits, delay)


def lif(
    shape: Sequence[int],
    *,
    threshold: Any = 1,
    bias: Any = 0,
    bias_exp: Any = 0,
    du: Any = 4095,
    dv: Any = 0,
) -> Lif:
    """Neurons; a list of as many constants as there are channels is one for each of these."""

    def constant(value: Any) -> np.ndarray:
        array = np.array(value, np.int64)
        return array if array.ndim != 1 else array.reshape(-1, *(1,) * (len(shape) - 1))

    return Lif(*map(constant, (du, dv, threshold, bias, bias_exp)))


def population(name: str, shape: Sequence[int], *synapses: Synapse, **constants: Any) -> Population:
    """A population of :func:`lif` neurons."""
    return Population(name, tuple(shape), synapses, lif(shape, **constants))


def with_constants(layer: Population, **constants: Any) -> Population:
    """The same population with some constants of its neurons replaced."""
    return replace(layer, neuron=replace(layer.neuron, **constants))  # type: ignore[type-var]


def segment(
    *populations: Population,
    inputs: dict[str, Sequence[int]],
    outputs: Sequence[str] | None = None,
    steps: int = 4,
    name: str = "segment",
) -> ChipSegment:
    """A segment; without ``outputs`` all populations are."""
    ports = tuple(Port(port, tuple(shape)) for port, shape in inputs.items())
    sent = tuple(layer.name for layer in populations) if outputs is None else tuple(outputs)
    return ChipSegment(name, steps, ports, populations, sent)


def random_inputs(
    chip: ChipSegment, samples: int, seed: int = 0, rate: float = 0.5
) -> dict[str, torch.Tensor]:
    """Spikes of every port, ``bool[T, B, *shape]``."""
    rng = np.random.default_rng(seed)
    return {
        port.name: torch.from_numpy(rng.random((chip.steps, samples, *port.shape)) < rate)
        for port in chip.inputs
    }


def registers(**changed: Any) -> Registers:
    """Loihi's arithmetic with some registers changed."""
    import msgspec

    return msgspec.structs.replace(LOIHI.registers, **changed)
