"""Networks as snnTorch's users write them, with no line for has8 in them.

    has8-map examples/snntorch_networks.py:FullyConnected --weights state.pt --data mnist

The first three have the shapes of snnTorch's tutorials 5, 6 and 7, the others those of networks
that NeuroBench publishes with their weights. ``python -m benchmarks.own_networks`` trains the
first three and maps all.
"""

from __future__ import annotations

from typing import Any

import snntorch as snn
import torch
from snntorch import spikegen, surrogate
from torch import Tensor, nn
from torchvision.models import resnet18


class FullyConnected(nn.Module):
    """Tutorial 5: two dense layers, the same image in every step, spikes and membranes out."""

    def __init__(self, hidden: int = 1000, beta: float = 0.95, num_steps: int = 25) -> None:
        super().__init__()
        self.num_steps = num_steps
        self.fc1 = nn.Linear(28 * 28, hidden)
        self.lif1 = snn.Leaky(beta=beta)
        self.fc2 = nn.Linear(hidden, 10)
        self.lif2 = snn.Leaky(beta=beta)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``[B, 1, 28, 28]`` to spikes and membranes, ``[T, B, 10]``."""
        x = x.flatten(1)
        mem1 = self.lif1.init_leaky()
        mem2 = self.lif2.init_leaky()
        spk2_rec = []
        mem2_rec = []
        for _step in range(self.num_steps):
            cur1 = self.fc1(x)
            spk1, mem1 = self.lif1(cur1, mem1)
            cur2 = self.fc2(spk1)
            spk2, mem2 = self.lif2(cur2, mem2)
            spk2_rec.append(spk2)
            mem2_rec.append(mem2)
        return torch.stack(spk2_rec, dim=0), torch.stack(mem2_rec, dim=0)


def convolutional(pool_spikes: bool = False) -> nn.Sequential:
    """Tutorial 6: convolutions and max pooling; the loop over the steps stands outside.

    Args:
        pool_spikes: whether pooling stands behind the neurons. The tutorial has it in front of
            them, where it takes the largest of currents, which no chip does.
    """
    return _pooled(1, 12, 64, 4, surrogate.fast_sigmoid(slope=25), pool_spikes)


def events(pool_spikes: bool = False) -> nn.Sequential:
    """Tutorial 7: the same for events of a camera, two polarities of 34 x 34 pixels in each step.

    Args:
        pool_spikes: as in :func:`convolutional`.
    """
    return _pooled(2, 12, 32, 5, surrogate.atan(), pool_spikes)


def _pooled(
    channels: int, first: int, second: int, side: int, slope: Any, pool_spikes: bool
) -> nn.Sequential:
    def pooled_neurons() -> tuple[nn.Module, nn.Module]:
        lif = snn.Leaky(beta=0.5, spike_grad=slope, init_hidden=True)
        return (lif, nn.MaxPool2d(2)) if pool_spikes else (nn.MaxPool2d(2), lif)

    return nn.Sequential(
        nn.Conv2d(channels, first, 5),
        *pooled_neurons(),
        nn.Conv2d(first, second, 5),
        *pooled_neurons(),
        nn.Flatten(),
        nn.Linear(second * side * side, 10),
        snn.Leaky(beta=0.5, spike_grad=slope, init_hidden=True, output=True),
    )


class Encoded(nn.Module):
    """torchvision's ResNet18 as an encoder, rate coding, two spiking layers, their spikes counted.

    Args:
        classes: outputs.
        num_steps: T.
        weights: of the encoder, as torchvision names them; None draws them.
    """

    def __init__(self, classes: int = 10, num_steps: int = 20, weights: str | None = None) -> None:
        super().__init__()
        self.num_steps = num_steps
        self.encoder = resnet18(weights=weights)
        self.encoder.fc = nn.Identity()
        self.fc1 = nn.Linear(512, 128)
        self.lif1 = snn.Leaky(beta=0.9)
        self.fc2 = nn.Linear(128, classes)
        self.lif2 = snn.Leaky(beta=0.9)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, 3, H, W]`` to counts of spikes ``[B, classes]``."""
        rates = torch.sigmoid(self.encoder(x))
        spikes = spikegen.rate(rates, num_steps=self.num_steps)
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        counts: Any = 0
        for step in range(self.num_steps):
            spk1, mem1 = self.lif1(self.fc1(spikes[step]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            counts = counts + spk2
        return counts


class Gesture(nn.Module):
    """NeuroBench's network for gestures before an event camera (DVS128 Gesture)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 16, kernel_size=5, padding="same")
        self.lif1 = snn.Leaky(beta=0.9, reset_mechanism="subtract")
        self.conv2 = nn.Conv2d(16, 32, kernel_size=5, padding="same")
        self.lif2 = snn.Leaky(beta=0.9, reset_mechanism="subtract")
        self.conv3 = nn.Conv2d(32, 64, kernel_size=5, padding="same")
        self.lif3 = snn.Leaky(beta=0.9, reset_mechanism="subtract")
        self.pool = nn.MaxPool2d(2, 2)
        self.linear1 = nn.Linear(1024, 11)
        self.lif4 = snn.Leaky(beta=0.9, reset_mechanism="subtract")

    def forward(self, x: Tensor) -> Tensor:
        """Frames of events ``[T, B, 2, 32, 32]`` to spikes ``[T, B, 11]``."""
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        mem3, mem4 = self.lif3.init_leaky(), self.lif4.init_leaky()
        spikes = []
        for step in range(x.size(0)):
            spk1, mem1 = self.lif1(self.conv1(x[step]), mem1)
            spk2, mem2 = self.lif2(self.conv2(self.pool(spk1)), mem2)
            spk3, mem3 = self.lif3(self.conv3(self.pool(spk2)), mem3)
            flat = self.pool(spk3).flatten(1)
            spk4, mem4 = self.lif4(self.linear1(flat), mem4)
            spikes.append(spk4)
        return torch.stack(spikes)


def keywords(beta: float = 0.9) -> nn.Sequential:
    """NeuroBench's network for spoken keywords (Google Speech Commands), 20 values in each step."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(20, 256),
        snn.Leaky(beta=beta, init_hidden=True),
        nn.Linear(256, 256),
        snn.Leaky(beta=beta, init_hidden=True),
        nn.Linear(256, 256),
        snn.Leaky(beta=beta, init_hidden=True),
        nn.Linear(256, 35),
        snn.Leaky(beta=beta, init_hidden=True, output=True),
    )


class Reaching(nn.Module):
    """NeuroBench's network for a monkey's reaching: the velocity of its hand from 96 electrodes."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(96, 50, bias=False)
        self.fc_out = nn.Linear(50, 2, bias=False)
        self.lif1 = snn.Leaky(beta=0.96, threshold=1, reset_mechanism="zero")
        self.lif_out = snn.Leaky(beta=0.96, threshold=1, reset_mechanism="none")

    def forward(self, x: Tensor) -> Tensor:
        """Spikes of some steps ``[T, B, 96]`` to the membranes of the last, ``[B, 2]``."""
        mem1, mem2 = self.lif1.init_leaky(), self.lif_out.init_leaky()
        for step in range(len(x)):
            spk1, mem1 = self.lif1(self.fc1(x[step]), mem1)
            _, mem2 = self.lif_out(self.fc_out(spk1), mem2)
        return mem2
