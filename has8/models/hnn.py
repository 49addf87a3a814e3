"""Hybrid networks of artificial layers in front and spiking ones behind (Muramatsu & Yu 2021).

A network is a row of layers, of which the first ``split`` are artificial; a code of T steps stands
between the two kinds, and the last layer's spikes are counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, get_args

from torch import Tensor, nn

from has8.blocks import OverTime
from has8.encoders import (
    Decoder,
    DuplicateEncoder,
    GaussianEncoder,
    RateEncoder,
    count_weights,
)
from has8.encoders.gaussian import Mode
from has8.errors import BadInput
from has8.iir import IIR, Axon, Neuron, SharedIIR
from has8.kernels import iir, paths
from has8.kernels.linear import Linear
from has8.models.registry import MODELS, MOST_DEPTH
from has8.registry import Registry

KERNEL, POOL = 3, 2
"""Sides of a convolution's kernel and of a pooling window."""
CONVOLUTIONS = (False, False, True, True)
"""Of each convolution, whether pooling follows it."""
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}
PIXELS = 255
"""By which the released code divides what it takes for pixels."""

CODINGS: Registry[Callable[[int, Mode], nn.Module]] = Registry("coding")
"""Codes between artificial and spiking layers; each is called with its steps and the mode."""
CODINGS.register("duplicate")(lambda steps, mode: DuplicateEncoder(steps))
CODINGS.register("gaussian")(lambda steps, mode: GaussianEncoder(steps, mode=mode))
CODINGS.register("poisson")(lambda steps, mode: RateEncoder(steps))
CODINGS.register("poisson_released")(
    lambda steps, mode: nn.Sequential(_OfPixels(), RateEncoder(steps))
)


class _OfPixels(nn.Module):
    """Features divided as if they were pixels: what the released code makes probabilities of."""

    def forward(self, x: Tensor) -> Tensor:
        """``clamp(x / 255, 0, 1)``."""
        return (x / PIXELS).clamp(0, 1)


class _Layer(NamedTuple):
    """A layer of a network.

    Args:
        kind: "conv" (3x3, no padding), "pool" (the largest of 2x2) or "linear".
        shape: of its input, one sample.
        width: channels or neurons that it makes.
    """

    kind: str
    shape: tuple[int, ...]
    width: int

    @property
    def weighs(self) -> bool:
        """Whether it has weights, and a neuron or an activation behind them."""
        return self.kind != "pool"

    def make(self, factor: int = 1) -> list[nn.Module]:
        """Its modules, on samples without steps, with so many times the outputs."""
        if self.kind == "pool":
            return [nn.MaxPool2d(POOL)]
        if self.kind == "conv":
            return [nn.Conv2d(self.shape[0], self.width * factor, KERNEL)]
        linear = Linear(math.prod(self.shape), self.width * factor)
        return [linear] if len(self.shape) == 1 else [nn.Flatten(), linear]


class SpikingLayers(nn.Sequential):
    """Layers over time; a code, a neuron, the filter of its spikes and pooling are one pass."""

    def forward(self, x: Tensor) -> Tensor:
        """Run them one after the other."""
        layers = list(self)
        while layers:
            x, taken = _first(x, layers)
            layers = layers[taken:]
        return x


def _first(x: Tensor, layers: Sequence[nn.Module]) -> tuple[Tensor, int]:
    """What the first layer makes of x, or the first few together, and how many that are."""
    code = layers[0] if isinstance(layers[0], DuplicateEncoder) else None
    behind: list[nn.Module | None] = [*layers[0 if code is None else 1 :], None, None, None]
    neuron, axon, pooling = behind[:3]
    known = type(neuron) in (IIR, SharedIIR)  # others may have a forward of their own
    if not isinstance(neuron, Neuron) or not known or not paths.usable(x, code, neuron):
        return layers[0](x), 1
    steps, taken = (None, 1) if code is None else (len(code(x)), 2)
    if not isinstance(axon, Axon) or not axon.takes(x, 3 - taken) or not paths.usable(x, axon):
        return iir.spikes(x, neuron.constants, steps), taken
    pool, taken = (POOL, taken + 2) if _pools(pooling, x, axon) else (1, taken + 1)
    coefficients = (axon.a1, axon.a2, axon.b0)
    return iir.fired(x, neuron.constants, coefficients, steps, pool), taken


