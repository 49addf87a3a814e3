"""docs/own_network.md runs as it stands, and says what is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from hwsim.backends.lava.backend import Lava

PAGE = Path(__file__).parent.parent / "docs" / "own_network.md"


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> dict[str, Any]:
    """The names that the page's code leaves behind, and what it printed."""
    code = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert len(code) >= 6
    said: list[str] = []
    names: dict[str, Any] = {"print": lambda *words: said.append(" ".join(map(str, words)))}
    lava = Lava().unavailable() is None
    for block in code:
        if not lava:
            block = re.sub(r".*\"lava\".*\n", "", block)
        exec(compile(block, str(PAGE), "exec"), names)
    return {**names, "said": said}


def test_the_network_of_the_page_learns_and_goes_to_the_chip(page):
    found = page["found"]
    assert found.float_accuracy > 0.8
    assert found.accuracy > found.float_accuracy - 0.05
    assert page["overview"].on_chip == page["overview"].neuron_layers == 2
    if Lava().unavailable() is None:
        assert "True" in page["said"]


def test_loops_and_spikes_from_the_start_are_on_the_chip(page):
    (chip,) = page["looped"].chip_segments
    assert [s.delay for p, s in chip.synapses() if s.source == p.name] == [1]
    assert page["said"][-1] == "True"
    sizes = [p.size for chip in page["direct"].chip_segments for p in chip.populations]
    assert sizes == [100, 10]
