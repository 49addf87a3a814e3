"""Lava against the reference, over every spike of small segments that hold everything."""

from __future__ import annotations

import importlib.util
import platform
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from math import prod
from types import SimpleNamespace

import builders
import msgspec
import numpy as np
import pytest
import snntorch as snn
import torch
from builders import gridded, linear, networks, random_inputs
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn

import has8
from has8.errors import BackendError
from hwsim import simulate
from hwsim.backends.lava.backend import Lava
from hwsim.backends.lava.interpreter import lava_python
from hwsim.backends.protocol import SegmentRun
from hwsim.backends.reference import Reference
from mapping import map_model
from mapping.chip.segment import ChipSegment, Population, Port, Synapse

LOIHI = builders.LOIHI.registers
MISSING = Lava().unavailable()
RUNS = settings(
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
"""For laws whose examples take seconds each."""
needs_lava = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


class Maker:
    """Random synapses and populations; it knows the shapes of ports, and of layers it has made."""

    def __init__(self, seed: int, **ports: tuple[int, ...]) -> None:
        self.rng = np.random.default_rng(seed)
        self.ports, self.shapes = ports, dict(ports)

    def conv(
        self,
        source: str,
        shape: tuple[int, ...],
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        exp: int = 0,
        sign_mode: str = "mixed",
        **spread: tuple[int, int],
    ) -> Synapse:
        return builders.conv(
            f"on {source}",
            source,
            self.shapes[source],
            gridded(self.rng, shape, sign_mode),
            exp=exp,
            sign_mode=sign_mode,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            **spread,
        )

    def linear(
        self, source: str, shape: tuple[int, int], exp: int = 0, sign_mode: str = "mixed"
    ) -> Synapse:
        weight, size = gridded(self.rng, shape, sign_mode), (prod(self.shapes[source]),)
        in_shape = self.shapes[source] if len(self.shapes[source]) == 3 else size
        name = f"on {source}"
        return builders.linear(name, source, in_shape, weight, exp=exp, sign_mode=sign_mode)

    def layer(
        self,
        name: str,
        shape: tuple[int, ...],
        *synapses: Synapse,
        threshold: int | tuple[int, int] = 300,
        bias: int = 2000,
        bias_exp: int = 2,
        du: int = 4095,
        dv: int = 2048,
    ) -> Population:
        """A threshold for all channels, or a range, from which each has its own."""
        biases = self.rng.integers(-bias, 2 * bias + 1, shape[0]).clip(-4095, 4095)
        if isinstance(threshold, int):
            thresholds = np.full(shape[0], threshold)
        else:
            thresholds = self.rng.permutation(np.linspace(*threshold, shape[0]).astype(np.int64))
        self.shapes[name] = shape
        return builders.population(
            name,
            shape,
            *synapses,
            threshold=thresholds,
            bias=biases,
            bias_exp=bias_exp,
            du=du,
            dv=dv,
        )


def everything(make: Maker) -> ChipSegment:
    """Not square anywhere, so that no two axes can be confused."""
    x, y = make.shapes["x"], make.shapes["y"]
    conv, linear, layer = make.conv, make.linear, make.layer
    quarter = replace(linear("y", (2, 6), exp=7), weight=np.full((2, 6, 1, 1), -256))
    populations = (
        layer("conv", (4, 3, 7), conv("x", (4, 3, 3, 2), (2, 1), (1, 1), (1, 2))),
        layer(
            "grouped",
            (6, 2, 5),
            conv("conv", (6, 2, 2, 3), groups=2, sign_mode="excitatory"),
            threshold=(100, 2000),
        ),
        layer(
            "flat",
            (5,),
            linear("grouped", (5, 60), exp=1),
            threshold=(0, 1000),
            bias_exp=0,
            du=1000,
        ),
        layer("unflat", (2, 2, 3), linear("conv", (12, 84)), threshold=(500, 2500), dv=100),
        # Paths of different lengths from the input and from layers, one of them twice.
        layer("main", (4, 3, 7), conv("conv", (4, 4, 3, 3), padding=(1, 1))),
        layer(
            "sum",
            (4, 3, 7),
            conv("main", (4, 4, 1, 1)),
            conv("x", (4, 3, 2, 1), stride=(2, 1)),
            conv("conv", (4, 1, 1, 3), padding=(0, 1), groups=4),
            conv("conv", (4, 4, 1, 1), sign_mode="inhibitory"),
        ),
        layer("late", (5,), linear("sum", (5, 84)), linear("conv", (5, 84)), linear("x", (5, 126))),
        # A chip stores these as well, but Lava's Conv does not: exponents below 0, many groups.
        layer("fine", (2, 4, 6), conv("x", (2, 3, 3, 2), exp=-2), threshold=100, bias_exp=0),
        layer("finer", (3,), linear("fine", (3, 48), exp=-3), threshold=20, bias_exp=-3),
        layer("wide", (130, 2, 1), linear("y", (260, 6), exp=0)),
        layer("deep", (130, 1, 1), conv("wide", (130, 1, 2, 1), groups=130)),
        # Currents that wrap, and bring the membrane where it is clipped.
        layer("wraps", (3, 4, 6), conv("x", (3, 3, 3, 2), exp=7, sign_mode="excitatory")),
        layer("clips", (3, 4, 6), conv("x", (3, 3, 3, 2), exp=7, sign_mode="excitatory"), dv=0),
        # Fires only where four spikes make exactly -2**23, which becomes +2**23.
        layer("edge", (2,), quarter, threshold=131_071, bias=0, dv=4096),
        layer("alone", (9, 2, 2), threshold=20_000, bias=2000, bias_exp=7, dv=0),
    )
    return ChipSegment("all", 5, (Port("x", x), Port("y", y)), populations, ("late",))


def check_equal(segment: ChipSegment, samples: int) -> SegmentRun:
    inputs = random_inputs(segment, samples, seed=1)
    want = Reference().compile(segment, LOIHI)(inputs)
    got = Lava().compile(segment, LOIHI)(inputs)
    assert list(got.spikes) == list(want.spikes)
    for name, spikes in want.spikes.items():
        assert spikes.any() and not spikes.all(), f"{name} would prove nothing"
        assert got.spikes[name].dtype == torch.bool
        assert torch.equal(got.spikes[name], spikes), name
    return want


@needs_lava
def test_equals_the_reference():
    want = check_equal(everything(Maker(0, x=(3, 6, 7), y=(2, 3))), samples=3)
    assert want.overflows["wraps"].u_wraps > 0
    assert want.overflows["clips"].v_clips > 0


@needs_lava
def test_one_step_samples_do_not_touch_each_other():
    """With one step to a sample, every step must start from cleared state."""
    make = Maker(0, x=(6,))
    first = make.layer("a", (4,), make.linear("x", (4, 6)), du=0, dv=0)
    segment = ChipSegment("s", 1, (Port("x", (6,)),), (first,), ("a",))
    check_equal(segment, samples=40)


@needs_lava
def test_constants_of_each_neuron_and_sources_that_are_spread_out():
    """In an order in which nothing could run, which means nothing; and where no spike arrives."""
    make = Maker(0, x=(3, 4, 5), y=(7,))
    conv, layer, rng = make.conv, make.layer, make.rng
    up = {"padding": (1, 2), "spread": (2, 3), "extra": (1, 0)}
    own = {
        "threshold": rng.integers(0, 3000, (4, 8, 14)),
        "bias": rng.integers(-300, 600, (4, 8, 14)),
        "du": np.arange(500, 4096, 1000).reshape(4, 1, 1),
        "dv": np.arange(448).reshape(4, 8, 14) * 9,
    }
    populations = [
        builders.with_constants(layer("up", (4, 8, 14), conv("x", (4, 3, 3, 4), **up)), **own),
        layer("cut", (2, 2, 3), conv("x", (2, 3, 1, 1), padding=(-1, -1))),
        layer(
            "grouped",
            (6, 7, 13),
            conv("up", (6, 2, 2, 2), groups=2, exp=1),
            conv("x", (6, 3, 3, 3), dilation=(1, 2), padding=(1, 4), spread=(2, 2), exp=-2),
            threshold=(100, 2000),
        ),
        layer("flat", (3, 2, 1), conv("y", (3, 7, 2, 1), padding=(1, 0))),
        builders.with_constants(
            layer("lost", (2, 1, 1), conv("y", (2, 7, 1, 1), padding=(-2, -2), extra=(4, 4))),
            threshold=np.array(10),
            bias=np.array(100),
        ),
        layer("one", (1,), make.linear("y", (1, 7))),
    ]
    one = {name: np.array([value]) for name, value in {"du": 9, "dv": 99, "bias_exp": 1}.items()}
    populations[-1] = builders.with_constants(populations[-1], **one)
    chip = builders.segment(*reversed(populations), inputs=make.ports, steps=5)
    check_equal(chip, samples=3)


@needs_lava
@settings(RUNS, max_examples=3)
@given(chip=networks(exps=(-3, 0)))
def test_equals_the_reference_with_any_wiring(chip):
    """A run each takes seconds, so there are few."""

    def one_each(layer: Population) -> Population:
        constants = {n: getattr(layer.neuron, n).flat[0] for n in ("du", "dv", "bias_exp")}
        return builders.with_constants(layer, **{n: np.array(v) for n, v in constants.items()})

    chip = replace(chip, populations=tuple(map(one_each, chip.populations)))
    inputs = random_inputs(chip, 3)
    want = Reference().compile(chip, LOIHI)(inputs).spikes
    got = Lava().compile(chip, LOIHI)(inputs).spikes
    assert list(got) == list(want)
    for name, spikes in want.items():
        assert torch.equal(got[name], spikes), name


@needs_lava
def test_equals_the_reference_whatever_a_spike_does_to_the_membrane():
    """Resets that Lava lacks, currents that last, thresholds that differ, membranes that clip."""
    make = Maker(0, x=(3, 4, 6))
    rules = [("zero", 0), ("zero", 1), ("subtract", 0), ("none", 0), ("subtract_at_once", 0)]
    layers = []
    for place, (reset, refractory) in enumerate(rules):
        for du, dv, threshold in ((4095, 100, 900), (1000, 0, (100, 2000)), (300, 2048, 3000)):
            source = layers[-1].name if layers and du == 300 else "x"
            weights = (3, 3, 3, 3) if source == "x" else (3, 3, 1, 1)
            padding = (1, 1) if source == "x" else (0, 0)
            layer = make.layer(
                f"{place}.{du}",
                (3, 4, 6),
                make.conv(source, weights, padding=padding, exp=1 if du == 300 else 0),
                threshold=threshold,
                du=du,
                dv=dv,
            )
            layer = builders.with_constants(layer, reset=reset, refractory=refractory)
            layers.append(layer)
    clips = make.layer("clips", (3, 3, 5), make.conv("x", (3, 3, 2, 2), exp=7))
    layers.append(builders.with_constants(clips, reset="subtract", dv=np.array(0)))
    back = make.layer(  # silent below its threshold, it is given back more than it can hold
        "back", (3, 3, 5), make.conv("x", (3, 3, 2, 2), exp=7), threshold=120_000, dv=0
    )
    layers.append(builders.with_constants(back, reset="subtract_at_once"))
    segment = ChipSegment("all", 7, (Port("x", (3, 4, 6)),), tuple(layers), (layers[-1].name,))
    overflows = check_equal(segment, samples=3).overflows
    assert overflows["clips"].v_clips > 0 and overflows["back"].v_clips > 0


@needs_lava
def test_a_network_of_snntorchs_neurons_with_constants_of_each_and_biases_that_last():
    torch.manual_seed(0)
    each = {"init_hidden": True, "threshold": torch.rand(4, 1, 1) + 0.2}
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3),
        snn.Synaptic(torch.rand(4, 1, 1), torch.rand(4, 3, 3), **each),
        nn.Flatten(),
        nn.Linear(36, 10),
        snn.Leaky(torch.rand(10), init_hidden=True, threshold=0.3, reset_mechanism="zero"),
    )
    x = (torch.rand(6, 5, 2, 5, 5) < 0.5).float()
    mapped = map_model(
        has8.over_time(net, steps=6, readout="spikes", input="steps"),
        calibration=x,
        inputs="spikes",
    )
    slow, lava = (simulate(mapped, x, backend) for backend in ("reference", "lava"))
    assert torch.equal(slow.logits, lava.logits)
    assert 0.05 < slow.logits.mean() < 0.95


