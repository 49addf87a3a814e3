"""The ladder: torch = traced = rewritten, then integers, then every simulator bit for bit.

A failure names its rung. The rungs of single layers have files of their own: test_graph (passes),
test_quantize (error bounds), test_fast and test_lava (random nets, every edge of a register).
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import with_constants
from torch import nn

from has8.blocks import OverTime
from has8.encoders import Decoder, DuplicateEncoder, count_weights
from has8.neurons import Leaky
from hwsim import compare, estimate, simulate
from hwsim.backends.fast.backend import Fast
from hwsim.backends.lava.backend import Lava
from mapping import load, map_model, save
from mapping.graph.evaluate import evaluate
from mapping.graph.passes import run_passes
from mapping.graph.trace.modules import trace

SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def mapped(model, digits):
    return map_model(model, calibration=digits[:64])


def test_rung_1_traced_equals_torch(plain, model, digits):
    with torch.no_grad():
        assert torch.equal(evaluate(trace(model, SHAPE), digits), model(digits))


def test_rung_1_compiled_kernels_change_no_answer(model, digits):
    """They sum in another order, which may move a membrane over its threshold, rarely."""
    with torch.no_grad():
        close = torch.isclose(evaluate(trace(model, SHAPE), digits), model(digits), atol=1e-4)
    assert close.all(1).float().mean() >= 0.98


def test_rung_2_rewritten_equals_traced(model, digits):
    """But for images in which folding's rounding to float32 moves a membrane over its threshold."""
    graph, x = trace(model, SHAPE), digits.double()
    close = torch.isclose(evaluate(run_passes(graph), x), evaluate(graph, x), atol=1e-5)
    assert close.all(1).float().mean() >= 0.99


def test_rung_3_float_co_simulation_equals_the_graph(model, digits):
    """With nothing on the chip, the segments' machinery computes what the graph does."""
    on_host = map_model(model, partition="none", calibration=digits[:64])
    run = simulate(on_host, digits, batch_size=len(digits))
    assert on_host.chip_segments == ()
    assert torch.equal(run.logits, evaluate(on_host.graph, digits))


def test_rung_4_integers_agree_with_float(model, mapped, digits):
    """Each layer has a bound (test_quantize holds layers to it); together they change little."""
    assert set(mapped.errors) == {p.name for chip in mapped.chip_segments for p in chip.populations}
    assert all(0 < error.membrane < 2 for error in mapped.errors.values())
    with torch.no_grad():
        expected = model(digits).argmax(1)
    same = (simulate(mapped, digits).logits.argmax(1) == expected).float().mean()
    assert same > 0.95


def test_rung_5_fast_equals_reference(mapped, digits):
    found = compare(mapped, digits[:40], "fast", "reference")
    assert found.equal, found.divergence
    assert found.spikes > 10_000
    one, two = (simulate(mapped, digits[:40], b, batch_size=16) for b in ("fast", "reference"))
    assert torch.equal(one.logits, two.logits)
    for name, counts in one.activity.events.items():
        assert np.array_equal(counts, two.activity.events[name]), name
    for name, counts in one.activity.updated.items():
        assert np.array_equal(counts, two.activity.updated[name]), name
    assert one.activity.overflows == two.activity.overflows


@pytest.mark.skipif(Lava().unavailable() is not None, reason=str(Lava().unavailable()))
def test_rung_6_fast_equals_lava(vgg, digits):
    mapped = map_model(vgg, calibration=digits[:64])
    found = compare(mapped, digits[:2], "fast", "lava")
    assert found.equal, found.divergence


def test_25_steps_of_spiking_layers_behind_an_ann(digits):
    """Not HAS-8: repeated values drive the first spiking layer, spikes are counted at the end."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        DuplicateEncoder(25),
        OverTime(nn.Linear(144, 30)),
        Leaky(beta=0.78),
        OverTime(nn.Linear(30, 20)),
        Leaky(beta=0.9, threshold=0.3),
        OverTime(nn.Linear(20, 10)),
        Leaky(beta=1.0, threshold=0.2),
        Decoder(count_weights(25)),
    )
    mapped = map_model(net, input_shape=SHAPE)
    with torch.no_grad():
        assert torch.equal(evaluate(trace(net, SHAPE), digits), net(digits))
    (chip,) = mapped.chip_segments
    assert chip.steps == 25
    assert [p.name for p in chip.populations] == ["7", "9"]  # values drive "5": not the chip's
    reasons = {r.node: r.reason for r in mapped.partition.rejections}
    assert "a chip takes only spikes" in reasons["5"]
    found = compare(mapped, digits[:50], "fast", "reference")
    assert found.equal, found.divergence
    run = simulate(mapped, digits)
    assert run.logits.max() > 1
    assert torch.equal(run.logits, run.logits.round())  # counts
    assert estimate(mapped, run).synops > 0


def test_a_wrong_layer_is_found_where_it_is(mapped, digits):
    """Break one layer in one backend: the comparison must name it."""

    class Broken:
        name = "broken"

        def __init__(self, inner, layer):
            self.inner, self.layer = inner, layer

        def unavailable(self):
            return None

        def compile(self, segment, registers):
            populations = tuple(
                with_constants(p, threshold=np.array(1)) if p.name == self.layer else p
                for p in segment.populations
            )
            return self.inner.compile(replace(segment, populations=populations), registers)

    for chip in mapped.chip_segments:
        layer = chip.populations[0].name
        found = compare(mapped, digits[:20], "fast", Broken(Fast(), layer))
        assert found.divergence is not None
        assert (found.divergence.segment, found.divergence.population) == (chip.name, layer)
        assert found.divergence.left != found.divergence.right
        assert layer in str(found.divergence)


def test_batches_do_not_change_anything(mapped, digits):
    whole = simulate(mapped, digits[:30], record=("spikes",))
    parts = simulate(mapped, digits[:30], batch_size=7, record=("spikes",))
    assert torch.allclose(whole.logits, parts.logits, atol=1e-5)
    for segment, spikes in whole.spikes.items():
        for name, tensor in spikes.items():
            assert torch.equal(tensor, parts.spikes[segment][name])
    assert whole.activity.samples == parts.activity.samples == 30


def test_the_artefact_runs_as_the_mapping_does(mapped, digits, tmp_path):
    path = save(mapped, tmp_path / "model.h8")
    again = load(path)
    assert torch.equal(simulate(again, digits[:20]).logits, simulate(mapped, digits[:20]).logits)
