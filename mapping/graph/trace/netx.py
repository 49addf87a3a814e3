"""A network in Lava-DL's exchange format, ``network.net``, as a graph of its integers.

The file holds what Lava's chip arithmetic takes: mantissas of weights, biases and thresholds, and
decays of ``2**-12``. The graph has the mantissas as floats, and each neuron keeps its threshold's:
in these units the float network is the chip's with exact decays, and mapping it quantises nothing
(:func:`mapping.integers.rounding.kept`).

What the file leaves open is an argument. Source: lava-nc/lava-dl at d825ac5,
``src/lava/lib/dl/netx/hdf5.py``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from has8 import values
from has8.encoders import DuplicateEncoder
from has8.errors import BadInput, CheckpointError
from has8.reading import regular_file
from has8.values import value, whole
from mapping.graph.ir import Graph, Node, Signal
from mapping.graph.trace.build import Builder, Coding
from mapping.graph.verify import verify_graph

NetxReadout = Literal["count", "spikes", "membrane_last"]
"""What a network answers: spikes in all, or of each step, or its last neurons' membranes."""
DECAY = 1 << 12
LARGEST_THRESHOLD = (1 << 17) - 1
"""The largest that a chip has, which networks give to neurons that are read by their membranes."""
MAGIC = b"\x89HDF\r\n\x1a\n"


def read_netx(
    path: str | Path,
    *,
    steps: int | None = None,
    delay: int = 1,
    clear_every: int = 0,
    clear_at: int = 0,
    coding: Coding = "spikes",
    seed: int = 0,
    readout: NetxReadout | None = None,
) -> Graph:
    """Read a network that Lava-DL exported, to be mapped as it is.

    An input layer takes values x in [0, 1], ``[N, C, H, W]``: the host writes the nearest of
    ``2 weight x - weight + bias`` into the biases of its neurons. Without one the network takes
    spikes.

    Args:
        path: of the file.
        steps: of a sample; None takes the file's ``tSample``, if it has one.
        delay: steps that spikes take from layer to layer. With 1 all layers live in the same step,
            as in Lava; with 0 each has its own first step, when the first spikes arrive.
        clear_every: clears the state of layer k in front of each step ``clear_at + k`` of a sample,
            k counted from 0 with the input layer, and of each so many steps before and after; 0
            does not. It is Lava-DL's ``reset_interval``, whose steps are counted from 1: there
            layer k is cleared at step k, which is ``clear_at=clear_every - 1``.
        clear_at: below ``clear_every``.
        coding: of the input of a network without input layer.
        seed: of the draws of "rate".
        readout: None counts the spikes of the last layer, or reads its membranes after the last
            step where its threshold is the largest there is.

    Returns:
        The graph, for :func:`mapping.map_model` and :func:`mapping.save_model`.

    Raises:
        CheckpointError: if the file is missing, damaged, or holds what has8 does not take.
        BadInput: if an argument is out of range, or the file leaves open what none of them tells.
    """
    path = values.path(path, "a network of Lava-DL")
    coding, seed = value(coding, Coding, "coding"), whole(seed, "seed", 0)
    readout = None if readout is None else value(readout, NetxReadout, "readout")
    delay, clear_every = whole(delay, "delay", 0), whole(clear_every, "clear_every", 0)
    clear_at = whole(clear_at, "clear_at", 0)
    if clear_at >= max(clear_every, 1):
        raise BadInput(f"clear_at must be below clear_every, {clear_every}, and is {clear_at}")
    if steps is not None:
        steps = whole(steps, "steps", 1)
    layers, sampled = _read(path)
    steps = sampled if steps is None else steps
    if steps is None:
        raise BadInput(f"{path} does not say how many steps a sample has: pass steps")
    reader = _Reader(Builder(steps), delay, clear_every, clear_at)
    try:
        graph = reader.graph(layers, coding, seed, readout)
        verify_graph(graph)
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"is not sound: {error}"
        raise CheckpointError(f"the network in {path} {what}") from None
    return graph


def is_hdf5(path: str | Path) -> bool:
    """Whether a file is of the container that such networks come in."""
    with regular_file(path) as file:
        return file.read(len(MAGIC)) == MAGIC


Layer = Mapping[str, Any]
"""A layer's data by name: arrays, words, and the neuron's under "neuron"."""


def _read(path: Path) -> tuple[list[Layer], int | None]:
    """The layers in order, and the steps of a sample if they are known."""
    try:
        h5py = importlib.import_module("h5py")
    except ImportError:
        raise BadInput(f"reading {path} needs h5py: run `pip install 'has8[files]'`") from None
    with regular_file(path) as file:
        try:
            with h5py.File(file, "r") as content:
                group = content["layer"]
                layers = [_plain(h5py, group[str(place)]) for place in range(len(group))]
                sampled = content.get("simulation/tSample")
                return layers, None if sampled is None else int(sampled[()])
        except Exception as error:  # a broken file can raise anything
            raise CheckpointError(
                f"{path} is no network of Lava-DL or is damaged ({type(error).__name__}): "
                f"export it with export_hdf5"
            ) from None


