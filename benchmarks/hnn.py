"""What the paper of hybrid networks (Muramatsu & Yu 2021, arXiv 2102.10592) reports, and how.

Accuracies are top-1, in percent, of one run each, selected on a validation set: 100 epochs on
MNIST, batch 64, and 150 on CIFAR-10, batch 32. A row's name has the artificial layers (A) and the
spiking ones (S); its code stands between the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.paper import Setting
from has8.models.hnn import HNN

ROWS: Mapping[str, Mapping[int, str]] = {
    "hnn_mlp": {
        0: "S784-S500-S10",
        1: "A784-S500-S10",
        2: "A784-A500-S10",
        3: "A784-A500-A10",
    },
    "hnn_cnn": {
        0: "S32C3-S32C3-S64C3-P2-S64C3-P2-S512-S10",
        1: "A32C3-S32C3-S64C3-P2-S64C3-P2-S512-S10",
        4: "A32C3-A32C3-A64C3-P2-S64C3-P2-S512-S10",
        6: "A32C3-A32C3-A64C3-P2-A64C3-P2-S512-S10",
        8: "A32C3-A32C3-A64C3-P2-A64C3-P2-A512-A10",
    },
}
"""The rows of the tables by the number of artificial layers."""
DATA = {"hnn_mlp": "mnist", "hnn_cnn": "cifar10"}

COLUMNS: Mapping[str, tuple[Mapping[str, Any], bool]] = {
    "duplicate": ({"coding": "duplicate"}, False),
    "duplicate-separate": ({"coding": "duplicate"}, True),
    "gaussian": ({"coding": "gaussian"}, False),
    "gaussian-released": ({"coding": "gaussian", "mode": "paper"}, False),
    "poisson": ({"coding": "poisson", "activation": "sigmoid"}, True),
    "poisson-released": ({"coding": "poisson_released", "activation": "sigmoid"}, True),
}
"""The options of each column, and whether artificial layers are trained first. "Released" is what
the authors' code does where the paper says otherwise."""

PAPER: Mapping[str, Mapping[str, Mapping[int, float]]] = {
    "hnn_mlp": {
        "duplicate": {0: 98.13, 1: 97.78, 2: 98.07, 3: 98.23},
        "duplicate-separate": {1: 98.22, 2: 99.17},
        "gaussian": {1: 98.02, 2: 98.03},
        "poisson": {0: 98.09, 1: 89.67, 2: 95.93, 3: 97.67},
    },
    "hnn_cnn": {
        "duplicate": {0: 59.96, 1: 53.23, 4: 55.22, 6: 66.08, 8: 70.09},
        "duplicate-separate": {1: 56.01, 4: 63.30, 6: 62.78},
        "gaussian": {1: 59.35, 4: 65.30, 6: 63.82},
        "poisson": {0: 59.83, 1: 50.28, 4: 36.94, 6: 31.32, 8: 56.43},
    },
}
"""Tables 1 to 3, by model, column and artificial layers."""


def _settings(model: str) -> Iterator[Setting]:
    *_, last = ROWS[model]
    for column, (options, separate) in COLUMNS.items():
        known = PAPER[model][column.removesuffix("-released")]
        for split in known:
            hybrid = 0 < split < last
            if column.endswith("-released") and not hybrid:
                continue
            own = options if hybrid else {k: v for k, v in options.items() if k != "mode"}
            trained = "poisson" if "activation" in own else "duplicate"
            yield Setting(
                f"{model}-{column}-{split}",
                column,
                model,
                {**own, "split": split},
                DATA[model],
                known[split],
                f"{model}-{trained}-{last}" if separate and hybrid else None,
            )


TABLES: Mapping[str, tuple[Setting, ...]] = {
    "mlp": tuple(_settings("hnn_mlp")),
    "cnn": tuple(_settings("hnn_cnn")),
}


STEPS = 25
OPERATION_NJ, UPDATE_NJ = 0.02711, 0.081
"""Of a synaptic operation, and of the update of a neuron."""
STEP_S, RATE_HZ = 0.0381, 0.5
"""Length of a step and the rate at which a spiking neuron is taken to fire."""


def released_energy_nj(model: nn.Module, image: Tensor) -> float:
    """Nanojoules of one image by the convention of the authors' repository: no measurement.

    A layer of N neurons with C synapses each takes ``E_o N C f T dt + E_u N T``. Artificial layers
    have T = 1 and f dt = 1; spiking ones T = 25 and f = 0.5 Hz, but f dt = 1 where values come in:
    in the first of them. Pooling costs nothing.

    Args:
        model: hnn_mlp or hnn_cnn.
        image: ``[1, C, H, W]``.
    """
    if not isinstance(model, HNN):
        raise TypeError("the convention is one of hybrid networks")
    sizes: list[tuple[bool, int, int]] = []

    def note(spiking: bool, layer: nn.Linear | nn.Conv2d, x: Any, out: Tensor) -> None:
        sizes.append((spiking, out[0].numel(), out[0].numel() * layer.weight[0].numel()))

    hooks = [
        layer.register_forward_hook(partial(note, part is model.spiking))
        for part in (model.artificial, model.spiking)
        for layer in part.modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    ]
    try:
        with torch.no_grad():
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
    total, before = 0.0, False
    for spiking, neurons, synapses in sizes:
        steps = STEPS if spiking else 1
        fired = RATE_HZ * STEP_S if spiking and before else 1.0  # f dt
        total += OPERATION_NJ * synapses * fired * steps + UPDATE_NJ * neurons * steps
        before = spiking
    return total