@needs_lava
@settings(RUNS, max_examples=2)
@given(seed=st.integers(0, 1 << 16), delays=st.lists(st.integers(0, 7), min_size=12, max_size=12))
def test_loops_and_delays_stay_in_their_samples(seed, delays):
    """Biases that fire by themselves; spikes under way when a sample ends, and none that are."""
    make, late = Maker(seed, x=(5,)), iter(delays)
    shapes = {"x": 5, "a": 4, "b": 3, "c": 4, "d": 4, "e": 2, "f": 2}
    least = {
        "a": {"x": 0, "a": 1},
        "b": {"x": 0, "c": 2},
        "c": {"b": 0, "a": 0, "c": 1},
        "d": {"c": 0, "d": 1},
        "e": {},
        "f": {"e": 0, "f": 1},
    }
    layers = []
    for name, sources in least.items():
        synapses = [
            replace(
                linear(f"{name}.{source}", source, (shapes[source],),
                       gridded(make.rng, (shapes[name], shapes[source])), exp=1),
                delay=max(shortest, next(late)),
            )
            for source, shortest in sources.items()
        ]  # fmt: skip
        bias = make.rng.integers(50, 250, shapes[name])
        layers.append(
            builders.population(
                name, (shapes[name],), *synapses, threshold=300, bias=bias, bias_exp=5, du=1000,
                dv=300,
            )
        )  # fmt: skip
    chip = builders.segment(*reversed(layers), inputs={"x": (5,)}, steps=6)
    inputs = random_inputs(chip, 4, seed)
    want = Reference().compile(chip, LOIHI)(inputs).spikes
    got = Lava().compile(chip, LOIHI)(inputs).spikes
    for name, spikes in want.items():
        assert torch.equal(got[name], spikes), name