def _pools(layer: nn.Module | None, x: Tensor, axon: Axon) -> bool:
    """Whether a layer is the pooling of these networks, of images, and nobody watches it."""
    if not isinstance(layer, OverTime) or [type(part) for part in layer] != [nn.MaxPool2d]:
        return False
    alike = repr(layer[0]) == repr(nn.MaxPool2d(POOL))
    return alike and axon.a1.dim() == 3 and paths.usable(x, layer, layer[0])


class HNN(nn.Module):
    """Artificial layers, then a code, spiking layers and the count of the last one's spikes.

    Args:
        artificial: ``[B, C, H, W]`` to what the code takes, or to logits.
        spiking: the rest; nothing where all layers are artificial.
        passes: whether gradients reach the artificial layers through the code.
    """

    def __init__(self, artificial: nn.Sequential, spiking: nn.Sequential, passes: bool) -> None:
        super().__init__()
        self.artificial, self.spiking, self.passes = artificial, spiking, passes

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to logits ``[B, num_classes]``, numbers of spikes."""
        logits: Tensor = self.spiking(self.artificial(x))
        return logits


def _hnn(
    layers: Sequence[_Layer],
    split: int,
    coding: str,
    steps: int,
    shared: bool,
    direct: bool,
    mode: str,
    activation: str,
) -> HNN:
    """The network of some layers, of which the first ``split`` are artificial."""
    if not 0 <= split <= len(layers):
        raise BadInput(f"split must be from 0 to {len(layers)} artificial layers, not {split}")
    if mode not in get_args(Mode) or activation not in ACTIVATIONS:
        raise BadInput(
            f"mode must be 'hw' or 'paper' and activation 'relu' or 'sigmoid', not {mode!r} and "
            f"{activation!r}"
        )
    encode = CODINGS.get(coding)(steps, mode)  # type: ignore[arg-type]
    if split == 0 and coding in ("gaussian", "poisson_released"):
        raise BadInput(
            f"coding={coding!r} takes what an artificial layer makes: choose split=1 or more, or "
            f"coding='duplicate' or 'poisson'"
        )
    if split == len(layers):
        return HNN(_artificial(layers, "", ACTIVATIONS[activation]), nn.Sequential(), True)
    artificial = _artificial(layers[:split], coding, ACTIVATIONS[activation])
    values = coding in ("duplicate", "gaussian")
    spiking = _spiking(layers[split:], encode, shared, direct and values)
    return HNN(artificial, spiking.append(Decoder(count_weights(steps))), values or split == 0)


def _artificial(
    layers: Sequence[_Layer], coding: str, activation: Callable[[], nn.Module]
) -> nn.Sequential:
    """Layers with an activation each; behind the last weights stands what the code needs."""
    made = nn.Sequential()
    last = max((n for n, layer in enumerate(layers) if layer.weighs), default=-1)
    for number, layer in enumerate(layers):
        made.extend(layer.make(2 if number == last and coding == "gaussian" else 1))
        if layer.weighs and number != last:
            made.append(activation())
        elif number == last and coding in ("duplicate", "poisson"):
            made.append(nn.Sigmoid())
    return made


def _spiking(
    layers: Sequence[_Layer], encode: nn.Module, shared: bool, direct: bool
) -> SpikingLayers:
    """Layers of filters, weights and neurons behind a code; pooling takes the largest potential.

    What is the same in every step is computed once, and repeated where a neuron takes it. Shared
    filters are in their neurons, and pooling takes the largest spike.
    """
    made = SpikingLayers()
    once = isinstance(encode, DuplicateEncoder) and (shared or direct)
    if not once:
        made.append(encode)
    for layer in layers:
        if not (shared or direct):
            made.append(Axon(layer.shape))
        made.extend(layer.make() if once else [OverTime(*layer.make())])
        if layer.weighs:
            if once:
                made.append(encode)
            made.append(SharedIIR(direct=direct) if shared else IIR())
            once = direct = False
    return made


@MODELS.register("hnn_mlp")
def hnn_mlp(
    *,
    num_classes: int,
    in_channels: int = 1,
    side: int = 28,
    hidden: Sequence[int] = (500, 500),
    split: int = 2,
    coding: str = "duplicate",
    steps: int = 25,
    shared: bool = False,
    direct: bool = True,
    mode: str = "hw",
    activation: str = "relu",
) -> nn.Module:
    """Linear layers, the first of them artificial, the others spiking.

    The paper's S784-S500-S10, A784-S500-S10, A784-A500-S10 and A784-A500-A10 name layers by their
    inputs; they are ``split`` = 0, 1, 2 and 3.

    Args:
        num_classes: outputs.
        in_channels: channels of the image, whose values lie in [0, 1].
        side: pixels a side of the image.
        hidden: widths of the hidden layers.
        split: artificial layers, 0 to all.
        coding: what stands between the two kinds of layers. "duplicate" repeats values, a sigmoid
            of the last artificial layer; "gaussian" adds noise of a learned deviation to a learned
            mean; "poisson" makes spikes of a sigmoid's probability, through which no gradient
            passes; "poisson_released" has the last layer's outputs / 255 as probabilities, as the
            authors' released code has.
        steps: T, of the spiking layers.
        shared: whether all inputs of a spiking layer have the same, fixed filter, so that it is a
            current-based LIF, which chips have; False trains coefficients of each input.
        direct: whether the values of "duplicate" and "gaussian" drive the first spiking layer as
            they are, or, False, through a filter.
        mode: of Gaussian coding, see :class:`has8.encoders.GaussianEncoder`.
        activation: of the artificial layers in front of the last one, "relu" or "sigmoid".

    Raises:
        BadInput: for an option out of range.
        UnknownName: for an unknown coding.
    """
    _check_widths("hnn_mlp", side, 1, hidden)
    shapes = [(in_channels, side, side), *((width,) for width in hidden)]
    widths = [*hidden, num_classes]
    layers = [_Layer("linear", shape, w) for shape, w in zip(shapes, widths, strict=True)]
    return _hnn(layers, split, coding, steps, shared, direct, mode, activation)


@MODELS.register("hnn_cnn")
def hnn_cnn(
    *,
    num_classes: int,
    in_channels: int = 3,
    side: int = 32,
    widths: Sequence[int] = (32, 32, 64, 64),
    hidden: int = 512,
    split: int = 4,
    coding: str = "duplicate",
    steps: int = 25,
    shared: bool = False,
    direct: bool = True,
    mode: str = "hw",
    activation: str = "relu",
) -> nn.Module:
    """Four 3x3 convolutions, pooling behind the last two, and two linear layers.

    Pooling counts as a layer, as in the paper, whose tables have ``split`` = 0 (all spiking), 1
    (A32C3), 4 (up to the first P2), 6 (up to the second) and 8 (all artificial). Trained filters
    stand in front of pooling and behind it.

    Args:
        num_classes: outputs.
        in_channels: channels of the image, whose values lie in [0, 1].
        side: pixels a side of the image, at least 14.
        widths: channels of the four convolutions.
        hidden: width of the hidden linear layer.
        split: artificial layers, 0 to 8.
        coding, steps, shared, direct, mode, activation: see :func:`hnn_mlp`.

    Raises:
        BadInput: for an option out of range.
        UnknownName: for an unknown coding.
    """
    if len(widths) != len(CONVOLUTIONS):
        raise BadInput(f"hnn_cnn has {len(CONVOLUTIONS)} convolutions, not widths={list(widths)}")
    _check_widths("hnn_cnn", side, 14, [*widths, hidden])
    layers: list[_Layer] = []
    shape: tuple[int, ...] = (in_channels, side, side)
    for width, pooled in zip(widths, CONVOLUTIONS, strict=True):
        layers.append(_Layer("conv", shape, width))
        shape = (width, *(extent - KERNEL + 1 for extent in shape[1:]))
        if pooled:
            layers.append(_Layer("pool", shape, width))
            shape = (width, *(extent // POOL for extent in shape[1:]))
    layers += [_Layer("linear", shape, hidden), _Layer("linear", (hidden,), num_classes)]
    return _hnn(layers, split, coding, steps, shared, direct, mode, activation)


def _check_widths(name: str, side: int, least: int, widths: Sequence[int]) -> None:
    if side < least or min(widths, default=1) < 1 or len(widths) > MOST_DEPTH:
        raise BadInput(
            f"{name} needs side >= {least}, at most {MOST_DEPTH} hidden layers and widths of at "
            f"least 1, not side={side} and {list(widths)[:9]}"
        )
