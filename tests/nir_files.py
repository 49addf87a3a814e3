"""Small networks in NIR, and NIR's equations in steps, written out once more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np
import torch
from torch.nn import functional as F


def lif(shape: Any, **constants: float) -> nir.LIF:
    values = {"tau": 4e-4, "r": 4.0, "v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0, **constants}
    return nir.LIF(**{name: np.full(shape, value) for name, value in values.items()})


def cuba(shape: Any, **constants: float) -> nir.CubaLIF:
    values = {"tau_syn": 2e-4, "tau_mem": 5e-4, "r": 5.0, "v_leak": 0.0, "v_threshold": 1.0}
    values |= {"v_reset": 0.0, "w_in": 2.0, **constants}
    return nir.CubaLIF(**{name: np.full(shape, value) for name, value in values.items()})


def graph(nodes: Mapping[str, Any], edges: str, **metadata: Any) -> nir.NIRGraph:
    """A graph of nodes and of edges such as "a b, b c"."""
    pairs = [tuple(edge.split()) for edge in edges.split(",")]
    return nir.NIRGraph(nodes=dict(nodes), edges=pairs, metadata=metadata)


def chain(*nodes: Any, **metadata: Any) -> nir.NIRGraph:
    """Nodes behind each other."""
    made = nir.NIRGraph.from_list(*nodes)
    made.metadata = metadata
    return made


def fully(sizes: Sequence[int], seed: int = 0) -> list[nir.Affine]:
    """Layers between vectors of such sizes."""
    rng = np.random.default_rng(seed)
    return [
        nir.Affine(
            weight=rng.normal(0.15, 0.6, (out, into)).astype(np.float32),
            bias=rng.normal(0, 0.1, out).astype(np.float32),
        )
        for into, out in pairwise(sizes)
    ]


def written(path: Path, content: Any) -> Path:
    nir.write(path, content)
    return path


def small(path: Path) -> Path:
    """A file of one layer."""
    (layer,) = fully((3, 4))
    return written(path, chain(nir.Linear(weight=layer.weight), lif(4)))


def stepped(
    nodes: Mapping[str, Any],
    edges: Sequence[tuple[str, str]],
    order: Sequence[str],
    x: np.ndarray[Any, Any],
    dt: float = 1e-4,
    subtract: bool = False,
) -> dict[str, np.ndarray[Any, Any]]:
    """What each node makes, ``[T, B, ...]`` in float64, by its differential equation.

    Euler's steps of dt. The nodes run in the given order, and what stands later is of the step
    before.

    Args:
        nodes, edges: of a NIR graph.
        order: all but Input and Output.
        x: ``[T, B, ...]``.
        dt: of a step, in seconds.
        subtract: whether a spike takes off the threshold in the step behind it.
    """
    (source,) = (name for name, node in nodes.items() if isinstance(node, nir.Input))
    now: dict[str, Any] = {}
    states: dict[str, Any] = {}
    made: dict[str, list[Any]] = {name: [] for name in order}
    for arriving in x.astype(np.float64):
        now[source] = arriving
        for name in order:
            ins = [now.get(a) for a, b in edges if b == name]
            zeros = np.zeros((x.shape[1], *nodes[name].input_type["input"]))
            total = sum((zeros if i is None else i for i in ins), zeros)
            now[name] = _step(nodes[name], total, states.setdefault(name, {}), dt, subtract)
            made[name].append(now[name])
    return {name: np.stack(steps) for name, steps in made.items()}


def _step(node: Any, x: Any, state: dict[str, Any], dt: float, subtract: bool) -> Any:
    kind, t = type(node).__name__, torch.from_numpy
    if kind in ("Affine", "Linear"):
        return x @ node.weight.astype(float).T + getattr(node, "bias", 0.0)
    if kind == "Conv2d":
        args = [tuple(getattr(node, n)) for n in ("stride", "padding", "dilation")]
        weight, bias = t(node.weight).double(), t(node.bias).double()
        return F.conv2d(t(x), weight, bias, *args, int(node.groups)).numpy()
    if kind in ("SumPool2d", "AvgPool2d"):
        args = [tuple(getattr(node, n)) for n in ("kernel_size", "stride", "padding")]
        size = np.prod(node.kernel_size) if kind == "SumPool2d" else 1
        return F.avg_pool2d(t(x), *args).numpy() * size
    if kind == "Flatten":
        return x.reshape(len(x), -1)
    if kind == "Scale":
        return x * node.scale
    if kind == "Threshold":
        return (x > node.threshold).astype(float)
    reset = getattr(node, "v_reset", 0.0)
    v = state.get("v", 0.0 if subtract else reset + 0 * x)
    if kind.startswith("Cuba"):
        i = state.get("i", 0.0)
        x = state["i"] = i + dt / node.tau_syn * (node.w_in * x - i)
    tau = getattr(node, "tau", getattr(node, "tau_mem", None))
    leak = 0.0 if tau is None else (node.v_leak - v) / tau
    v = v + dt * (leak + node.r * x / (1.0 if tau is None else tau))
    if subtract:
        v = v - state.get("fired", 0.0) * getattr(node, "v_threshold", 0.0)
    if not hasattr(node, "v_threshold"):
        state["v"] = v
        return v
    fired = state["fired"] = (v > node.v_threshold).astype(float)
    state["v"] = v if subtract else np.where(fired > 0, reset, v)
    return fired
