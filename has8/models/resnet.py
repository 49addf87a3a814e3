"""ResNet, the plain ANN that hybrids are compared with (He et al. 2016)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from has8.models.normalize import normalize
from has8.models.registry import MODELS, variant
from has8.models.residual import (
    BOTTLENECK_DEPTH,
    ANNBlock,
    ANNBottleneck,
    block_shapes,
    initialize,
    stem_conv,
)


class ResNet(nn.Module):
    """Stem, stages of residual blocks, global average, linear classifier."""

    def __init__(
        self, image: nn.Module, stem: nn.Module, stages: nn.Module, features: int, num_classes: int
    ) -> None:
        super().__init__()
        self.image, self.stem, self.stages = image, stem, stages
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to logits ``[B, num_classes]``."""
        logits: Tensor = self.fc(self.flatten(self.pool(self.stages(self.stem(self.image(x))))))
        return logits


def _block(depth: int, inputs: int, outputs: int, stride: int) -> nn.Module:
    if depth >= BOTTLENECK_DEPTH:
        return ANNBottleneck(inputs, outputs, stride)
    return ANNBlock(inputs, outputs, 3, stride)


@MODELS.register("resnet")
def resnet(
    *,
    num_classes: int,
    in_channels: int = 3,
    depth: int = 18,
    base: int = 64,
    stem: str = "imagenet",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> nn.Module:
    """ResNet with batch norm; a bottleneck's stride is in its 3x3 convolution.

    Args:
        num_classes: outputs.
        in_channels: channels of the image.
        depth: 18, 34 or 50.
        base: channels of the stem and the first stage's inner convolutions.
        stem: "imagenet", 7x7 and pooling, which quarters the image, or "cifar" for small images,
            3x3 at full size.
        mean, std: statistics of each channel, by which the image is normalised first; None
            leaves it as it is.

    Raises:
        BadInput: for an option out of range.
    """
    shapes = block_shapes(depth, base)
    first = nn.Sequential(stem_conv(in_channels, base, stem), nn.BatchNorm2d(base), nn.ReLU())
    if stem == "imagenet":
        first.append(nn.MaxPool2d(3, stride=2, padding=1))
    stages = nn.Sequential(
        *(nn.Sequential(*(_block(depth, *shape) for shape in stage)) for stage in shapes)
    )
    image = normalize(in_channels, mean, std)
    return initialize(ResNet(image, first, stages, shapes[-1][-1][1], num_classes))


variant("resnet18", resnet, depth=18)
variant("resnet50", resnet, depth=50)
