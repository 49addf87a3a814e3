"""The chip's learning engine: products by hand, and equal to Lava's in every step."""

import json
import subprocess
from dataclasses import replace
from itertools import product
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks import colanet_chip
from benchmarks.colanet_chip import as_lava_writes
from has8 import load_data
from has8.cli.map import map_command
from has8.colanet import RULES as RULES_BY_NAME
from has8.colanet import CoLaNET
from has8.errors import BackendError, BadInput
from has8.training.local import classifier, learn
from hwsim import estimate, simulate
from hwsim.activity import LearningActivity
from hwsim.backends.lava.interpreter import lava_python
from hwsim.experiments import learning_engine
from hwsim.experiments.learning import OnChip, learning_rule, most_sent, on_chip
from hwsim.experiments.learning_engine import CompiledEngine
from hwsim.price.learning import check_learns, learning_price
from mapping import map_model
from mapping.chip.learning import Factor, LearningEngine, LearningRule, Product
from mapping.hosts.schema import load_host


def factors(*names: str) -> tuple[Factor, ...]:
    return tuple(map(Factor, names))


def test_a_product_counts_where_its_neuron_fires_and_saturates_at_the_register():
    rule = LearningRule({"w": [Product("y0", (Factor("C", 100),), 1, 0)]})
    engine = LearningEngine(rule, np.zeros((2, 3)))
    for expected in (100, 200, 255):
        engine.step([0, 0, 0], [1, 0], np.zeros((3, 2)))
        assert engine.variables["w"].tolist() == [[expected] * 3, [0] * 3]


def test_a_trace_rises_with_a_spike_and_decays_between():
    rule = LearningRule({"w": []}, impulses=(64.0, 100.0), time_constants=(1.0, 0.0))
    engine = LearningEngine(rule, np.zeros((1, 2)))
    engine.step([1, 0], [0], np.zeros((3, 1)))
    assert engine.traces.tolist() == [[64, 0], [100, 0]]
    engine.step([0, 0], [0], np.zeros((3, 1)))
    assert engine.traces[0, 0] in (23, 24) and not engine.traces[1].any()  # 64 / e


RULES = {
    "colanet": LearningRule(
        {
            "w": [
                Product("u", (*factors("t", "y2"), Factor("w", -100), Factor("w", -100)), 3, 2),
                Product("y0", factors("x1", "y1"), -1, -3),
                Product("u", factors("y3"), 1, -2),
            ],
            "t": [Product("y0", factors("x1"), 1, 0), Product("u", factors("t"), -1, -2)],
        },
        impulses=(16.5, 0.0),
        time_constants=(10.0, 0.0),
    ),
    "by_neuron": LearningRule(
        {
            "w": [
                Product("u", (*factors("t", "y2"), Factor("w", -100), Factor("w", -100)), 1, -4),
                Product("y0", (*factors("x1", "y1"), Factor("w", -100)), -1, -3),
            ],
            "t": [Product("y0", factors("x1")), Product("y0", factors("t"), -1)],
        },
        impulses=(127.0, 0.0),
        time_constants=(10.0, 0.0),
    ),
    "other": LearningRule(
        {
            "d": [Product("x0", (Factor("y1", -60), Factor("x2")), 2, -1)],
            "w": [
                Product("x0", (Factor("w", 3, sign=True), Factor("y3", 5)), -7, -4),
                Product("y0", (Factor("x2"), Factor("t", 20), Factor("d")), 5, 1),
            ],
            "t": [Product("x0", (Factor("y2"), Factor("w", -9)), 1, 0)],
        },
        impulses=(120.0, 33.25),
        time_constants=(3.0, 7.5),
    ),
}


def drawn() -> dict:
    """Spikes of both layers, what the second one sends, and first weights."""
    rng = np.random.default_rng(3)
    return {
        "pre": rng.random((60, 7)) < 0.4,
        "post": rng.random((60, 5)) < 0.3,
        "sent": rng.integers(0, 128, (60, 3, 5)) * (rng.random((60, 1, 5)) < 0.5),
        "weights": rng.integers(-120, 120, (5, 7)),
    }


