"""Networks that others trained and published, mapped as they are."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import has8
from hwsim import compare, estimate, simulate
from hwsim.report import summarize, to_dict
from mapping import map_model

FOLDER = Path(os.environ.get("HAS8_DATA", "~/.cache/has8/data")).expanduser() / "networks/snntorch"
EXAMPLES = Path(__file__).parent.parent / "examples" / "snntorch_networks.py"

pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason=f"the published states are not in {FOLDER} (HAS8_DATA)"
)


@pytest.fixture(scope="module")
def networks() -> Any:
    spec = importlib.util.spec_from_file_location("snntorch_networks", EXAMPLES)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def trained(net: torch.nn.Module, name: str) -> torch.nn.Module:
    state = torch.load(FOLDER / name, weights_only=True, map_location="cpu")
    net.load_state_dict(state.get("model_state_dict", state))
    return net.eval()


def test_spoken_keywords_have_the_published_dense_operations(networks):
    net = trained(networks.keywords(), "s2s_gsc_snntorch")
    values = torch.randn(200, 2, 20, generator=torch.Generator().manual_seed(0))
    mapped = map_model(
        has8.over_time(net, input="steps"), calibration=values, inputs="steps", scales="search"
    )
    found = to_dict(summarize(mapped, estimate(mapped, simulate(mapped, values))))
    assert found["neurobench"]["Dense"] == 29_030_400
    assert (
        sum(len(chip.populations) for chip in mapped.chip_segments) == 3
    )  # the first takes values
    assert found["reset"]["subtracting"] == 256 + 256 + 35
    with torch.no_grad():
        expected = has8.over_time(net, input="steps")(values)
    assert torch.equal(simulate(mapped, values).logits.argmax(1), expected.argmax(1))


def test_gestures_go_to_the_chip_with_their_max_pooling(networks):
    net = trained(networks.Gesture(), "dvs_gesture_snn")
    events = (
        torch.rand(8, 2, 2, 32, 32, generator=torch.Generator().manual_seed(0)) < 0.05
    ).float()
    mapped = map_model(net, calibration=events, inputs="spikes")
    (chip,) = mapped.chip_segments
    assert mapped.partition.on_host == ()
    pooled = [p.name for p in chip.populations if p.name.startswith("pool")]
    assert len(pooled) == 3 and len(chip.populations) == 7
    assert compare(mapped, events, "reference", "fast").equal


def test_reaching_is_read_by_its_membranes_once_a_sample(networks):
    net = trained(networks.Reaching(), "SNN2_indy_20160622_01.pt")
    spikes = (torch.rand(50, 6, 96, generator=torch.Generator().manual_seed(0)) < 0.1).float()
    mapped = map_model(net, calibration=spikes, inputs="spikes", scales="search")
    with torch.no_grad():
        expected = net(spikes)
    found = simulate(mapped, spikes).logits
    assert found.shape == expected.shape == (6, 2)
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()
    (chip,) = mapped.chip_segments
    assert [p.size for p in chip.populations] == [50, 2]
    assert chip.membranes == ("lif_out",)
    assert mapped.partition.rejections == ()
    assert compare(mapped, spikes, "reference", "fast").equal