# ------------------------------------------------------------------------------- failures


def small() -> ChipSegment:
    make = Maker(0, x=(2, 5, 5))
    layer = make.layer("a", (4, 5, 5), make.conv("x", (4, 2, 3, 3), padding=(1, 1)))
    return ChipSegment("small", 8, (Port("x", (2, 5, 5)),), (layer,), ("a",))


def with_synapses(segment: ChipSegment, *synapses: Synapse) -> ChipSegment:
    return replace(segment, populations=(replace(segment.populations[0], synapses=synapses),))


@needs_lava
def test_refuses_what_lava_would_do_otherwise():
    segment, make = small(), Maker(0, a=(4, 5, 5))
    synapse = segment.populations[0].synapses[0]
    with pytest.raises(BackendError, match="synapse_shift = 6 and the target 5"):
        Lava().compile(segment, msgspec.structs.replace(LOIHI, synapse_shift=5))
    layer = segment.populations[0]
    then = replace(make.layer("b", (4, 5, 5), make.conv("a", (4, 4, 1, 1))))
    back = replace(make.conv("b", (4, 4, 1, 1)), name="back", delay=1)
    quick = replace(layer, synapses=(synapse, back))
    with pytest.raises(BackendError, match="Lava cannot run it in time: synapse '.*' is part of a"):
        Lava().compile(replace(segment, populations=(quick, then)), LOIHI)
    several = builders.with_constants(layer, bias_exp=np.arange(4).reshape(4, 1, 1))
    with pytest.raises(BackendError, match="one bias_exp for all neurons, and 'a' has several"):
        Lava().compile(replace(segment, populations=(several,)), LOIHI)
    other = replace(layer, neuron=SimpleNamespace(model="adex"))
    with pytest.raises(BackendError, match="'a' is 'adex'"):
        Lava().compile(replace(segment, populations=(other,)), LOIHI)


