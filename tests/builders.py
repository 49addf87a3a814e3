"""Small chip segments by hand, and small models, for every test that needs one."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from itertools import product
from math import prod
from typing import Any

import numpy as np
import snntorch as snn
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import nn

from has8 import calibrate, create_model
from has8.blocks import OverTime
from has8.encoders import BitPlaneEncoder, Decoder, PhaseEncoder, bitplane_weights
from has8.models import MODELS
from has8.neurons import Leaky
from mapping import map_model
from mapping.chip.grid import weight_grid
from mapping.chip.neurons import Lif
from mapping.chip.segment import ChipSegment, Population, Port, Synapse
from mapping.chip.wiring import Axis, Wiring, dense, shape3
from mapping.integers.rounding import FloatLayer
from mapping.targets.schema import Registers, load_target

LOIHI = load_target("loihi")

Pair = int | Sequence[int]


def pair(value: Pair) -> tuple[int, int]:
    """One number for both axes, or one for each."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def window(
    in_shape: Sequence[int],
    weight_shape: Sequence[int],
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    spread: Pair = 1,
    extra: Pair = 0,
) -> Wiring:
    """The wiring of a convolution with weights ``[out, in / groups, kH, kW]``."""
    channels, *extents = shape3(in_shape)
    rows, cols = (
        Axis(
            weight_shape[2 + a],
            pair(stride)[a],
            pair(padding)[a],
            pair(dilation)[a],
            extents[a],
            pair(spread)[a],
            pair(extra)[a],
        )
        for a in (0, 1)
    )
    return Wiring(rows, cols, channels, weight_shape[0], groups)


def conv(
    name: str,
    source: str,
    in_shape: Sequence[int],
    weight: np.ndarray,
    *,
    exp: int = 0,
    sign_mode: str = "mixed",
    bits: int = 8,
    delay: int = 0,
    **attrs: Any,
) -> Synapse:
    """A convolution; ``attrs`` are those of :func:`window`."""
    wires = window(in_shape, weight.shape, **attrs)
    return Synapse(name, source, wires, weight.astype(np.int64), exp, sign_mode, bits, delay)


def linear(
    name: str,
    source: str,
    in_shape: Sequence[int],
    weight: np.ndarray,
    *,
    exp: int = 0,
    sign_mode: str = "mixed",
    bits: int = 8,
    delay: int = 0,
) -> Synapse:
    """All to all, by weights ``[out, in]`` with the source in C order."""
    wires = dense(len(weight), in_shape)
    weight = weight.astype(np.int64).reshape(wires.weight_shape)
    return Synapse(name, source, wires, weight, exp, sign_mode, bits, delay)


def feed(source: str, weight: Sequence[Sequence[int]], **options: Any) -> Synapse:
    """All to all from a flat source, by weights ``[out, in]``; named after its source."""
    matrix = np.array(weight)
    return linear(f"from {source}", source, matrix.shape[1:], matrix, **options)


def lif(
    shape: Sequence[int],
    *,
    threshold: Any = 1,
    bias: Any = 0,
    bias_exp: Any = 0,
    du: Any = 4095,
    dv: Any = 0,
) -> Lif:
    """Neurons; a list of as many constants as there are channels is one for each of these."""

    def constant(value: Any) -> np.ndarray:
        array = np.array(value, np.int64)
        return array if array.ndim != 1 else array.reshape(-1, *(1,) * (len(shape) - 1))

    return Lif(*map(constant, (du, dv, threshold, bias, bias_exp)))


def float_neurons(beta: Any, alpha: Any = 0.0, **rules: Any) -> FloatLayer:
    """A float layer that is nothing but its neurons."""
    rules = {"reset": "zero", "refractory": 0, "steps": 8, **rules}
    constants = (np.asarray(value, np.float64) for value in (alpha, beta))
    return FloatLayer((), (), (), torch.zeros(0), *constants, **rules)


def population(name: str, shape: Sequence[int], *synapses: Synapse, **constants: Any) -> Population:
    """A population of :func:`lif` neurons."""
    return Population(name, tuple(shape), synapses, lif(shape, **constants))


def with_constants(layer: Population, **constants: Any) -> Population:
    """The same population with some constants of its neurons replaced."""
    return replace(layer, neuron=replace(layer.neuron, **constants))  # type: ignore[type-var]


def segment(
    *populations: Population,
    inputs: dict[str, Sequence[int]],
    outputs: Sequence[str] | None = None,
    steps: int = 4,
    name: str = "segment",
) -> ChipSegment:
    """A segment; without ``outputs`` all populations are."""
    ports = tuple(Port(port, tuple(shape)) for port, shape in inputs.items())
    sent = tuple(layer.name for layer in populations) if outputs is None else tuple(outputs)
    return ChipSegment(name, steps, ports, populations, sent)


