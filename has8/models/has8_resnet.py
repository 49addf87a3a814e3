"""HAS-8-ResNet: an 18-layer ResNet beside a SEW-ResNet, joined in every block (Luu 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from has8.blocks import Coding, HybridBlock
from has8.errors import BadInput
from has8.models.normalize import normalize
from has8.models.registry import MODELS, MOST_DEPTH, variant
from has8.models.residual import ANNBlock, SEWBlock, spiking, stem_conv

STEM_CHANNELS = 64
"""Channels of the "imagenet" stem, whatever the base, as in the released code."""
BLOCKS_PER_STAGE = 2
"""Hybrid blocks of each stage; a ResNet with 18 layers has as many."""


def _stem(in_channels: int, width: int, stem: str, coding: Coding) -> HybridBlock:
    """The paper's stem, which quarters the image, or one for small images, which keeps its size."""
    ann = nn.Sequential(stem_conv(in_channels, width, stem), nn.BatchNorm2d(width), nn.ReLU())
    snn = spiking(stem_conv(in_channels, width, stem), coding.spiking)
    if stem == "cifar":
        return HybridBlock(ann, snn, coding)
    ann.append(nn.MaxPool2d(3, stride=2, padding=1))
    return HybridBlock(ann, snn, coding, nn.AvgPool2d(3, stride=2, padding=1))


class HAS8ResNet(nn.Module):
    """Hybrid stem, stages of two hybrid blocks, global average, linear classifier."""

    def __init__(
        self,
        image: nn.Module,
        stem: HybridBlock,
        widths: Sequence[int],
        kernel: int,
        num_classes: int,
        coding: Coding,
    ) -> None:
        super().__init__()
        self.image, self.stem, self.stages = image, stem, nn.Sequential()
        for number, (wide, width) in enumerate(pairwise(widths)):
            stage = nn.Sequential()
            for block in range(BLOCKS_PER_STAGE):
                inputs = wide if block == 0 else width
                stride = 2 if block == 0 and number > 0 else 1
                ann = ANNBlock(inputs, width, kernel, stride)
                snn = SEWBlock(inputs, width, kernel, stride, coding.spiking)
                stage.append(HybridBlock(ann, snn, coding))
            self.stages.append(stage)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to logits ``[B, num_classes]``."""
        logits: Tensor = self.fc(self.flatten(self.pool(self.stages(self.stem(self.image(x))))))
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
    stem: str = "imagenet",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
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
        depth: number of stages; each but the first halves the image.
        kernel: odd side of the blocks' kernels.
        stem: "imagenet", the paper's: 64 channels whatever the base, 7x7, and pooling, so that the
            image is quartered; or "cifar" for small images: ``base`` channels, 3x3, full size.
        mean, std: statistics of each channel, by which the image is normalised first; None
            leaves it as it is.
        slope, rescale, order, decoder, neuron, mode: see :class:`has8.blocks.Coding`.

    Raises:
        BadInput: for an option out of range.
        UnknownName: for an unknown slope or decoder.
    """
    if base < 1 or multiplier < 1 or not 1 <= depth <= MOST_DEPTH or kernel % 2 == 0 or kernel < 1:
        raise BadInput(
            f"has8_resnet needs base and multiplier >= 1, depth from 1 to {MOST_DEPTH} and an odd "
            f"kernel, not base={base}, multiplier={multiplier}, depth={depth}, kernel={kernel}"
        )
    coding = Coding(slope, rescale, order, decoder, neuron, mode)  # type: ignore[arg-type]
    widths = [base * multiplier**i for i in range(depth)]
    stem_width = base if stem == "cifar" else STEM_CHANNELS
    return HAS8ResNet(
        normalize(in_channels, mean, std),
        _stem(in_channels, stem_width, stem, coding),
        [stem_width, *widths],
        kernel,
        num_classes,
        coding,
    )


variant("has8_resnet_b32", has8_resnet, base=32)
variant("has8_resnet_b64", has8_resnet, base=64)