def test_every_step_equals_lavas_bit_approximate_model(tmp_path):
    try:
        python = lava_python()
    except BackendError:
        pytest.skip("no Lava")
    given, files = drawn(), [tmp_path / f"{name}.npz" for name in RULES]
    for file, rule in zip(files, RULES.values(), strict=True):
        np.savez(file, rule=json.dumps(as_lava_writes(rule, 11)), **given)
    places = [place for file in files for place in (file, file.with_suffix(".out.npz"))]
    program = Path(colanet_chip.__file__).with_name("learning_in_lava.py")
    subprocess.run([python, program, *places], check=True, timeout=200)
    kinds = LearningEngine, CompiledEngine
    for (file, rule), kind in product(zip(files, RULES.values(), strict=True), kinds):
        engine = kind(rule, given["weights"], seed=11)
        with np.load(file.with_suffix(".out.npz")) as expected:
            found = {name: expected[name] for name in ("traces", "w", "d", "t")}
        for step in range(60):
            engine.step(*(given[name][step] for name in ("pre", "post", "sent")))
            for name, values in (("traces", engine.traces), *engine.variables.items()):
                assert np.array_equal(values, found[name][step]), (file.stem, name, step)
        assert len(np.unique(engine.variables["w"])) > 5


@pytest.mark.parametrize("name", RULES)
def test_the_compiled_engine_equals_the_plain_one(name, monkeypatch):
    given = drawn()
    plain, compiled = (
        kind(RULES[name], given["weights"], seed=5) for kind in (LearningEngine, CompiledEngine)
    )
    steps = [given[part] for part in ("pre", "post", "sent")]
    compiled.run(*(part[:40] for part in steps))
    monkeypatch.setattr(learning_engine, "library", lambda: None)
    compiled.run(*(part[40:] for part in steps))
    plain.run(*steps)
    for variable, values in {"traces": plain.traces, **plain.variables}.items():
        found = {"traces": compiled.traces, **compiled.variables}[variable]
        assert np.array_equal(values, found), variable


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Factor("z"),
        lambda: Factor("x1", sign=True),
        lambda: Product("x1", ()),
        lambda: Product("u", (), mantissa=8),
        lambda: Product("u", (), exponent=9),
        lambda: LearningRule({"x": []}),
        lambda: LearningRule({}, impulses=(128.0, 0.0)),
        lambda: LearningRule({}, time_constants=(-1.0, 0.0)),
    ],
)
def test_what_no_engine_holds_is_refused(wrong):
    with pytest.raises(BadInput):
        wrong()


RULE = replace(
    RULES_BY_NAME.get("mnist"), columns=3, highest=0.6, lowest=-1.0, anti_hebb=-0.5, dopamine=0.5
)


@pytest.mark.parametrize(("sent", "change"), [(0, -0.5), (1, 0.5)])
def test_a_rule_as_products_moves_a_marked_weight_as_its_curve_does(sent, change):
    unit, most = 1.0 / 256, most_sent(RULE)
    weights = np.array([[-100, 0, 60, 120, -100]])
    engine = LearningEngine(learning_rule(RULE), weights)
    marked = [True] * 4 + [False]
    engine.step(marked, [True], np.zeros((3, 1)))
    assert np.array_equal(engine.variables["w"], weights)
    assert engine.variables["t"].tolist() == [[127] * 4 + [0]]
    engine.step([False] * 5, [False], most * np.eye(3, dtype=int)[:, [sent]])
    slopes = ((0.6 - weights[0] * unit) / 1.6) ** 2 * np.array(marked)
    moved = (engine.variables["w"] - weights)[0]
    assert np.allclose(moved, change / unit * slopes, rtol=0.1, atol=1)


def test_a_chip_learns_what_the_full_rule_learns():
    data = load_data("digits")
    images, labels = data.train.tensors(250)
    tests, right = data.test.tensors(120)
    few, kept = labels < 3, right < 3
    accuracies = []
    for net in (CoLaNET(64, 3, RULE, copies=2), OnChip(64, 3, RULE, copies=2)):
        net.learn(images[few], labels[few])
        accuracies.append(float((net.counts(tests[kept]).argmax(1) == right[kept]).float().mean()))
    assert min(accuracies) > 0.85
    weights = net.engines[0].variables["w"]
    assert weights.min() >= -256 and weights.max() <= 154 and len(np.unique(weights)) > 50
    assert not np.array_equal(weights, net.engines[1].variables["w"])
    with pytest.raises(BadInput, match="lateral=True"):
        OnChip(4, 2, replace(RULE, lateral=False))
    with pytest.raises(BadInput, match="below the magnitude of the lowest"):
        learning_rule(replace(RULE, highest=2.0))


