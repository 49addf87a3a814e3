"""Artificial layers that are trained before the spiking ones behind them, and then kept.

What such layers make of the images stays the same in all epochs, so it is computed once.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from has8.data import Data
from has8.errors import BadInput
from has8.models.hnn import HNN
from has8.training.features import made_by

CACHE_BYTES = 1 << 30
"""Features that take no more than this are computed once and kept in memory."""
BATCH = 256
"""Images of which features are computed at a time."""


def keep_artificial(model: nn.Module, pretrained: nn.Module) -> None:
    """Give a network the artificial layers of a trained one, which training then leaves alone.

    Args:
        model: a network with a code that takes as many values as the trained layers make; its
            artificial layers are changed in place.
        pretrained: one of the same family whose layers are all artificial.

    Raises:
        BadInput: if they are not such networks, or their layers differ.
    """
    if not isinstance(model, HNN) or not len(model.spiking) or not _weights(model.artificial):
        raise BadInput(
            "only hnn_mlp and hnn_cnn with artificial and spiking layers are trained separately: "
            "choose such a split"
        )
    if not isinstance(pretrained, HNN) or len(pretrained.spiking):
        raise BadInput(
            "artificial layers come from a network of artificial layers alone: train the model "
            "with split at its largest first"
        )
    last = max(number for number, _ in _weights(model.artificial))
    for number, layer in enumerate(model.artificial):
        other = pretrained.artificial[number]
        same = type(layer) is type(other) and [p.shape for p in layer.parameters()] == [
            p.shape for p in other.parameters()
        ]
        if not same and number != last + 1:  # the code has an activation of its own
            raise BadInput(
                f"layer {number} is {layer} here and {other} in the trained network: choose the "
                f"options that it was trained with, and not coding='gaussian', whose layer has "
                f"twice the outputs"
            )
    for number, layer in _weights(model.artificial):
        layer.load_state_dict(pretrained.artificial[number].state_dict())
    model.artificial.requires_grad_(False)


def check_gradients(model: nn.Module) -> None:
    """Refuse artificial layers that no gradient would reach.

    Raises:
        BadInput: if there are any that are to be trained.
    """
    if isinstance(model, HNN) and not model.passes and not _is_kept(model):
        raise BadInput(
            "no gradient passes through this coding to the artificial layers: train them first, "
            "as a network of artificial layers alone, and give its file with --separate"
        )


def spiking_part(
    model: nn.Module, data: Data, augment: str, chosen: Tensor
) -> tuple[nn.Module, Data, Tensor]:
    """What remains to be trained, and the data as it takes them.

    Args:
        model: any; on the device that computes features.
        data: images for it.
        augment: how training images are changed; only without are features the same in all epochs.
        chosen: ``int64[N]``, the training images that are used.

    Returns:
        The spiking layers, the features of the chosen images and those of the test images, and
        their numbers, where the artificial layers are kept and the features fit in
        :data:`CACHE_BYTES`; else all as it is.
    """
    if not isinstance(model, HNN) or not _is_kept(model) or augment != "none":
        return model, data, chosen
    front = model.artificial.eval()
    device = next(front.parameters()).device
    with torch.no_grad():
        size = front(torch.zeros(1, *data.input_shape, device=device)).numel() * 4
    if size * (len(chosen) + len(data.test)) > CACHE_BYTES:
        return model, data, chosen
    train = made_by(front, data.train, BATCH, device, chosen)
    test = made_by(front, data.test, BATCH, device)
    return model.spiking, replace(data, train=train, test=test), torch.arange(len(chosen))


def _weights(artificial: nn.Sequential) -> list[tuple[int, nn.Module]]:
    return [(n, layer) for n, layer in enumerate(artificial) if list(layer.parameters())]


def _is_kept(model: HNN) -> bool:
    """Whether it has artificial layers, none of which is to be trained."""
    parameters = list(model.artificial.parameters())
    return bool(parameters) and not any(p.requires_grad for p in parameters)