def _plain(h5py: Any, group: Any) -> Layer:
    """A group as arrays and words."""
    plain: dict[str, Any] = {}
    for name, item in group.items():
        if isinstance(item, h5py.Group):
            plain[name] = _plain(h5py, item)
            continue
        if item.nbytes > item.file.id.get_filesize():
            raise ValueError("an array says that it is larger than the file")
        data = np.asarray(item[()])
        if data.dtype.kind in "SO":
            word = data.reshape(-1)[0]
            plain[name] = word.decode() if isinstance(word, bytes) else str(word)
        else:
            plain[name] = data
    return plain


@dataclass
class _Reader:
    """Makes nodes of layers.

    Args:
        made: the nodes in the making.
        delay: from layer to layer.
        clear_every, clear_at: see :func:`read_netx`.
    """

    made: Builder
    delay: int
    clear_every: int
    clear_at: int

    def graph(
        self, layers: list[Layer], coding: Coding, seed: int, readout: NetxReadout | None
    ) -> Graph:
        """All layers, what feeds the first and what reads the last."""
        kept = [layer for layer in layers if layer["type"] != "flatten"]
        if not kept:
            raise ValueError("it has no layer")
        if kept[0]["type"] == "input":
            source = self._input(kept[0])
        else:
            source = self._spikes(kept[0], coding, seed)
        *hidden, last = list(enumerate(kept))
        for place, layer in hidden:
            if place or layer["type"] != "input":
                source = self._layer(source, place, layer, place > 0)
        if readout is None:
            blocked = _whole(last[1]["neuron"], "vThMant") == LARGEST_THRESHOLD
            readout = "membrane_last" if blocked else "count"
        return self.made.graph(self._read_out(source, *last, readout))

    def _input(self, layer: Layer) -> Node:
        """The neurons of an input layer, driven by biases."""
        shape = tuple(int(size) for size in layer["shape"])
        if len(shape) not in (1, 3):
            raise ValueError(f"its input layer has the shape {shape}")
        weight, bias = (
            float(_one(layer, name, start)) for name, start in (("weight", 64), ("bias", 0))
        )
        self.made.add("input", "input", (), signal=Signal(shape))
        channels = shape[0]
        mantissas = self.made.add(
            "layer.0.mantissas",
            "one_to_one",
            ("input",),
            tensors={
                "weight": torch.full((channels,), 2 * weight),
                "bias": torch.full((channels,), bias - weight),
            },
        )
        largest = max(abs(bias - weight), abs(bias + weight))
        attrs = {"coding": DuplicateEncoder.coding, "steps": self.made.steps, "largest": largest}
        written = self.made.add("layer.0.biases", "encode", (mantissas.name,), attrs=attrs)
        return self.made.add(
            "layer.0", "neuron", (written.name,), attrs=self._neuron(0, layer, True)
        )

    def _spikes(self, layer: Layer, coding: Coding, seed: int) -> Node:
        """The input of a network whose first layer takes spikes."""
        if "inShape" in layer:  # of mapping.write_netx
            shape = tuple(int(size) for size in layer["inShape"])
        elif layer["type"] == "dense":
            shape = (_whole(layer, "inFeatures"),)
        else:
            raise ValueError(f"its first layer, {layer['type']!r}, does not say what it takes")
        return self.made.input("input", shape, coding, seed)

    def _layer(self, source: Node, place: int, layer: Layer, late: bool) -> Node:
        """A layer's neurons, behind the synapses from ``source``."""
        current, attrs = self._current(source, place, layer, late)
        return self.made.add(f"layer.{place}", "neuron", (current.name,), attrs=attrs)

    def _current(
        self, source: Node, place: int, layer: Layer, late: bool
    ) -> tuple[Node, Mapping[str, Any]]:
        """What drives a layer's neurons, and their attributes."""
        if "delay" in layer:
            raise ValueError(f"layer {place} has delays of its own, which has8 does not read")
        if late and self.delay:
            late_by = {"steps": self.delay}
            source = self.made.add(f"layer.{place}.delay", "delay", (source.name,), attrs=late_by)
        if layer["type"] == "conv":
            op, weight, attrs = _conv(layer)
        elif layer["type"] == "dense":
            op, weight, attrs = _dense(layer)
        else:
            known = "input, conv, dense, flatten"
            raise ValueError(f"layer {place} is of type {layer['type']!r}, and has8 reads {known}")
        tensors = {"weight": weight}
        biases = _numbers(layer.get("bias", np.zeros(1)), "biases")
        if bool(biases.any()):
            tensors["bias"] = biases.reshape(-1).expand(len(weight)).contiguous()
        name = f"layer.{place}.synapses"
        current = self.made.add(name, op, (source.name,), attrs=attrs, tensors=tensors)
        said = int(np.prod(layer["shape"]))
        if current.type.size != said:
            raise ValueError(f"layer {place} makes {current.type.size} neurons, and says {said}")
        return current, self._neuron(place, layer, "bias" in tensors)

    def _neuron(self, place: int, layer: Layer, biased: bool) -> Mapping[str, Any]:
        """The attributes of a layer's neurons."""
        neuron = layer["neuron"]
        kind = neuron["type"]
        graded = bool(np.any(neuron.get("gradedSpike", False)))
        if kind not in ("LOIHI", "CUBA") or graded:
            what = "graded spikes" if graded else f"neurons of type {kind!r}"
            raise ValueError(f"layer {place} has {what}, and has8 reads binary LOIHI and CUBA")
        if _whole(neuron, "refDelay", 1) != 1 or _whole(neuron, "wgtExp", 0) != 0:
            raise ValueError(f"layer {place} has a refDelay other than 1 or a wgtExp other than 0")
        current, membrane = (_whole(neuron, name) for name in ("iDecay", "vDecay"))
        if not (1 <= current <= DECAY and 0 <= membrane < DECAY):
            raise ValueError(f"layer {place} has an iDecay or a vDecay that no chip holds")
        if biased and current < DECAY:
            raise ValueError(
                f"layer {place} adds biases to membranes whose currents last, which has8 cannot say"
            )
        threshold = _whole(neuron, "vThMant")
        if not 1 <= threshold <= LARGEST_THRESHOLD:
            raise ValueError(f"layer {place} has a threshold of {threshold}, which no chip holds")
        every = self.clear_every
        return {
            "model": "lif",
            "alpha": 1 - current / DECAY,
            "beta": 1 - membrane / DECAY,
            "threshold": float(threshold),
            "gain": 1.0,
            "reset": "zero",
            "refractory": 0,
            "mantissa": threshold,
            **(
                {"clear_every": every, "clear_at": (self.clear_at + place) % every} if every else {}
            ),
        }

    def _read_out(self, source: Node, place: int, layer: Layer, readout: NetxReadout) -> Node:
        """The last layer and what the network answers."""
        current, attrs = self._current(source, place, layer, place > 0)
        if readout == "membrane_last":
            if attrs["mantissa"] != LARGEST_THRESHOLD:
                raise ValueError("spikes clear the membranes of its last layer: count the spikes")
            attrs = {**attrs, "reset": "none"}
        neurons = self.made.add(f"layer.{place}", "neuron", (current.name,), attrs=attrs)
        if readout == "membrane_last":
            inputs = (current.name, neurons.name)
            return self.made.add("answer", "last_membrane", inputs, attrs)
        return self.made.summed(neurons) if readout == "count" else neurons