@pytest.fixture(scope="module")
def learned():
    """A network of two classes that knows nothing, as a model, and eight random samples."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(8, 1, 4, 4, generator=generator)
    return classifier(CoLaNET(16, 2, RULE, copies=2), (1, 4, 4)), images


def test_a_model_goes_on_learning_on_a_chip_and_what_it_did_is_counted(learned):
    model, images = learned
    net = on_chip(model, RULE, refresh=4)
    net.thresholds[0][:] = 1 << 20  # the first copy never fires, and is too far to be forced
    activity = net.learn(images, torch.arange(8) % 2)
    step, neuron, synapses = activity.updates.T
    assert (activity.samples, activity.exchanges, activity.inputs) == (8, 2, 16)
    assert not net.engines[0].variables["w"].any() and net.engines[1].variables["w"].any()
    assert neuron.min() >= 6 and neuron.max() < 12 and synapses.max() <= 16
    assert step.max() < 8 * (RULE.steps + activity.more_steps)
    assert activity.thresholds == sum(
        len(np.unique(neuron[(step // 14 >= start) & (step // 14 < start + 4)])) for start in (0, 4)
    )


def test_learning_a_sample_costs_its_updates_its_steps_and_what_the_host_does(learned):
    model, images = learned
    mapped, host = map_model(model, "loihi", calibration=images), load_host("jetson-orin-nano")
    cost = estimate(mapped, simulate(mapped, images), host)
    updates = np.array([[0, 0, 5], [0, 1, 7], [3, 0, 4]])
    done = LearningActivity(2, 4, updates, thresholds=6, exchanges=1, inputs=16)
    price = learning_price(mapped, cost, host, done)
    power, link = mapped.target.power, mapped.target.link
    drawn_w = (power.static_mw.value + power.embedded_mw.value) * 1e-3 + host.idle_w.value
    engine, more, by_host = price.parts.values()
    assert (price.updates, price.firing) == (8.0, 1.5)
    assert engine.time_us.value == pytest.approx((5 + 7 + 4) / 2 * 6.1e-3)
    assert engine.energy_uj.value == pytest.approx(8 * 120e-6 + drawn_w * engine.time_us.value)
    every = mapped.chip_segments[0].populations[0].size * 16 * (11 + 4)
    assert engine.time_us.high == pytest.approx(every * 7.6e-3)
    messages = 6 * 17 / 2 + 1
    exchanging = messages * link.message_us.value + link.exchange_us.value / 2
    assert by_host.time_us.value == pytest.approx(exchanging)
    assert more.time_us.value > 4 * link.step_us.value
    parts = engine.energy_uj.value + more.energy_uj.value + by_host.energy_uj.value
    assert price.total.energy_uj.value == pytest.approx(cost.energy_uj.total.value + parts)
    on_host = map_model(model, "loihi", partition="none", calibration=images)
    with pytest.raises(BadInput, match="must be there as one layer"):
        check_learns(on_host)
    without = replace(mapped, target=msgspec.structs.replace(mapped.target, learning=None))
    with pytest.raises(BadInput, match="states no costs of learning"):
        learning_price(without, cost, host, done)


def test_what_does_not_learn_cannot_be_asked_to():
    digits = Path(__file__).parent.parent / "examples" / "models" / "digits.pt"
    asked = [str(digits), "--target", "loihi", "--learn", "on-chip"]
    done = CliRunner().invoke(map_command, asked)
    assert "nothing else learns on a chip: leave out --learn" in str(done.exception)


def test_learning_takes_labels(tmp_path):
    learn(load_data("digits"), RULE, out=tmp_path, copies=1)
    np.save(tmp_path / "images.npy", np.zeros((2, 1, 8, 8), np.float32))
    asked = [str(tmp_path / "model.pt"), "--data", str(tmp_path / "images.npy")]
    done = CliRunner().invoke(map_command, [*asked, "--learn", "on-chip"])
    assert "--learn learns from labels, and images has none" in str(done.exception)
