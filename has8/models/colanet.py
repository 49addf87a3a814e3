"""A CoLaNET that has learned, as a network that a chip can run: neurons, weights and loops."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import snntorch as snn
import torch
from torch import Tensor, nn

from has8.colanet import CoLaNET
from has8.encoders import EvenEncoder
from has8.errors import BadInput
from has8.models.pretrained import Encoder, Saturation
from has8.models.registry import MODELS

INHIBITION = 16.0
"""What a spike takes from the other neurons of its column; about two thresholds."""


class CoLaNETClassifier(nn.Module):
    """Even coding, one layer of LIF neurons with lateral inhibition, and the count of its spikes.

    It does without three things that chips do not have: gates, for which a synapse inhibits for as
    long as the leak takes; the floor of potentials at zero; and the choice of one winner among
    neurons that fire in the same step.

    Args:
        inputs: N, values of a sample.
        num_classes: K.
        columns: microcolumns of each class.
        copies: networks whose counts are merged.
        steps: T.
        membrane_steps: tau; a potential keeps ``1 - 1 / tau`` of itself in a step.
        front: what makes the N values of an image; None where the image is the values.
    """

    def __init__(
        self,
        inputs: int,
        num_classes: int,
        columns: int,
        copies: int,
        steps: int,
        membrane_steps: float,
        front: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.front = front or nn.Identity()
        neurons = copies * num_classes * columns
        self.by_class = (copies, num_classes, columns)
        self.encode = EvenEncoder(steps)
        self.drive = nn.Conv1d(inputs, neurons, 1)
        self.inhibit = nn.Conv1d(neurons, neurons, 1, groups=copies * num_classes, bias=False)
        lateral = INHIBITION * (torch.eye(columns) - 1).repeat(copies * num_classes, 1)
        self.inhibit.weight = nn.Parameter(lateral.unsqueeze(2))
        with torch.device("cpu"):  # snnTorch looks at its constants as it is built
            beta, threshold = 1 - 1 / membrane_steps, torch.ones(neurons, 1)
            self.lif = snn.Leaky(beta, threshold=threshold, reset_mechanism="zero")

    def forward(self, x: Tensor) -> Tensor:
        """Values or images ``[B, ...]`` in [0, 1] to counts of spikes ``[B, K]``."""
        spikes = self.encode(self.front(x).flatten(1)).unsqueeze(3)
        membrane, record = self.lif.init_leaky(), []
        fired = torch.zeros(len(x), self.drive.out_channels, 1, device=x.device)
        for now in spikes:
            fired, membrane = self.lif(self.drive(now) + self.inhibit(fired), membrane)
            record.append(fired)
        return torch.stack(record).sum(0).view(len(x), *self.by_class).sum((1, 3))


@MODELS.register("colanet")
def colanet(
    *,
    num_classes: int,
    in_channels: int = 1,
    size: Sequence[int] = (28, 28),
    columns: int = 20,
    copies: int = 10,
    steps: int = 10,
    membrane_steps: float = 3.0,
    encoder: str | None = None,
    saturation: float = 1.0,
) -> nn.Module:
    """See :class:`CoLaNETClassifier`; ``has8 train colanet`` trains it by local rules.

    Args:
        num_classes: outputs.
        in_channels: channels of the image, whose values lie in [0, 1].
        size: (H, W) of the image; (1, 1) for an embedding of ``in_channels`` values.
        columns, copies, steps, membrane_steps: see :class:`CoLaNETClassifier`.
        encoder: a frozen encoder that makes embeddings of images of ``size``, by its name for
            :func:`has8.pretrained`; its weights are those of the model's file.
        saturation: the value of an embedding that is coded as 1, above 0.

    Raises:
        BadInput: for an option out of range.
        UnknownName: for an unknown encoder.
    """
    if len(size) != 2 or min(*size, columns, copies, steps) < 1 or membrane_steps < 1:
        raise BadInput(
            f"colanet needs a size of two numbers, and columns, copies, steps and membrane_steps "
            f"of at least 1, not size={list(size)}, {columns}, {copies}, {steps}, {membrane_steps}"
        )
    inputs, front = in_channels * prod(size), None
    if encoder is not None:
        embedding = Encoder(encoder)
        if (in_channels, *size) != (3, embedding.size, embedding.size) or not saturation > 0:
            raise BadInput(
                f"encoder {encoder!r} takes images of 3 channels and {embedding.size} pixels a "
                f"side, and a saturation above 0, not {in_channels}, {list(size)} and {saturation}"
            )
        inputs, front = embedding.features, nn.Sequential(embedding, Saturation(saturation))
    return CoLaNETClassifier(inputs, num_classes, columns, copies, steps, membrane_steps, front)


def colanet_state(net: CoLaNET) -> dict[str, Tensor]:
    """What a network has learned, for ``load_state_dict(..., strict=False)`` of its classifier."""
    weights, thresholds = net.state.weights(net.rule), net.state.thresholds(net.rule)
    bias = weights.new_full((thresholds.numel(),), net.excitability)
    learned = {
        "drive.weight": weights.flatten(0, 1).unsqueeze(2),
        "drive.bias": bias,
        "lif.threshold": thresholds.view(-1, 1),
    }
    return {name: tensor.float() for name, tensor in learned.items()}
