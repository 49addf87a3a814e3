"""Weighted sums of spikes in the fastest arithmetic that cannot round.

A bound on every sum is known from the integer weights before anything runs. Where weights fit
8 bits (a power of two they share is taken out first), oneDNN multiplies bytes and adds in int32.
Else floating point is exact on integers up to 2**24 (float32) or 2**53 (float64), as long as
products are added up and nothing else: NNPACK and cuDNN may take Winograd's algorithm, which
multiplies by fractions, so the one is switched off and on the other float64 is rounded back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from has8.errors import BackendError
from mapping.segment import ChipSegment, Population, Synapse

Arithmetic = Literal["int8", "float32", "float64"]
Ints = NDArray[np.int64]

FLOAT32_BITS, FLOAT64_BITS = 24, 53
"""Integers of up to so many bits are exact."""

SMALL = 4
"""Up to so many pixels, a convolution is done as the matrix product that it is."""


@dataclass(frozen=True, slots=True)
class Sums:
    """The sums that one synapse adds to a population's drive.

    Everything has channels last: ``[N, H, W, C]``, or ``[N, in]``.

    Args:
        source: a port's or a population's name.
        arithmetic: what it is computed in.
        weight: int8 mantissas, or floats in units of the population's drive; ``[O, I, kH, kW]``
            or ``[out, in]``.
        scale: what int8 sums are multiplied by, a power of two.
        window: stride, padding, dilation and groups of a convolution; None for a matrix.
    """

    source: str
    arithmetic: Arithmetic
    weight: Tensor
    scale: float
    window: tuple[list[int], list[int], list[int], int] | None
    _packed: dict[tuple[int, ...], Any] = field(default_factory=dict, repr=False)

    def __call__(self, spikes: Tensor) -> Tensor:
        """Sums over spikes ``bool[N, ...]``: floats ``[N, ...]``, all whole numbers."""
        if self.window is None:
            spikes = spikes.flatten(1)
            if self.arithmetic == "int8":
                return self._int8_product(spikes.view(torch.uint8))
            return F.linear(spikes.to(self.weight.dtype), self.weight)
        images = spikes.permute(0, 3, 1, 2)
        if self.arithmetic == "int8":
            return self._int8_convolution(images.view(torch.uint8)).permute(0, 2, 3, 1)
        with torch.backends.nnpack.flags(enabled=False):
            sums = F.conv2d(images.to(self.weight.dtype), self.weight, None, *self.window)
        sums = sums.permute(0, 2, 3, 1)
        return sums.round_() if sums.is_cuda else sums

    def _int8_product(self, x: Tensor) -> Tensor:
        onednn = torch.ops.onednn
        if x.shape not in self._packed:
            self._packed[x.shape] = onednn.qlinear_prepack(self.weight, list(x.shape))
        out: Tensor = onednn.qlinear_pointwise(
            x, 1.0, 0, self._packed[x.shape], *self._scales(), None, 1.0, 0, torch.float32,
            "none", [], "",
        )  # fmt: skip
        return out

    def _int8_convolution(self, x: Tensor) -> Tensor:
        onednn, window = torch.ops.onednn, self.window
        assert window is not None
        scales, zeros = self._scales()
        if x.shape not in self._packed:
            self._packed[x.shape] = onednn.qconv_prepack(
                self.weight, scales, 1.0, 0, *window, list(x.shape)
            )
        out: Tensor = onednn.qconv2d_pointwise(
            x, 1.0, 0, self._packed[x.shape], scales, zeros, None, *window, 1.0, 0, torch.float32,
            "none", [], "",
        )  # fmt: skip
        return out

    def _scales(self) -> tuple[Tensor, Tensor]:
        outputs = len(self.weight)
        return torch.full((outputs,), self.scale), torch.zeros(outputs, dtype=torch.int64)


def compile_sums(
    segment: ChipSegment, population: Population, device: torch.device
) -> tuple[tuple[Sums, ...], int]:
    """The sums of all synapses of a population, in units of a power of two that they share.

    Args:
        segment: which the population is of.
        population: its weight exponents must not be negative.
        device: where to run; bytes are multiplied on the CPU only.

    Returns:
        The sums, and the exponent of their unit: a drive of x stands for ``x * 2**exponent``.

    Raises:
        BackendError: if the sums could be larger than float64 holds.
    """
    matrices = [_wires(segment, population, synapse) for synapse in population.synapses]
    exponents = [
        _shared_exponent(matrix) + synapse.weight_exp
        for (matrix, _), synapse in zip(matrices, population.synapses, strict=True)
    ]
    unit = min(exponents, default=0)
    bound = population.most_drive >> unit
    if bound.bit_length() > FLOAT64_BITS:
        raise BackendError(
            f"population {population.name!r} could add up {bound.bit_length()} bits and float64 is "
            f"exact up to {FLOAT64_BITS}; use the reference"
        )
    sums = []
    for synapse, (matrix, window), exponent in zip(
        population.synapses, matrices, exponents, strict=True
    ):
        arithmetic = _arithmetic(matrix >> (exponent - synapse.weight_exp), bound, device)
        if arithmetic == "int8":
            weight = torch.from_numpy(matrix >> (exponent - synapse.weight_exp)).to(torch.int8)
        else:
            whole = torch.from_numpy((matrix << synapse.weight_exp) >> unit)
            weight = whole.to(device, getattr(torch, arithmetic))
            if window is not None:
                weight = weight.contiguous(memory_format=torch.channels_last)
        scale = 2.0 ** (exponent - unit)
        sums.append(Sums(synapse.source, arithmetic, weight, scale, window))
    return tuple(sums), unit


def _arithmetic(weight: Ints, bound: int, device: torch.device) -> Arithmetic:
    """The fastest that is exact for these weights, if no sum of the population exceeds a bound."""
    if device.type != "cpu" or bound > 1 << FLOAT32_BITS:
        return "float64"
    fits = weight.min(initial=0) >= -128 and weight.max(initial=0) <= 127
    return "int8" if fits and multiplies_bytes() else "float32"


def _shared_exponent(weight: Ints) -> int:
    """Of the largest power of two that divides all weights."""
    bits = int(np.bitwise_or.reduce(np.abs(weight), axis=None)) if weight.size else 0
    return (bits & -bits).bit_length() - 1 if bits else 0


def _wires(
    segment: ChipSegment, population: Population, synapse: Synapse
) -> tuple[Ints, tuple[list[int], list[int], list[int], int] | None]:
    """Weights and window of a synapse, with channels last where it is a matrix."""
    source, target = segment.shape_of(synapse.source), population.shape
    if synapse.kind == "linear":
        matrix = _channels_last(synapse.weight, source, 1)
        return _channels_last(matrix, target, 0), None
    window = tuple(list(synapse.attrs[key]) for key in ("stride", "padding", "dilation"))
    groups = int(synapse.attrs["groups"])
    if groups == 1 and source[1] * source[2] <= SMALL:
        return _unrolled(synapse, source, target), None
    return synapse.weight, (*window, groups)  # type: ignore[return-value]


def _channels_last(matrix: Ints, shape: tuple[int, ...], axis: int) -> Ints:
    """Reorder an axis that runs over ``(C, H, W)`` to run over ``(H, W, C)``."""
    order = np.moveaxis(np.arange(matrix.shape[axis]).reshape(shape), 0, -1).reshape(-1)
    return matrix.take(order, axis)


def _unrolled(synapse: Synapse, source: tuple[int, ...], target: tuple[int, ...]) -> Ints:
    """A convolution as a matrix between all neurons, channels last on both axes."""
    (channels, height, width), weight = source, synapse.weight
    outputs, high, wide = target
    stride, padding, dilation = (synapse.attrs[key] for key in ("stride", "padding", "dilation"))
    matrix = np.zeros((high, wide, outputs, height, width, channels), np.int64)
    for y, x, row, column in np.ndindex(high, wide, *weight.shape[2:]):
        v = y * stride[0] - padding[0] + row * dilation[0]
        u = x * stride[1] - padding[1] + column * dilation[1]
        if 0 <= v < height and 0 <= u < width:
            matrix[y, x, :, v, u] = weight[:, :, row, column]
    return matrix.reshape(high * wide * outputs, height * width * channels)


@cache
def multiplies_bytes() -> bool:
    """Whether torch has oneDNN's products of bytes here, and they are exact.

    They are by construction, sums being int32; this only sees to it that the build at hand does
    that: some instruction sets would halve odd weights, or saturate.
    """
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-128, 128, (16, 80, 3, 3), generator=generator).to(torch.int8)
    weight[:8] = torch.tensor([127, -128, -127, 1]).repeat_interleave(2)[:, None, None, None]
    spikes = torch.rand(2, 4, 5, 80, generator=generator) < 0.5
    spikes[0] = True
    window = ([1, 1], [1, 1], [1, 1], 1)
    try:
        found = (
            Sums("", "int8", weight, 1.0, window)(spikes),
            Sums("", "int8", weight.flatten(1), 1.0, None)(spikes.repeat(1, 9, 1, 1)[:, :9, :1]),
        )
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    wide = weight.double()
    expected = (
        Sums("", "float64", wide, 1.0, window)(spikes),
        Sums("", "float64", wide.flatten(1), 1.0, None)(spikes.repeat(1, 9, 1, 1)[:, :9, :1]),
    )
    return all(torch.equal(a.double(), b) for a, b in zip(found, expected, strict=True))