def random_inputs(
    chip: ChipSegment, samples: int, seed: int = 0, rate: float = 0.5
) -> dict[str, torch.Tensor]:
    """Spikes of every port, ``bool[T, B, *shape]``."""
    rng = np.random.default_rng(seed)
    return {
        port.name: torch.from_numpy(rng.random((chip.steps, samples, *port.shape)) < rate)
        for port in chip.inputs
    }


def registers(**changed: Any) -> Registers:
    """Loihi's arithmetic with some registers changed."""
    import msgspec

    return msgspec.structs.replace(LOIHI.registers, **changed)


def gridded(rng: np.random.Generator, shape: Sequence[int], sign_mode: str = "mixed") -> np.ndarray:
    """Random weights of 8 bits on Loihi's grid."""
    low, high, step = weight_grid(LOIHI.registers, 8, sign_mode)
    return rng.integers(low // step, high // step + 1, tuple(shape)) * step


def fields(item: Any) -> dict[str, Any]:
    """The fields of a frozen value by name."""
    return {name: getattr(item, name) for name in item.__slots__}


def shown(run: Any) -> dict[str, Any]:
    """Everything that a run of a segment tells, as lists, to compare with ``==``."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return (str(value.dtype), value.tolist()) if hasattr(value, "tolist") else value

    told = {name: plain(dict(getattr(run, name))) for name in ("spikes", "updated", "membranes")}
    told["overflows"] = dict(run.overflows)
    if run.state is not None:
        told["registers"] = plain({k: dict(v) for k, v in run.state.registers.items()})
        told["past"] = plain(dict(run.state.past))
    return told


# ------------------------------------------------------------------ the obvious, in plain loops

Place = tuple[int, int, int]


@lru_cache(maxsize=256)
def single_synapses(wires: Wiring) -> tuple[tuple[Place, Place, tuple[int, int, int, int]], ...]:
    """Every single synapse: where it comes from, where it goes, which weight it has."""
    per_in, per_out = wires.channels_in // wires.groups, wires.channels_out // wires.groups
    found = []
    places = product(np.ndindex(*wires.out_shape), np.ndindex(*wires.weight_shape[1:]))
    for (o, *at), (c, *tap) in places:
        source = []
        for axis, output, k in zip((wires.rows, wires.cols), at, tap, strict=True):
            y, between = divmod(
                output * axis.stride + k * axis.dilation - axis.padding, axis.spread
            )
            source.append(y if not between and 0 <= y < axis.size_in else -1)
        if min(source) >= 0:
            origin = (o // per_out * per_in + c, source[0], source[1])
            found.append((origin, (o, at[0], at[1]), (o, c, tap[0], tap[1])))
    return tuple(found)


def small_mapping():
    """A small model with random weights as it is mapped, and the images that it was scaled by."""
    torch.manual_seed(0)
    model = create_model("has8_vgg", num_classes=10, in_channels=1, base=4, depth=1, head=(16,))
    images = torch.rand(8, 1, 8, 8)
    return map_model(model, calibration=images), images


# ----------------------------------------------------------------------------------- at random

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""For what is drawn here: a busy machine takes its time."""


def law(examples):
    """Settings of a law that a run tries on so many examples, times ``HAS8_LAWS``."""
    return settings(PATIENT, max_examples=times_laws(examples))


def times_laws(examples):
    """So many, or more before a release: ``HAS8_LAWS=10``."""
    return max(5, round(examples * float(os.environ.get("HAS8_LAWS", "1"))))


KINDS = st.sampled_from(["dense", "window", "window", "spread"])
SEEDS = st.integers(0, 2**32 - 1)


@lru_cache(maxsize=64)
def axes(kind: str, extent: int) -> st.SearchStrategy[Axis]:
    """The axes of windows over so many pixels of which 1 to 7 come out, the plainest first."""
    paddings, spreads, extras = (range(3), (1,), (0,))
    if kind == "spread":
        paddings, spreads, extras = ((0, 1, 2, 3, -1), range(1, 4), range(3))
    every = product(range(1, 4), range(1, 3), paddings, range(1, 3), spreads, extras)
    made = (Axis(*of[:4], extent, *of[4:]) for of in every)
    return st.sampled_from([axis for axis in made if 1 <= axis.size_out <= 7])


@st.composite
def wirings(draw: st.DrawFn, shape: Sequence[int]) -> Wiring:
    """The wiring of a dense layer, a convolution, or one whose source is spread out."""
    kind = draw(KINDS)
    if kind == "dense":
        return dense(draw(st.integers(1, 5)), shape)
    channels, *extents = shape3(shape)
    groups = draw(st.sampled_from([g for g in (1, 1, 2, 3) if channels % g == 0]))
    rows, cols = (draw(axes(kind, extent)) for extent in extents)
    return Wiring(rows, cols, channels, groups * draw(st.integers(1, 3)), groups)


def out_shape(wires: Wiring) -> tuple[int, ...]:
    """The shape of a population behind a wiring: that of a dense layer is flat."""
    return wires.out_shape[:1] if wires.full else wires.out_shape


def wired(
    name: str, source: str, wires: Wiring, rng: np.random.Generator, exp: int = 0, delay: int = 0
) -> Synapse:
    """A synapse of random mixed weights."""
    weight = gridded(rng, wires.weight_shape)
    return Synapse(name, source, wires, weight, exp, "mixed", 8, delay)


HOLDERS = st.sampled_from(["one", "channel", "neuron"])
"""What has a constant of its own."""


@st.composite
def lifs(draw: st.DrawFn, shape: Sequence[int], du: Sequence[int] = (0, 1000, 4095)) -> Lif:
    """Neurons whose constants are each one value, one a channel or one a neuron."""
    rng = np.random.default_rng(draw(SEEDS))
    parts = {"one": (), "channel": (shape[0], *(1,) * (len(shape) - 1)), "neuron": tuple(shape)}

    def constant(values: Sequence[int]) -> np.ndarray:
        return np.array(rng.choice(np.array(values), parts[draw(HOLDERS)]), np.int64)

    return Lif(
        du=constant(du),
        dv=constant((0, 1, 2048, 4095)),
        threshold=constant((0, 300, 20_000, 131_071)),
        bias=constant((0, 0, -4095, 77, 4095)),
        bias_exp=constant((0, 3, 7)),
    )


def _between(draw: st.DrawFn, source: Sequence[int], target: Sequence[int]) -> Wiring | None:
    """A wiring from one shape to another; None where there is no obvious one."""
    if len(target) == 1:
        return dense(target[0], source)
    if shape3(source)[1:] != tuple(target[1:]):
        return None
    kernel = 3 if draw(st.booleans()) else 1
    weight_shape = (target[0], source[0], kernel, kernel)
    return window(source, weight_shape, padding=kernel // 2)


@st.composite
def reshaped(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape, or another of as many elements over which windows have outputs enough."""
    size = prod(shape)
    ways = [(n,) for n in range(1, 8) if size % n == 0]
    ways += [(n, m) for (n,) in ways for m in range(1, 8) if size // n % m == 0]
    others = [(size // prod(extents), *extents) for extents in ways]
    return draw(st.sampled_from([shape, (size,), *others]))


@st.composite
def networks(
    draw: st.DrawFn,
    *,
    delays: int = 0,
    loops: bool = False,
    exps: tuple[int, int] = (0, 5),
    du: Sequence[int] = (0, 1000, 4095),
) -> ChipSegment:
    """Up to four populations, listed in any order, with shortcuts and two ports.

    Args:
        delays: the longest delay of synapses that go forward.
        loops: whether there is a loop at least, through delays of 1 to 3 steps.
        exps: the range of weight exponents.
        du: current decays to choose from.
    """
    rng = np.random.default_rng(draw(SEEDS))
    shapes: dict[str, tuple[int, ...]] = {
        "x": (draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 4))),
        "y": (draw(st.integers(1, 4)),),
    }
    feeds: dict[str, list[Synapse]] = {}

    def add(source: str, target: str, wires: Wiring, least: int, most: int) -> None:
        exp, delay = draw(st.integers(*exps)), draw(st.integers(least, most))
        name = f"{target}.{len(feeds[target])}"
        feeds[target].append(wired(name, source, wires, rng, exp, delay))

    for name in "abcd"[: draw(st.integers(1, 4))]:
        source = draw(st.sampled_from(["x", *feeds]))
        wires = draw(wirings(draw(reshaped(shapes[source]))))
        shapes[name], feeds[name] = out_shape(wires), []
        add(source, name, wires, 0, delays)
        for other in draw(st.lists(st.sampled_from(list(shapes)), max_size=1)):
            if other != name and (more := _between(draw, shapes[other], shapes[name])):
                add(other, name, more, 0, delays)
    names = list(feeds)
    if loops:  # a population that another one reaches, or the population itself, feeds it
        back = [(a, b) for b in names for a in names if _reaches(feeds, b, a)]
        for source, target in draw(st.lists(st.sampled_from(back), min_size=1, max_size=3)):
            wires = _between(draw, shapes[source], shapes[target])
            if wires is None:
                source, wires = target, _between(draw, shapes[target], shapes[target])
            assert wires is not None
            add(source, target, wires, 1, 3)
    layers = [
        Population(name, shapes[name], tuple(feeds[name]), draw(lifs(shapes[name], du)))
        for name in draw(st.permutations(names))
    ]
    outputs = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    inputs = {port: shapes[port] for port in ("x", "y")}
    return segment(*layers, inputs=inputs, outputs=outputs, steps=draw(st.integers(1, 5)))


def _reaches(feeds: dict[str, list[Synapse]], name: str, wanted: str) -> bool:
    """Whether the spikes of one population reach another one, or are its own."""
    reached, front = {name}, [name]
    while front:
        at = front.pop()
        front += [n for n in feeds if n not in reached and any(s.source == at for s in feeds[n])]
        reached |= set(front)
    return wanted in reached


# ------------------------------------------------------------------------------- whole models

IMAGE = (1, 8, 8)
"""The shape of the images that :func:`everything` takes."""


class Everything(nn.Module):
    """Every kind of layer that a graph can have; two segments of it go to the chip."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1), nn.LeakyReLU(), nn.AvgPool2d(2), nn.BatchNorm2d(2)
        )
        self.encode = BitPlaneEncoder()
        self.conv = OverTime(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3))
        self.up = OverTime(nn.ConvTranspose2d(3, 2, 2, stride=2), nn.BatchNorm2d(2))
        self.skip = OverTime(nn.ConvTranspose2d(2, 2, 2, stride=2))
        self.decode = Decoder(bitplane_weights("lsb"))
        self.behind = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1))
        self.again = PhaseEncoder(4)
        self.linear = OverTime(nn.Flatten(), nn.Linear(2, 5))
        self.count = Decoder((1.0,) * 4)
        self.classify = nn.Linear(5, 3)
        self.beside = nn.Linear(2, 3)
        self.one, self.two, self.three = (Leaky(threshold=v) for v in (0.3, 0.2, 0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        planes = self.encode(self.front(x))
        spikes = self.two(self.up(self.one(self.conv(planes))) + self.skip(planes))
        values = self.behind(self.decode(spikes))
        counts = self.count(self.three(self.linear(self.again(values))))
        return self.classify(counts) + self.beside(torch.flatten(values, 1))


def everything(seed: int = 0) -> nn.Module:
    """A small model of all kinds of layers, calibrated; see :class:`Everything`."""
    torch.manual_seed(seed)
    net = Everything().train()
    images = torch.rand(32, *IMAGE)
    net(images)  # for the running statistics
    return calibrate(net.eval(), images)


# ------------------------------------------------------------------------------- what is watched


@contextmanager
def memory_below(most: float) -> Iterator[None]:
    """Fail if the body takes more bytes than that at any moment, of what Python counts."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


# -------------------------------------------------------------------------------------- to train


class Dropping(nn.Sequential):
    """A model that draws random numbers while it trains."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Dropout(), nn.Linear(144, 2))
        self.config = {"name": "dropping", "num_classes": 2, "in_channels": 1}


@MODELS.register("dropping")
def _dropping(*, num_classes: int, in_channels: int) -> nn.Module:
    return Dropping()


BRANCHES = ("one", "two", "side", "last")
"""The layers of :class:`Branches`."""


def in_time(seg: ChipSegment) -> ChipSegment:
    """With four times the delays, so that each loop has as many steps as connections."""
    parts = [
        replace(p, synapses=tuple(replace(s, delay=4 * s.delay) for s in p.synapses))
        for p in seg.populations
    ]
    return replace(seg, populations=tuple(parts))


class Branches(nn.Module):
    """Layers behind each other and beside each other, whose integers are exactly its floats."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        for name, inputs in {"one": 6, "two": 5, "side": 5, "last": 5, "skip": 5}.items():
            layer = nn.Linear(inputs, 5, bias=False)
            layer.weight.data = torch.randint(-2, 3, (5, inputs)) / 2
            setattr(self, f"{name}_fc", layer)
        rule = {"beta": 1.0, "threshold": 1.25, "reset_mechanism": "zero"}
        self.neurons = nn.ModuleDict({name: snn.Leaky(**rule) for name in BRANCHES})

    def forward(self, x):
        membranes = {name: neuron.init_leaky() for name, neuron in self.neurons.items()}
        counted = []

        def fire(name, current):
            spikes, membranes[name] = self.neurons[name](current, membranes[name])
            return spikes

        for step in x:
            first = fire("one", self.one_fc(step))
            second, beside = fire("two", self.two_fc(first)), fire("side", self.side_fc(first))
            counted.append(fire("last", self.last_fc(second + beside) + self.skip_fc(first)))
        return torch.stack(counted).sum(0)


BRANCHES_IN = (torch.rand(7, 8, 6, generator=torch.Generator().manual_seed(0)) < 0.5).float()
"""What :class:`Branches` takes."""