@needs_lava
def test_refuses_currents_that_lava_would_wrap_wrongly():
    """3 * 2**23 is the first current that would have to wrap twice."""
    weight = np.full((4, 2, 3, 3), 128)
    largest = 18 * 128 << 7 << 6
    below = with_synapses(
        small(), replace(small().populations[0].synapses[0], weight=weight, weight_exp=7)
    )
    assert largest < 3 << 23
    Lava().compile(below, LOIHI)
    message = rf"current of {2 * largest:,}, .* only below {3 << 23:,}"
    with pytest.raises(BackendError, match=message):
        Lava().compile(with_synapses(below, *below.populations[0].synapses * 2), LOIHI)
    with pytest.raises(BackendError, match=rf"only below {1 << 23:,}"):
        Lava().compile(below, msgspec.structs.replace(LOIHI, keep_top=False))


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ((3, 10, 1), "Lava is not installed; run `pip install lava-nc==0.10.0`"),
        (
            (3, 12, 0),
            f"lava-nc 0.10.0 needs Python 3.10, but this is {platform.python_version()}; make a "
            "3.10 environment with `pip install lava-nc==0.10.0` and set HAS8_LAVA_PYTHON to its "
            "python",
        ),
    ],
)
def test_says_why_it_is_unavailable(monkeypatch, version, reason):
    monkeypatch.delenv("HAS8_LAVA_PYTHON", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "version_info", version)
    assert Lava().unavailable() == reason
    with pytest.raises(BackendError, match=re.escape(reason)):
        Lava().compile(small(), LOIHI)


