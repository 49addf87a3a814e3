"""HAS-8-VGG: hybrid convolution blocks and a hybrid head (Luu 2025, figure 3, equation 21)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from has8.blocks import Coding, HybridBlock, SpikingLayer, SpikingSequential
from has8.errors import BadInput
from has8.kernels.conv import Conv2d
from has8.models.normalize import normalize
from has8.models.registry import MODELS, MOST_DEPTH, variant

PAPER_SNN_MOMENTUM = math.sqrt(0.1)
"""Batch-norm momentum of the spiking branch in the released code."""


def _conv_block(in_channels: int, out_channels: int, kernel: int, coding: Coding) -> HybridBlock:
    padding = 1 if coding.mode == "paper" else kernel // 2  # released: whatever the kernel

    def conv() -> nn.Conv2d:
        return Conv2d(in_channels, out_channels, kernel, padding=padding, bias=False)

    momentum = PAPER_SNN_MOMENTUM if coding.mode == "paper" else 0.1
    ann = nn.Sequential(conv(), nn.BatchNorm2d(out_channels), nn.LeakyReLU(), nn.AvgPool2d(2))
    norm = nn.BatchNorm2d(out_channels, momentum=momentum)
    snn = SpikingLayer(conv(), coding.spiking(), norm)
    return HybridBlock(ann, snn, coding, nn.AvgPool2d(2))


def _head(widths: Sequence[int], coding: Coding) -> HybridBlock:
    """Linear layers of the given widths; the last width is the number of classes."""
    ann, snn = nn.Sequential(), SpikingSequential()
    for wide, narrow in pairwise(widths):
        last = narrow == widths[-1] and len(ann) == 2 * (len(widths) - 2)
        ann.append(nn.Linear(wide, narrow))
        if coding.mode == "paper" or not last:  # an activation on logits only squashes them
            ann.append(nn.LeakyReLU())
        spiking = nn.Linear(wide, narrow)
        if coding.mode == "hw":
            # No batch norm here (the paper's parameter count): drive the neurons by the weights,
            # with a current of about two thresholds' standard deviation, or they stay silent.
            nn.init.normal_(spiking.weight, std=2 / math.sqrt(wide))
        snn.append(SpikingLayer(spiking, coding.spiking()))
    return HybridBlock(ann, snn, coding)


class HAS8VGG(nn.Module):
    """Hybrid convolution blocks, each halving the image, global average, hybrid head."""

    def __init__(
        self,
        image: nn.Module,
        widths: Sequence[int],
        kernel: int,
        head: Sequence[int],
        coding: Coding,
    ) -> None:
        super().__init__()
        self.image = image
        pairs = pairwise(widths)
        self.blocks = nn.Sequential(*(_conv_block(a, b, kernel, coding) for a, b in pairs))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = _head([widths[-1], *head], coding)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to logits ``[B, num_classes]``."""
        logits: Tensor = self.head(self.flatten(self.pool(self.blocks(self.image(x)))))
        return logits


@MODELS.register("has8_vgg")
def has8_vgg(
    *,
    num_classes: int,
    in_channels: int = 3,
    base: int = 16,
    multiplier: int = 2,
    depth: int = 4,
    kernel: int = 3,
    head: Sequence[int] = (1024, 512),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    slope: str | None = None,
    rescale: bool = True,
    order: str = "lsb",
    decoder: str = "bitplane",
    neuron: str = "lif",
    mode: str = "hw",
) -> nn.Module:
    """HAS-8-VGG with channels ``in_channels * base * multiplier**i``, i = 0..depth.

    Args:
        num_classes: outputs.
        in_channels: channels of the image; they multiply all widths, as in the paper.
        base: b of equation 21.
        multiplier: m of equation 21.
        depth: d of equation 21; there are ``depth + 1`` blocks and each halves the image.
        kernel: odd side of the convolutions' kernels.
        head: widths of the head's hidden layers.
        mean, std: statistics of each channel, by which the image is normalised first; None
            leaves it as it is.
        slope, rescale, order, decoder, neuron, mode: see :class:`has8.blocks.Coding`.

    Raises:
        BadInput: for an option out of range.
        UnknownName: for an unknown slope or decoder.
    """
    if (
        min(base, multiplier, depth + 1, kernel, *head) < 1
        or kernel % 2 == 0
        or max(depth, len(head)) > MOST_DEPTH
        or any(not isinstance(width, int) for width in head)
    ):
        raise BadInput(
            f"has8_vgg needs base, multiplier and widths of the head >= 1, depth from 0 to "
            f"{MOST_DEPTH}, no more layers in the head, and an odd kernel, not base={base}, "
            f"multiplier={multiplier}, depth={depth}, kernel={kernel}, "
            f"head={list(head)[:9]}"
        )
    coding = Coding(slope, rescale, order, decoder, neuron, mode)  # type: ignore[arg-type]
    widths = [in_channels * base * multiplier**i for i in range(depth + 1)]
    return HAS8VGG(
        normalize(in_channels, mean, std),
        [in_channels, *widths],
        kernel,
        [*head, num_classes],
        coding,
    )


variant("has8_vgg_b16", has8_vgg, base=16)
variant("has8_vgg_b24", has8_vgg, base=24)