def _conv(layer: Layer) -> tuple[str, Tensor, Mapping[str, Any]]:
    """Kind, weight ``[O, I, y, x]`` and attributes of a convolution."""
    weight = _numbers(layer["weight"], "weights")
    attrs = {
        name: [int(size) for size in layer[name]] for name in ("stride", "padding", "dilation")
    }
    flat = weight.reshape(weight.shape[:4])
    return "conv2d", flat, {**attrs, "groups": _whole(layer, "groups", 1)}


def _dense(layer: Layer) -> tuple[str, Tensor, Mapping[str, Any]]:
    """Kind, weight ``[O, I]`` and attributes of a linear layer; inputs are in C, H, W order."""
    weight = _numbers(layer["weight"], "weights")
    return "linear", weight.reshape(int(np.prod(layer["shape"])), -1), {}


def _numbers(array: NDArray[Any], what: str) -> Tensor:
    """Whole numbers as float32."""
    held = torch.from_numpy(np.asarray(array, np.float64).copy())
    if not bool((held == held.round()).all()) or bool((held.abs() >= 1 << 24).any()):
        raise ValueError(f"its {what} are not whole numbers that a chip holds")
    return held.float()


def _one(layer: Layer, name: str, default: int | None = None) -> Any:
    """One number of a layer, which may be kept as an array of one."""
    if name not in layer and default is not None:
        return default
    (number,) = np.asarray(layer[name]).reshape(-1).tolist()
    return number


def _whole(layer: Layer, name: str, default: int | None = None) -> int:
    number = _one(layer, name, default)
    if number != int(number):
        raise ValueError(f"its {name} is {number}, and must be whole")
    return int(number)
