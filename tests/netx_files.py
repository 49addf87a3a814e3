"""Small networks in Lava-DL's exchange format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

NEURON = {
    "type": "LOIHI",
    "iDecay": 4096,
    "vDecay": 1024,
    "vThMant": 25,
    "refDelay": 1,
    "wgtExp": 0,
}


def layer(kind: str, shape: tuple[int, ...], **entries: Any) -> dict[str, Any]:
    return {"type": [kind.encode()], "shape": shape, "neuron": NEURON, **entries}


def small() -> list[dict[str, Any]]:
    """An input layer, a convolution, and a linear layer behind a flatten."""
    rng = np.random.default_rng(3)
    window = {"stride": (2, 1), "padding": (0, 1), "dilation": (1, 1), "groups": 1}
    kernel = 2.0 * rng.integers(-10, 11, (3, 2, 3, 3, 1))
    return [
        layer("input", (2, 7, 6), weight=40.0, bias=36.0),
        layer("conv", (3, 3, 6), weight=kernel, bias=2.0 * rng.integers(-9, 10, 3), **window),
        {"type": [b"flatten"], "shape": (1, 1, 54)},
        layer("dense", (4, 1, 1), weight=2.0 * rng.integers(-12, 13, (4, 54))),
    ]


def written(path: Path, layers: list[dict[str, Any]]) -> Path:
    with h5py.File(path, "w") as file:

        def put(group: Any, entries: dict[str, Any]) -> None:
            for name, item in entries.items():
                if isinstance(item, dict):
                    put(group.create_group(name), item)
                else:
                    group[name] = item

        put(file, {"layer": {str(place): one for place, one in enumerate(layers)}})
        file["simulation/tSample"] = 9
    return path
