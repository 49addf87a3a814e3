"""HAS-8-ResNet: an 18-layer ResNet beside a SEW-ResNet, joined in every block (Luu 2025)."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from has8.blocks import Coding, HybridBlock, OverTime
from has8.errors import BadInput
from has8.models.registry import MODELS, variant

STEM_CHANNELS = 64
"""Whatever the base, as in the released code."""
BLOCKS_PER_STAGE = 2


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class ANNBlock(nn.Module):
    """ResNet's basic block: two convolutions, a shortcut, ReLU after the sum."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, outputs, kernel, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv(outputs, outputs, kernel)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.downsample.extend([_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)])

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W] -> [B, C', H', W']``."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.downsample(x))


class SEWBlock(nn.Module):
    """Spike-element-wise residual block with ADD: its output counts 0, 1 or 2 a step."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, coding: Coding) -> None:
        super().__init__()
        self.conv1 = OverTime(_conv(inputs, outputs, kernel, stride), nn.BatchNorm2d(outputs))
        self.sn1 = coding.spiking()
        self.conv2 = OverTime(_conv(outputs, outputs, kernel), nn.BatchNorm2d(outputs))
        self.sn2 = coding.spiking()
        self.downsample = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.downsample.append(
                OverTime(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
            )
            self.downsample.append(coding.spiking())

    def forward(self, x: Tensor) -> Tensor:
        """``[T, B, C, H, W] -> [T, B, C', H', W']``."""
        out: Tensor = self.sn2(self.conv2(self.sn1(self.conv1(x)))) + self.downsample(x)
        return out


def _stem(in_channels: int, coding: Coding) -> HybridBlock:
    def conv() -> nn.Conv2d:
        return nn.Conv2d(in_channels, STEM_CHANNELS, 7, stride=2, padding=3, bias=False)

    ann = nn.Sequential(
        conv(), nn.BatchNorm2d(STEM_CHANNELS), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1)
    )
    snn = nn.Sequential(
        OverTime(conv(), nn.BatchNorm2d(STEM_CHANNELS)),
        coding.spiking(),
        OverTime(nn.AvgPool2d(3, stride=2, padding=1)),
    )
    return HybridBlock(ann, snn, coding)


class HAS8ResNet(nn.Module):
    """Hybrid stem, stages of two hybrid blocks, global average, linear classifier."""

    def __init__(
        self, in_channels: int, widths: list[int], kernel: int, num_classes: int, coding: Coding
    ) -> None:
        super().__init__()
        self.stem = _stem(in_channels, coding)
        self.stages = nn.Sequential()
        for place, (wide, width) in enumerate(pairwise([STEM_CHANNELS, *widths])):
            stage = nn.Sequential()
            for block in range(BLOCKS_PER_STAGE):
                inputs = wide if block == 0 else width
                stride = 2 if block == 0 and place > 0 else 1
                ann = ANNBlock(inputs, width, kernel, stride)
                snn = SEWBlock(inputs, width, kernel, stride, coding)
                stage.append(HybridBlock(ann, snn, coding))
            self.stages.append(stage)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to logits ``[B, num_classes]``."""
        logits: Tensor = self.fc(self.flatten(self.pool(self.stages(self.stem(x)))))
        return logits


@MODELS.register("has8_resnet")
def has8_resnet(
    *,
    num_classes: int,
    in_channels: int = 3,
    base: int = 32,
    multiplier: int = 2,
    depth: int = 4,
    kernel: int = 3,
    slope: str | None = None,
    rescale: bool = True,
    order: str = "lsb",
    decoder: str = "bitplane",
    neuron: str = "lif",
    mode: str = "hw",
) -> nn.Module:
    """HAS-8-ResNet with channels ``base * multiplier**i`` in stage i = 0..depth-1.

    Args:
        num_classes: outputs.
        in_channels: channels of the image.
        base: b of equation 21.
        multiplier: m of equation 21.
        depth: number of stages; each but the first halves the image, the stem quarters it.
        kernel: odd side of the blocks' kernels (the stem's is 7).
        slope, rescale, order, decoder, neuron, mode: see :class:`has8.blocks.Coding`.

    Raises:
        BadInput: for an option out of range.
        UnknownName: for an unknown slope or decoder.
    """
    if base < 1 or multiplier < 1 or depth < 1 or kernel % 2 == 0 or kernel < 1:
        raise BadInput(
            f"has8_resnet needs base, multiplier and depth >= 1 and an odd kernel, not "
            f"base={base}, multiplier={multiplier}, depth={depth}, kernel={kernel}"
        )
    coding = Coding(slope, rescale, order, decoder, neuron, mode)  # type: ignore[arg-type]
    widths = [base * multiplier**i for i in range(depth)]
    return HAS8ResNet(in_channels, widths, kernel, num_classes, coding)


variant("has8_resnet_b32", has8_resnet, base=32)
variant("has8_resnet_b64", has8_resnet, base=64)
