"""SEW-ResNet, the spiking net that hybrids are compared with (Fang et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from has8.blocks import OverTime, SpikingBranch, SpikingSequential
from has8.encoders import IMAGE_CODINGS, Decoder, rate_weights
from has8.errors import BadInput
from has8.models.normalize import normalize
from has8.models.registry import MODELS, variant
from has8.models.residual import (
    BOTTLENECK_DEPTH,
    SEWBlock,
    SEWBottleneck,
    block_shapes,
    initialize,
    spiking,
    stem_conv,
)
from has8.neurons import Leaky, make_neuron


class SEWResNet(nn.Module):
    """Encoder, spiking stem, stages of SEW blocks, mean over time and space, linear classifier.

    The mean over the steps comes before the classifier: as that is linear, its logits are the
    mean of every step's.
    """

    def __init__(
        self,
        image: nn.Module,
        encode: nn.Module,
        stem: nn.Module,
        stages: SpikingSequential,
        steps: int,
        features: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.image, self.encode = image, encode
        self.stem, self.stages = stem, stages
        self.decode = Decoder(rate_weights(steps))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to logits ``[B, num_classes]``."""
        spikes = self.stem(self.encode(self.image(x)))
        rates = self.stages(spikes, self.decode)
        logits: Tensor = self.fc(self.flatten(self.pool(rates)))
        return logits


def _block(
    depth: int, neuron: Callable[[], Leaky], inputs: int, outputs: int, stride: int
) -> SpikingBranch:
    if depth >= BOTTLENECK_DEPTH:
        return SEWBottleneck(inputs, outputs, stride, neuron)
    return SEWBlock(inputs, outputs, 3, stride, neuron)


@MODELS.register("sew_resnet")
def sew_resnet(
    *,
    num_classes: int,
    in_channels: int = 3,
    depth: int = 18,
    base: int = 64,
    steps: int = 10,
    coding: str = "rate",
    neuron: str = "if",
    stem: str = "imagenet",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> nn.Module:
    """SEW-ResNet with ADD, on images that a spike code or repetition spreads over T steps.

    Args:
        num_classes: outputs.
        in_channels: channels of the image, which must lie in [0, 1].
        depth: 18, 34 or 50.
        base: channels of the stem and the first stage's inner convolutions.
        steps: T, the steps of the code.
        coding: the image's, a name in :data:`has8.encoders.IMAGE_CODINGS`: "rate" (random; in
            evaluation drawn by the sample's number), "ttfs" and "ttfs_log" (one spike a pixel),
            "phase" (binary digits) or "duplicate" (values in every step; the first neurons make
            the spikes).
        neuron: "if", as published, or "lif", HAS-8's.
        stem: "imagenet", 7x7 and pooling, which quarters the image, or "cifar" for small images,
            3x3 at full size.
        mean, std: statistics of each channel, by which the image is normalised first; None
            leaves it as it is. Only coding="duplicate" takes them: the others need values in
            [0, 1].

    Raises:
        BadInput: for an option out of range.
        UnknownName: for an unknown coding.
    """
    shapes = block_shapes(depth, base)
    encode = IMAGE_CODINGS.get(coding)(steps)
    image = normalize(in_channels, mean, std)
    if mean is not None and coding != "duplicate":
        raise BadInput(
            f"coding={coding!r} takes images in [0, 1]: leave out mean and std, or choose "
            f"coding='duplicate'"
        )
    make = partial(make_neuron, neuron)
    first = nn.Sequential(spiking(stem_conv(in_channels, base, stem), make))
    if stem == "imagenet":
        first.append(OverTime(nn.MaxPool2d(3, stride=2, padding=1)))
    stages = SpikingSequential(
        *(SpikingSequential(*(_block(depth, make, *shape) for shape in row)) for row in shapes)
    )
    return initialize(
        SEWResNet(image, encode, first, stages, steps, shapes[-1][-1][1], num_classes)
    )


variant("sew_resnet18", sew_resnet, depth=18)
variant("sew_resnet50", sew_resnet, depth=50)