def test_says_why_the_other_python_will_not_do(monkeypatch):
    monkeypatch.setenv("HAS8_LAVA_PYTHON", "/nowhere/python")
    reason = (
        "HAS8_LAVA_PYTHON is wrong: there is no program '/nowhere/python'; set it to the python "
        "of a 3.10 environment with `pip install lava-nc==0.10.0`"
    )
    assert Lava().unavailable() == reason
    with pytest.raises(BackendError, match=re.escape(reason)):
        Lava().compile(small(), LOIHI)


@needs_lava
def test_runs_in_the_python_that_is_named(monkeypatch, tmp_path):
    """As on newer Pythons; nothing of this one's may be seen there, though it is on the path."""
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit('of another Python')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    other = tmp_path / "python"
    log = tmp_path / "log"
    other.write_text(f'#!/bin/sh\necho "$1" >> "{log}"\nexec "{lava_python()}" "$@"\n')
    other.chmod(0o755)
    monkeypatch.setenv("HAS8_LAVA_PYTHON", str(other))
    monkeypatch.setattr(importlib.util, "find_spec", hide_lava(importlib.util.find_spec))
    check_equal(small(), samples=2)
    assert log.read_text().split() == ["-c", "-m"]  # asked once, then run


def hide_lava(find_spec):
    return lambda name, *rest: None if name == "lava" else find_spec(name, *rest)


@needs_lava
def test_weights_off_the_grid_are_not_altered_silently():
    make = Maker(0, x=(6,))
    odd = replace(make.linear("x", (4, 6)), weight=np.ones((4, 6, 1, 1), dtype=np.int64))
    segment = ChipSegment("s", 1, (Port("x", (6,)),), (make.layer("a", (4,), odd),), ("a",))
    with pytest.raises(BackendError, match="Lava would alter the mixed weights of on x"):
        Lava().compile(segment, LOIHI)(random_inputs(segment, 1))


@needs_lava
def test_a_layer_that_dies_within_lava_says_why():
    synapse = small().populations[0].synapses[0]
    wiring = replace(synapse.wiring, groups=3)  # which do not divide its channels
    broken = with_synapses(small(), replace(synapse, wiring=wiring))
    with pytest.raises(BackendError, match="run of segment 'small' ended with code 1: ValueError"):
        Lava().compile(broken, LOIHI)(random_inputs(broken, 1))


@needs_lava
def test_a_timeout_stops_all_of_lava(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # shows in its processes' arguments
    program = Lava(timeout_s=3).compile(small(), LOIHI)
    with pytest.raises(BackendError, match="took longer than 3 s and was stopped"):
        program(random_inputs(small(), 20_000))
    shown = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True)
    assert str(tmp_path) not in shown.stdout
    assert list(tmp_path.iterdir()) == []
