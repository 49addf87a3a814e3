"""Weighted sums of spikes, times payloads where these are graded, in arithmetic that cannot round.

A bound on every sum is known from the integer weights before anything runs. Where weights fit
8 bits (a power of two they share is taken out first), oneDNN multiplies bytes and adds in int32.
Its convolutions of bytes are wrong, or crash, for some rare geometries (rectangular, dilated), so
only the common ones are left to it; and the first time that a layer meets images of some shape, it
is tried on random spikes against float32, which it falls back to should anything differ.

Floating point is exact on integers up to 2**24 (float32) or 2**53 (float64), as long as products
are added up and nothing else: NNPACK and cuDNN may take Winograd's algorithm, which multiplies by
fractions, so the one is switched off and on the other float64 is rounded back. Weights of more
than 8 significant bits take float64, since torch can be told to multiply float32 as bfloat16, and
so do graded spikes of more than 8 bits; with up to 8 they take float32.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from math import prod
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from has8.errors import BackendError
from mapping.chip.arithmetic import FLOAT32_BITS, FLOAT64_BITS, Ints
from mapping.chip.payload import Payload
from mapping.chip.segment import ChipSegment, Population, Synapse
from mapping.chip.wiring import Shape3, Wiring, shape3, taps
from mapping.integers.sums import Window, convolved, plain_window, weighted_sums

Arithmetic = Literal["int8", "float32", "float64"]

BFLOAT16_BITS = 8
"""Whole numbers of up to so many significant bits are exact in it."""

PROVEN = 16
"""Images of a chunk that are computed both ways."""

SMALL = 4
"""Up to so many pixels, a convolution is done as the matrix product that it is."""


@dataclass(frozen=True, slots=True)
class Sums:
    """The sums that one synapse adds to a population's drive.

    Everything has channels last: ``[N, H, W, C]``, or ``[N, in]``.

    Args:
        source: a port's or a population's name.
        planned: what it is computed in, unless bytes turn out not to be multiplied right here.
        weight: int8 mantissas, or floats in units of the population's drive; ``[O, I, kH, kW]``
            or ``[out, in]``.
        scale: what sums of bytes are multiplied by, a power of two.
        window: of a convolution that torch knows; None for others, and for a matrix.
        every: for a matrix that every so-many pixels goes through, in rows and columns.
        wires: of what is neither a matrix nor a convolution that torch knows.
        delay: of the source's spikes, in steps.
        shape: that it takes them in, ``(C, H, W)``, where that is not the source's own.
    """

    source: str
    planned: Arithmetic
    weight: Tensor
    scale: float
    window: Window | None
    every: tuple[int, int] | None = None
    wires: Wiring | None = None
    delay: int = 0
    shape: Shape3 | None = None
    _packed: dict[tuple[int, ...], Any] = field(default_factory=dict, repr=False)

    @property
    def arithmetic(self) -> Arithmetic:
        """What it is computed in, as far as it has run."""
        return "float32" if None in self._packed.values() else self.planned

    def __call__(self, spikes: Tensor) -> Tensor:
        """Sums over spikes or payloads, ``[N, ...]``: floats ``[N, ...]``, all whole numbers."""
        if self.shape is not None:
            images = spikes.movedim(-1, 1).reshape(len(spikes), *self.shape)
            spikes = images.movedim(1, -1).contiguous()
        if self.every is None:
            return self._sums(spikes if self.window or self.wires else spikes.flatten(1))
        rows, columns = self.every
        pixels = spikes[:, ::rows, ::columns].contiguous()
        return self._sums(pixels.flatten(0, 2)).view(*pixels.shape[:3], -1)

    def _sums(self, spikes: Tensor) -> Tensor:
        if self.planned != "int8":
            return self._in_floats(spikes, self.weight)
        if spikes.shape not in self._packed:
            self._prove(spikes.shape)
        if self._packed[spikes.shape] is None:
            return self._in_floats(spikes, self._floats())
        return self._in_bytes(spikes)

    def _floats(self) -> Tensor:
        return self.weight.to(torch.float32) * self.scale

    def _in_floats(self, spikes: Tensor, weight: Tensor) -> Tensor:
        if self.window is None and self.wires is None:
            return F.linear(spikes.to(weight.dtype), weight)
        if self.wires is not None:  # a flat source is one of one pixel
            spikes = spikes.view(len(spikes), *self.wires.in_shape[1:], -1)
        images = spikes.permute(0, 3, 1, 2).to(weight.dtype)
        if self.wires is not None:
            sums = weighted_sums(self.wires, images, weight)
        else:
            assert self.window is not None
            sums = convolved(images, weight, self.window)
        sums = sums.permute(0, 2, 3, 1)
        return sums.round_() if sums.is_cuda else sums

    def _prove(self, shape: torch.Size) -> None:
        """Hold bytes against float32 for random spikes; twice, lest it be chance."""
        onednn = torch.ops.onednn
        if self.window is None:
            self._packed[shape] = onednn.qlinear_prepack(self.weight, list(shape))
        else:
            size, height, width, channels = shape
            scales, _ = self._scales()
            self._packed[shape] = onednn.qconv_prepack(
                self.weight, scales, 1.0, 0, *self.window, [size, channels, height, width]
            )
        spikes = torch.from_numpy(np.resize(_random_bits(), shape))
        some = torch.linspace(0, len(spikes) - 1, PROVEN).long().unique()
        expected = self._in_floats(spikes[some], self._floats())
        if not all(torch.equal(self._in_bytes(spikes)[some], expected) for _ in range(2)):
            self._packed[shape] = None

    def _in_bytes(self, spikes: Tensor) -> Tensor:
        onednn, packed = torch.ops.onednn, self._packed[spikes.shape]
        result: tuple[Any, ...] = (1.0, 0, torch.float32, "none", [], "")
        x, factors = spikes.view(torch.uint8), (*self._scales(), None)
        if self.window is None:
            product: Tensor = onednn.qlinear_pointwise(x, 1.0, 0, packed, *factors, *result)
            return product
        images = x.permute(0, 3, 1, 2)
        sums: Tensor = onednn.qconv2d_pointwise(
            images, 1.0, 0, packed, *factors, *self.window, *result
        )
        return sums.permute(0, 2, 3, 1)

    def _scales(self) -> tuple[Tensor, Tensor]:
        outputs = len(self.weight)
        scales = torch.full((outputs,), self.scale, dtype=torch.float32)
        return scales, torch.zeros(outputs, dtype=torch.int64)


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
    forms = [_form(segment, population, synapse) for synapse in population.synapses]
    exponents = [
        _shared_exponent(form.weight) + synapse.weight_exp
        for form, synapse in zip(forms, population.synapses, strict=True)
    ]
    unit = min(exponents, default=0)
    bound = segment.largest_drive(population) >> unit
    if bound.bit_length() > FLOAT64_BITS:
        raise BackendError(
            f"population {population.name!r} could add up {bound.bit_length()} bits and float64 is "
            f"exact up to {FLOAT64_BITS}; use the reference"
        )
    sums = []
    for synapse, form, exponent in zip(population.synapses, forms, exponents, strict=True):
        mantissas = form.weight >> (exponent - synapse.weight_exp)
        payload = segment.payload_of(synapse.source)
        arithmetic = _arithmetic(mantissas, form, bound, payload, device)
        if arithmetic == "int8":
            weight = torch.from_numpy(mantissas).to(torch.int8)
        else:
            whole = torch.from_numpy((form.weight << synapse.weight_exp) >> unit)
            weight = whole.to(device, getattr(torch, arithmetic))
            if weight.dim() == 4:
                weight = weight.contiguous(memory_format=torch.channels_last)
        scale = 2.0 ** (exponent - unit)
        sums.append(
            Sums(
                synapse.source,
                arithmetic,
                weight,
                scale,
                form.window,
                form.every,
                form.wires,
                synapse.delay,
                synapse.wiring.in_shape if form.reshaped else None,
            )
        )
    return tuple(sums), unit


def _arithmetic(
    weight: Ints, form: _Form, bound: int, payload: Payload, device: torch.device
) -> Arithmetic:
    """The fastest that is exact for these weights, if no sum of the population exceeds a bound."""
    most = max(int(np.abs(weight).max(initial=0)), payload.largest)
    if device.type != "cpu" or bound > 1 << FLOAT32_BITS or most > 1 << BFLOAT16_BITS:
        return "float64"
    fits = not payload.graded and weight.min(initial=0) >= -128 and weight.max(initial=0) <= 127
    common = form.wires is None and (
        form.window is None or _common(form.window, form.source, weight.shape)
    )
    return "int8" if fits and common and multiplies_bytes() else "float32"


def _common(window: Window, image: tuple[int, ...], weight: tuple[int, ...]) -> bool:
    """Whether a convolution is of the kind that oneDNN's convolutions of bytes do right.

    Square images and kernels that overlap, and nothing odd about the window: only others have been
    seen to be wrong or to crash.
    """
    (_, height, width), (*_, high, wide) = image, weight
    stride, padding, dilation, groups = window
    return (
        height == width >= 3
        and high == wide <= height
        and stride[0] == stride[1] < max(high, 2)
        and padding[0] == padding[1] < high
        and dilation == [1, 1]
        and groups == 1
    )


def _shared_exponent(weight: Ints) -> int:
    """The exponent of the largest power of two that divides all weights."""
    bits = int(np.bitwise_or.reduce(np.abs(weight), axis=None)) if weight.size else 0
    return (bits & -bits).bit_length() - 1 if bits else 0


@dataclass(frozen=True, slots=True)
class _Form:
    """What a synapse is computed as; see :class:`Sums`.

    ``source`` is the shape that it takes spikes in, its source's own unless they are ``reshaped``.
    """

    weight: Ints
    source: tuple[int, ...]
    reshaped: bool = False
    window: Window | None = None
    every: tuple[int, int] | None = None
    wires: Wiring | None = None


def _form(segment: ChipSegment, population: Population, synapse: Synapse) -> _Form:
    """A matrix where it is one, else a convolution; with channels last where it is a matrix."""
    source, target = segment.shape_of(synapse.source), population.shape
    wires, weight = synapse.wiring, synapse.weight
    axes = wires.rows, wires.cols
    if wires.full:
        matrix = weight.reshape(len(weight), -1)
        return _Form(_channels_last(_channels_last(matrix, source, 1), target, 0), source)
    if reshaped := shape3(source) != wires.in_shape:
        source = wires.in_shape
    if len(source) != 3 or not all(map(plain_window, axes)):
        return _Form(weight, source, reshaped, wires=wires)
    stride, padding, dilation = (
        [getattr(axis, name) for axis in axes] for name in ("stride", "padding", "dilation")
    )
    if wires.groups == 1 and max(prod(source[1:]), prod(target[1:])) <= SMALL:
        return _Form(_unrolled(wires, weight), source, reshaped)
    if wires.groups == 1 and weight.shape[2:] == (1, 1) and padding == [0, 0]:
        return _Form(weight[:, :, 0, 0], source, reshaped, every=(stride[0], stride[1]))
    return _Form(weight, source, reshaped, window=(stride, padding, dilation, wires.groups))


def _channels_last(matrix: Ints, shape: tuple[int, ...], axis: int) -> Ints:
    """Reorder an axis that runs over ``(C, H, W)`` to run over ``(H, W, C)``."""
    order = np.moveaxis(np.arange(matrix.shape[axis]).reshape(shape), 0, -1).reshape(-1)
    return matrix.take(order, axis)


def _unrolled(wires: Wiring, weight: Ints) -> Ints:
    """A convolution as a matrix between all neurons, channels last on both axes."""
    (channels, height, width), (outputs, high, wide) = wires.in_shape, wires.out_shape
    matrix = np.zeros((high, wide, outputs, height, width, channels), np.int64)
    rows, cols = taps(wires.rows), taps(wires.cols)
    for v, u, row, column in np.ndindex(height, width, *weight.shape[2:]):
        if (y := rows[v, row]) >= 0 and (x := cols[u, column]) >= 0:
            matrix[y, x, :, v, u] = weight[:, :, row, column]
    return matrix.reshape(high * wide * outputs, height * width * channels)


@cache
def _random_bits() -> NDArray[np.bool_]:
    """So many that repeating them aligns with nothing."""
    return np.random.default_rng(0).random(65_537) < 0.5


@cache
def multiplies_bytes() -> bool:
    """Whether torch has oneDNN's products of bytes here, and gets odd and extreme weights right.

    Some processors' instructions would halve or saturate them in other uses.
    """
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-128, 128, (16, 80, 3, 3), generator=generator).to(torch.int8)
    weight[:8] = torch.tensor([127, -128, -127, 1]).repeat_interleave(2)[:, None, None, None]
    spikes = torch.rand(2, 5, 5, 80, generator=generator) < 0.5
    spikes[0] = True
    convolution = Sums("", "int8", weight, 1.0, ([1, 1], [1, 1], [1, 1], 1))
    product = Sums("", "int8", weight.flatten(1), 1.0, None)
    try:
        convolution(spikes), product(spikes.flatten(1)[:, :720].contiguous())
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return convolution.arithmetic == product.arithmetic == "int8"
