"""What the paper of hybrid networks (Muramatsu & Yu 2021, arXiv 2102.10592) reports, and how.

Accuracies are top-1, in percent, of one run each, selected on a validation set: 100 epochs on
MNIST, batch 64, and 150 on CIFAR-10, batch 32. A row's name has the artificial layers (A) and the
spiking ones (S); its code stands between the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.paper import Setting

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
