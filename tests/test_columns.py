"""Tiles as Intel's compiler cuts them: cores by layer as it printed them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from builders import LOIHI, Branches, linear, population, segment
from msgspec import structs

from benchmarks.mapping import YOLO_KP
from has8.errors import BadInput, DoesNotFit
from mapping import load_target, map_model
from mapping.cores.check import check_placement
from mapping.cores.columns import columns
from mapping.cores.placement import place

LOIHI2 = load_target("loihi2")


def test_yolo_kp_has_the_cores_that_were_printed_layer_by_layer() -> None:
    net = YOLO_KP.chip(2)
    tiles = columns([net], LOIHI2)
    found = Counter(tile.population for tile in tiles)
    assert [found[layer.name] for layer in net.populations] == [
        *(224, 112, 56, 28, 56),
        *(16, 32, 14, 32, 4),
    ]
    neurons = Counter({tile.core: tile.size for tile in tiles})
    assert len(neurons) == len(tiles) == 574 and max(neurons.values()) <= 4095
    check_placement(place(tiles, [net], LOIHI2), [net], LOIHI2)


def test_a_layer_without_rows_is_cut_until_it_fits() -> None:
    """100 neurons of 2,560 inputs: 6 parts are too large, 12 are not, as the compiler logged."""
    wide = population("a", (100,), linear("a.w", "in", (2560,), np.zeros((100, 2560))))
    net = segment(wide, inputs={"in": (2560,)})
    assert [tile.size for tile in columns([net], LOIHI2)] == [9] * 11 + [1]


def test_a_layer_that_cannot_be_cut_so_is_refused() -> None:
    wide = population("a", (10,), linear("a.w", "in", (5000,), np.zeros((10, 5000))))
    compiled = structs.replace(LOIHI.core, compiled_neurons=1024)
    with pytest.raises(DoesNotFit, match=r"input axons.*allocation 'cores'"):
        columns([segment(wide, inputs={"in": (5000,)})], structs.replace(LOIHI, core=compiled))


def test_a_target_without_intels_compiler_is_refused() -> None:
    with pytest.raises(BadInput, match=r"'intel' .* loihi2: loihi does not .*compiled_neurons"):
        map_model(Branches(), LOIHI, allocation="intel")
