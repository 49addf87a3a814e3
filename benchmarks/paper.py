"""What the HAS-8 paper (Luu 2025, arXiv 2509.24411) reports, and the settings behind it.

Accuracies are top-1, in percent, after 100 epochs on one GPU. In Table 1 the released encoder
comes with three slopes, two decoders, and with or without the order-aware rescaling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from has8.errors import UnknownName

DATA_SETS = ("cifar10", "cifar100", "caltech101", "caltech256", "imagenet")
PAPER_BUDGET = "100 epochs on all images, batch 16"
HAS8_STEPS, SEW_STEPS = 8, 10

_SLOPES = ("sigmoid", "tanh", "fourier_released")
_ABLATED = ("fourier_released", "fourier", "constant_half", "straight_through")
_BEST = {"mode": "paper", "rescale": True, "decoder": "bitplane", "slope": "fourier_released"}


@dataclass(frozen=True, slots=True)
class Setting:
    """One model on one data set, and what the paper reports for it.

    Args:
        name: as ``--only`` takes it; tells the model and its options, not the data.
        family: as ``--models`` takes it.
        model: for :func:`has8.create_model`.
        options: likewise.
        data: for :func:`has8.load_data`.
        paper: top-1 accuracy in percent, None where the paper has none.
        after: the setting whose trained artificial layers it takes, and keeps; None for none.
    """

    name: str
    family: str
    model: str
    options: Mapping[str, Any]
    data: str
    paper: float | None
    after: str | None = None

    @property
    def recipe(self) -> str:
        """In :data:`has8.training.recipes.RECIPES`: the paper trains ImageNet in another way."""
        if self.model.startswith("hnn"):
            return "hnn"
        return "paper-sgdr" if self.data == "imagenet" else "paper"


def _hybrid(
    family: str,
    paper: float | None = None,
    data: str = "cifar10",
    *,
    slope: str = "fourier_released",
    rescale: bool = True,
    decoder: str = "bitplane",
) -> Setting:
    name = f"{family}-{'rescale' if rescale else 'plain'}-{decoder}-{slope}"
    options = {**_BEST, "slope": slope, "rescale": rescale, "decoder": decoder}
    return Setting(name, family, f"has8_{family}", options, data, paper)


def _baseline(
    model: str, paper: float | None, data: str = "cifar10", coding: str | None = None
) -> Setting:
    options = {} if coding is None else {"coding": coding, "steps": SEW_STEPS}
    name = model if coding is None else f"{model}-{coding}"
    return Setting(name, "baselines", model, options, data, paper)


def _grid(family: str, rows: tuple[tuple[float, ...], ...]) -> tuple[Setting, ...]:
    """Table 1's block: (rescaling, decoder) in rows, slopes in columns."""
    cases = [(rescale, decoder) for rescale in (False, True) for decoder in ("rate", "bitplane")]
    return tuple(
        _hybrid(family, accuracy, slope=slope, rescale=rescale, decoder=decoder)
        for (rescale, decoder), row in zip(cases, rows, strict=True)
        for slope, accuracy in zip(_SLOPES, row, strict=True)
    )


TABLE1: tuple[Setting, ...] = (
    _baseline("sew_resnet18", 70.69, coding="rate"),
    _baseline("sew_resnet18", 72.24, coding="ttfs"),
    _baseline("sew_resnet18", 74.60, coding="phase"),
    _baseline("resnet18", 75.89),
    *_grid(
        "vgg_b16",
        (
            (65.53, 64.01, 66.12),
            (70.27, 70.05, 71.93),
            (80.44, 80.03, 81.30),
            (81.15, 81.52, 81.58),
        ),
    ),
    *_grid(
        "resnet_b32",
        (
            (17.61, 18.22, 20.09),
            (24.22, 25.31, 24.57),
            (59.90, 48.38, 73.35),
            (61.39, 63.23, 79.20),
        ),
    ),
)
"""CIFAR-10 by surrogate slope, decoder and rescaling, in the paper's order."""

ABLATION: tuple[Setting, ...] = tuple(
    _hybrid("resnet_b32", 79.20 if slope == "fourier_released" else None, slope=slope)
    for slope in _ABLATED
)
"""Does the Fourier slope win because of the constant that the released code adds to it?"""

_TABLE2 = {
    ("sew_resnet18", "phase"): (74.60, 42.61, 64.21, 40.43, 51.47),
    ("sew_resnet50", "phase"): (73.96, 41.52, 64.32, 34.56, None),
    ("resnet18", None): (75.89, 51.11, 71.24, 42.35, 52.43),
    ("resnet50", None): (76.49, 43.10, 70.61, 37.89, None),
    ("vgg_b16", ""): (81.58, 45.00, 57.75, 34.83, 40.79),
    ("vgg_b24", ""): (77.19, 43.78, 61.38, 32.51, None),
    ("resnet_b32", ""): (79.20, 46.99, 68.70, 42.90, 52.30),
    ("resnet_b64", ""): (79.90, 48.23, 67.95, 43.11, None),
}

TABLE2: tuple[Setting, ...] = tuple(
    _hybrid(model, accuracy, data)
    if coding == ""
    else _baseline(model, accuracy, data, coding=coding)
    for (model, coding), row in _TABLE2.items()
    for data, accuracy in zip(DATA_SETS, row, strict=True)
)
"""Five data sets. The paper's text has 49.70 for VGG b16 on ImageNet where the table has 40.79."""

TABLE3: Mapping[str, tuple[str, float, float]] = {
    "sew_resnet18": ("SNN", 11.7, 1.81),
    "sew_resnet50": ("SNN", 25.6, 4.09),
    "resnet18": ("ANN", 11.7, 1.81),
    "resnet50": ("ANN", 25.6, 4.09),
    "has8_vgg_b16": ("hybrid", 9.79, 4.34),
    "has8_vgg_b24": ("hybrid", 19.3, 9.62),
    "has8_resnet_b32": ("hybrid", 5.63, 1.16),
    "has8_resnet_b64": ("hybrid", 22.4, 3.64),
}
"""Type, million parameters, and 10^9 MACs of one step at 224 x 224. The numbers of parameters are
those of different numbers of classes: 100 for VGG b16, 1000 for the baselines, 10 for the rest."""

TABLES: Mapping[str, tuple[Setting, ...]] = {
    "table1": TABLE1,
    "ablation": ABLATION,
    "table2": TABLE2,
}
"""Those that training fills."""


def choose(
    settings: tuple[Setting, ...], families: tuple[str, ...] = (), names: tuple[str, ...] = ()
) -> tuple[Setting, ...]:
    """The settings of some families, or with some names; empty choices take all.

    Raises:
        UnknownName: for a family or a name that no setting has.
    """
    for kind, asked, known in (
        ("group of models", families, [s.family for s in settings]),
        ("setting", names, [s.name for s in settings]),
    ):
        for name in asked:
            if name not in known:
                raise UnknownName(kind, name, set(known))
    return tuple(
        setting
        for setting in settings
        if (not families or setting.family in families) and (not names or setting.name in names)
    )
