"""The chip's learning engine: products by hand, and equal to Lava's in every step."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from has8 import load_data
from has8.colanet import RULES as RULES_BY_NAME
from has8.colanet import CoLaNET
from has8.errors import BackendError, BadInput
from hwsim.backends.lava.interpreter import lava_python
from hwsim.experiments.learning import OnChip, learning_rule
from mapping.chip.learning import Factor, LearningEngine, LearningRule, Product


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


def as_lava_writes(rule: LearningRule) -> dict:
    """The arguments of its ``Loihi3FLearningRule``."""
    text = {
        f"d{variable}": " + ".join(map(str, products)).replace("+ -", "- ")
        for variable, products in rule.changes.items()
    }
    for n in range(2):
        text |= {f"x{n + 1}_impulse": rule.impulses[n], f"x{n + 1}_tau": rule.time_constants[n]}
    return {**text, "rng_seed": 11}


def test_every_step_equals_lavas_bit_approximate_model(tmp_path):
    try:
        python = lava_python()
    except BackendError:
        pytest.skip("no Lava")
    given, files = drawn(), [tmp_path / f"{name}.npz" for name in RULES]
    for file, rule in zip(files, RULES.values(), strict=True):
        np.savez(file, rule=json.dumps(as_lava_writes(rule)), **given)
    places = [place for file in files for place in (file, file.with_suffix(".out.npz"))]
    program = Path(__file__).with_name("learning_in_lava.py")
    subprocess.run([python, program, *places], check=True, timeout=200)
    for file, rule in zip(files, RULES.values(), strict=True):
        engine = LearningEngine(rule, given["weights"], seed=11)
        with np.load(file.with_suffix(".out.npz")) as expected:
            found = {name: expected[name] for name in ("traces", "w", "d", "t")}
        for step in range(60):
            engine.step(*(given[name][step] for name in ("pre", "post", "sent")))
            for name, values in (("traces", engine.traces), *engine.variables.items()):
                assert np.array_equal(values, found[name][step]), (file.stem, name, step)
        assert len(np.unique(engine.variables["w"])) > 5


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


def test_a_rule_as_products_moves_a_weight_as_its_curve_does():
    """One spike of a neuron whose only synapse has just seen one, at several weights."""
    unit = 1.0 / 256
    for weight in (-100, 0, 60):
        engine = LearningEngine(learning_rule(RULE), np.array([[weight]]), seed=0)
        moved = []
        for _ in range(300):
            engine.variables["w"][:] = weight
            engine.traces[:] = 0
            engine.step([True], [True], [[8], [0], [0]])
            moved.append(engine.variables["w"][0, 0] - weight)
        slope = ((0.6 - weight * unit) / 1.6) ** 2
        assert np.mean(moved) == pytest.approx(-0.5 / unit * slope, rel=0.15)
    marked = LearningEngine(learning_rule(RULE), np.array([[0]]), seed=0)
    marked.step([True], [True], [[0], [0], [0]])
    assert (marked.variables["w"][0, 0], marked.variables["t"][0, 0]) == (0, 127)
    marked.step([False], [False], [[0], [8], [0]])
    assert marked.variables["w"][0, 0] == pytest.approx(0.5 / unit * (0.6 / 1.6) ** 2, rel=0.15)


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
