"""New weights of hybrid networks set by some images, so that short training gets somewhere.

As drawn, they let hardly a neuron fire behind the second spiking layer, and what crosses a sigmoid
hardly differs from image to image; a gradient that passes such layers is next to nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from has8.data import Data
from has8.data.images import spread
from has8.models.hnn import HNN
from has8.training.recipes import TrainConfig
from has8.training.subset import chosen

RECIPE = "hnn-short"
"""The recipe that asks for it."""
IMAGES = 32
"""Training images, spread over all that are learned, that weights are set by."""
LAST = (1.0, 0.5)
"""Mean and deviation of the last layer's currents where it spikes. Around the threshold those that
fire and those that do not learn alike; below it learning would silence all, for good."""


def liven(model: nn.Module, data: Data, config: TrainConfig) -> None:
    """Scale weights and shift biases, layer by layer from the first (Krähenbühl et al. 2016).

    Each channel of a layer gets mean 0 and deviation 1 over some training images, all pixels and
    steps, those of the last spiking layer :data:`LAST`. Layers that are not to be trained are left
    alone, and so are models that are no :class:`~has8.models.hnn.HNN`.

    Args:
        model: changed in place.
        data: whose training images it takes.
        config: of the training, whose subset they are from.

    Raises:
        BadInput: if the subset has more images than there are.
    """
    if not isinstance(model, HNN):
        return
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    learned = chosen(len(data.train), config)
    ((x, _),) = data.train.read([learned[spread(len(learned), IMAGES)]])
    for layer in layers:
        if not layer.weight.requires_grad:
            continue
        out = _output(model, layer, x)
        aside = [axis for axis in range(out.dim()) if axis != 1]
        mean, deviation = out.mean(aside), _deviation(out, aside)
        last = layer is layers[-1] and len(model.spiking) > 0
        shift, scale = LAST if last else (0.0, 1.0)
        factor = scale / deviation
        with torch.no_grad():
            layer.weight.mul_(factor.view(-1, *[1] * (layer.weight.dim() - 1)))
            if layer.bias is not None:
                layer.bias.sub_(mean).mul_(factor).add_(shift)


def _deviation(out: Tensor, aside: list[int]) -> Tensor:
    """Of each channel; a single value tells none, and its layer's scale is kept."""
    if out.numel() == out.shape[1]:
        return out.new_ones(out.shape[1])
    return out.std(aside).clamp(min=1e-3)


def _output(model: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
    """What a layer makes of images, steps merged into the batch."""
    made: list[Tensor] = []
    hook = layer.register_forward_hook(lambda _, __, out: made.append(out))
    try:
        with torch.no_grad():
            model(x)
    finally:
        hook.remove()
    return made[0]
