"""Residual blocks, of values and of spikes, and the layout of the ResNets made from them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from has8.blocks import SpikingBranch, SpikingLayer
from has8.encoders import Decoder
from has8.errors import BadInput
from has8.kernels.conv import Conv2d
from has8.neurons import Leaky

STEMS = ("imagenet", "cifar")
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
"""Blocks in each stage, by depth (He et al. 2016, table 1)."""
BOTTLENECK_DEPTH = 50
"""From this depth on blocks are bottlenecks."""
EXPANSION = 4
"""A bottleneck's outputs over its inner channels."""


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the size of an image, divided by the stride."""
    return Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


def stem_conv(in_channels: int, width: int, stem: str) -> nn.Conv2d:
    """The first layer: 7x7 with stride 2 for "imagenet", 3x3 with stride 1 for "cifar".

    Raises:
        BadInput: for another stem.
    """
    if stem not in STEMS:
        raise BadInput(f"stem must be one of {', '.join(STEMS)}, not {stem!r}")
    kernel, stride = (3, 1) if stem == "cifar" else (7, 2)
    return conv(in_channels, width, kernel, stride)


def spiking(layer: nn.Conv2d, neuron: Callable[[], Leaky]) -> SpikingLayer:
    """The convolution with batch norm and a new neuron."""
    return SpikingLayer(layer, neuron(), nn.BatchNorm2d(layer.out_channels))


def block_shapes(depth: int, base: int) -> list[list[tuple[int, int, int]]]:
    """(inputs, outputs, stride) of every block in every stage of a ResNet.

    Args:
        depth: a key of :data:`BLOCKS`.
        base: channels of the stem; stages have 1, 2, 4 and 8 times as many, bottlenecks'
            outputs :data:`EXPANSION` times more.

    Raises:
        BadInput: for another depth, or a base below 1.
    """
    if depth not in BLOCKS or base < 1:
        raise BadInput(
            f"depth must be one of {', '.join(map(str, BLOCKS))} and base at least 1, "
            f"not depth={depth!r}, base={base!r}"
        )
    expansion = EXPANSION if depth >= BOTTLENECK_DEPTH else 1
    stages, inputs = [], base
    for stage, count in enumerate(BLOCKS[depth]):
        outputs = base * 2**stage * expansion
        strides = [1 if stage == 0 else 2] + [1] * (count - 1)
        stages.append([(inputs if i == 0 else outputs, outputs, s) for i, s in enumerate(strides)])
        inputs = outputs
    return stages


def initialize(model: nn.Module) -> nn.Module:
    """Initialise all convolutions by fan-out (He et al. 2015), in place, as both ResNets do."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


class ANNBlock(nn.Module):
    """ResNet's basic block: two convolutions, a shortcut, ReLU after the sum."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(inputs, outputs, kernel, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs, kernel)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = _downsample(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W] -> [B, C', H', W']``."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.downsample(x))


class ANNBottleneck(nn.Module):
    """ResNet's bottleneck: 1x1, 3x3 with the stride, 1x1; a shortcut, ReLU after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        inner = outputs // EXPANSION
        self.conv1 = conv(inputs, inner, 1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv(inner, inner, 3, stride)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = conv(inner, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = _downsample(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W] -> [B, C', H', W']``."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.downsample(x))


def _downsample(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """A 1x1 convolution with batch norm where the shape changes, else nothing."""
    if stride == 1 and inputs == outputs:
        return nn.Sequential()
    return nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class SEWBlock(SpikingBranch):
    """Spike-element-wise basic block with ADD: one more spike a step, at most, than its shortcut.

    From binary spikes its output counts 0, 1 or 2 a step (Fang et al. 2021).
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, neuron: Callable[[], Leaky]
    ) -> None:
        super().__init__()
        self.conv1 = spiking(conv(inputs, outputs, kernel, stride), neuron)
        self.conv2 = spiking(conv(outputs, outputs, kernel), neuron)
        self.downsample = _spiking_downsample(inputs, outputs, stride, neuron)

    def forward(self, x: Tensor, decode: Decoder | None = None) -> Tensor:
        """``[T, B, C, H, W] -> [T, B, C', H', W']``; with a decoder, ``[B, C', H', W']``."""
        out: Tensor = self.conv2(self.conv1(x), decode)
        return out + _shortcut(self.downsample, x, decode)


class SEWBottleneck(SpikingBranch):
    """Spike-element-wise bottleneck with ADD: 1x1, 3x3 with the stride, 1x1 (Fang et al. 2021)."""

    def __init__(self, inputs: int, outputs: int, stride: int, neuron: Callable[[], Leaky]) -> None:
        super().__init__()
        inner = outputs // EXPANSION
        self.conv1 = spiking(conv(inputs, inner, 1), neuron)
        self.conv2 = spiking(conv(inner, inner, 3, stride), neuron)
        self.conv3 = spiking(conv(inner, outputs, 1), neuron)
        self.downsample = _spiking_downsample(inputs, outputs, stride, neuron)

    def forward(self, x: Tensor, decode: Decoder | None = None) -> Tensor:
        """``[T, B, C, H, W] -> [T, B, C', H', W']``; with a decoder, ``[B, C', H', W']``."""
        out: Tensor = self.conv3(self.conv2(self.conv1(x)), decode)
        return out + _shortcut(self.downsample, x, decode)


def _spiking_downsample(
    inputs: int, outputs: int, stride: int, neuron: Callable[[], Leaky]
) -> SpikingLayer | None:
    if stride == 1 and inputs == outputs:
        return None
    return spiking(conv(inputs, outputs, 1, stride), neuron)


def _shortcut(layer: SpikingLayer | None, x: Tensor, decode: Decoder | None) -> Tensor:
    """What a block adds to: its input, or a convolution of it, decoded if the block is."""
    if layer is None:
        return x if decode is None else decode(x)
    out: Tensor = layer(x, decode)
    return out
