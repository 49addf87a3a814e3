"""What HAS-8 models are built from: stateless layers over time, and the hybrid block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from has8.encoders import (
    DECODERS,
    BitPlaneEncoder,
    Decoder,
    PaperBitPlaneEncoder,
    bitplane_weights,
    rate_weights,
)
from has8.errors import BadInput
from has8.kernels import fused, paths
from has8.neurons import Leaky, make_neuron


class OverTime(nn.Sequential):
    """Stateless layers applied to every step: ``[T, B, ...] -> [T, B, ...]``."""

    def forward(self, x: Tensor) -> Tensor:
        """Merge time into the batch, run the layers, split again."""
        steps = x.shape[0]
        out: Tensor = super().forward(x.flatten(0, 1))  # type: ignore[no-untyped-call]
        split: Tensor = out.unflatten(0, (steps, -1))
        return split


@dataclass(frozen=True, slots=True)
class Coding:
    """How the blocks of one model turn values into spikes and back.

    Args:
        slope: the encoder's surrogate slope; None takes the mode's default, which is
            "straight_through" for "hw" and "fourier_released" for "paper".
        rescale: whether slopes carry the order-aware factor R(k).
        order: which plane comes first, "lsb" or "msb"; the paper's mode has its own.
        decoder: "bitplane" or "rate".
        neuron: "lif" or "if".
        mode: "hw", what a chip can run, or "paper", what the authors' released code does.

    Raises:
        BadInput: for an unknown mode, order or neuron.
        UnknownName: for an unknown decoder or slope.
    """

    slope: str | None = None
    rescale: bool = True
    order: str = "lsb"
    decoder: str = "bitplane"
    neuron: str = "lif"
    mode: Literal["hw", "paper"] = "hw"

    def __post_init__(self) -> None:
        if self.mode not in ("hw", "paper"):
            raise BadInput(f"mode must be 'hw' or 'paper', not {self.mode!r}")
        self.encoder()
        self.decode()
        self.spiking()

    def encoder(self) -> BitPlaneEncoder | PaperBitPlaneEncoder:
        """A new encoder."""
        if self.mode == "paper":
            return PaperBitPlaneEncoder(self.slope or "fourier_released", self.rescale)
        return BitPlaneEncoder(self.slope or "straight_through", self.rescale, self.order)

    def decode(self) -> Decoder:
        """A new decoder; the paper's mode weights the first step highest, as released."""
        if DECODERS.get(self.decoder) == "rate":
            return Decoder(rate_weights(8))
        return Decoder(bitplane_weights("msb" if self.mode == "paper" else self.order))

    def spiking(self) -> Leaky:
        """A new neuron."""
        return make_neuron(self.neuron)


class SpikingBranch(nn.Module):
    """Spiking layers that can end in a decoder: ``[T, B, ...]`` to spikes, or to values."""

    def forward(self, x: Tensor, decode: Decoder | None = None) -> Tensor:
        """Spikes (or sums of spikes) ``[T, B, ...]``; with a decoder, values ``[B, ...]``."""
        raise NotImplementedError


class SpikingLayer(SpikingBranch):
    """A convolution or linear layer at every step, batch norm if any, then the neuron.

    Batch norm sees all steps as one batch, as multi-step spiking code does.

    Args:
        layer: stateless, ``[N, ...] -> [N, C, ...]``.
        neuron: the neuron that the layer's outputs drive.
        norm: batch norm of the layer's C channels, or None.
    """

    def __init__(self, layer: nn.Module, neuron: Leaky, norm: nn.BatchNorm2d | None = None) -> None:
        super().__init__()
        self.synapses = OverTime(layer) if norm is None else OverTime(layer, norm)
        self.neuron = neuron

    def forward(self, x: Tensor, decode: Decoder | None = None) -> Tensor:
        """``[T, B, ...]`` to spikes ``[T, B, C, ...]``; decoded, to values ``[B, C, ...]``."""
        layer, norm = self.synapses[0], self.norm
        exact = type(self.neuron) is Leaky and (decode is None or type(decode) is Decoder)
        if exact and paths.usable(x, self.synapses, self.neuron, norm, decode):
            merged = layer(x.flatten(0, 1))
            if paths.usable(merged) and fused.normalises(norm, merged):
                weights = None if decode is None else decode.weights
                return fused.spikes(merged, len(x), self.neuron.fused_constants, norm, weights)
            currents = (merged if norm is None else norm(merged)).unflatten(0, (len(x), -1))
        else:
            currents = self.synapses(x)
        spikes: Tensor = self.neuron(currents)
        return spikes if decode is None else decode(spikes)

    @property
    def norm(self) -> nn.Module | None:
        """What lies between the layer and the neuron, if anything does."""
        return self.synapses[1] if len(self.synapses) > 1 else None


class SpikingSequential(nn.Sequential, SpikingBranch):
    """Spiking layers one after the other; the last one is decoded."""

    def forward(self, x: Tensor, decode: Decoder | None = None) -> Tensor:
        """``[T, B, ...]`` to spikes; with a decoder, to values."""
        *layers, last = self
        for layer in layers:
            x = layer(x)
        out: Tensor = last(x, decode)
        return out


class HybridBlock(nn.Module):
    """``ann(x) + pool(decode(snn(encode(x))))``: HAS-8's unit.

    The published blocks average spikes before they decode them. Decoding is linear, so that the
    average of the decoded values is the same, for an eighth of the work.

    Args:
        ann: the branch of values, ``[B, ...] -> [B, ...]``.
        snn: the spiking branch, ``[T, B, ...] -> [T, B, ...]``.
        coding: how the spiking branch is encoded and decoded.
        pool: average pooling behind the spiking branch, or None.
    """

    def __init__(
        self, ann: nn.Module, snn: SpikingBranch, coding: Coding, pool: nn.AvgPool2d | None = None
    ) -> None:
        super().__init__()
        self.ann = ann
        self.encode = coding.encoder()
        self.snn = snn
        self.decode = coding.decode()
        self.pool = pool or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``[B, ...] -> [B, ...]``."""
        out: Tensor = self.pool(self.snn(self.encode(x), self.decode)) + self.ann(x)
        return out
