"""A network as one file of numbers: its traced and calibrated graph.

Whoever opens it runs nobody's code, and needs neither the network's class nor its file. It is the
container of a mapping (:mod:`mapping.chip.archive`) under a format of its own, and is known by its
content, whatever it is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from torch import Tensor, nn

from has8 import given, values
from has8.files import write_whole
from has8.plain import plain
from mapping.chip.archive import read, reading, write
from mapping.chip.serial import Arrays
from mapping.graph.ir import Graph
from mapping.graph.serial import PackedNode, encoded, pack_graph, unpack_graph
from mapping.graph.verify import verify_graph
from mapping.pipeline import Given, name_of, traced

FORMAT, VERSION = "has8-network", 1


class _Manifest(msgspec.Struct, frozen=True):
    format: str
    version: int
    provenance: dict[str, Any]
    nodes: tuple[PackedNode, ...]


def save_model(
    model: nn.Module | Graph,
    example: Tensor,
    path: str | Path,
    *,
    inputs: Given = "values",
    output: int = 0,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write a network as a graph of numbers; the file appears whole or not at all.

    The forward runs a few times on the example, and the graph is held against it.

    Args:
        model: as :func:`mapping.map_model` takes it; it is not changed.
        example: some inputs that stand for the data, as many as are at hand: ``float32[N, ...]``,
            or with the inputs "steps" and "spikes" ``[T, N, ...]``, or as the forward takes them
            from another axis. Encoders whose ranges training
            never tracked are calibrated on them.
        path: the new file.
        inputs: what the model takes, see :func:`mapping.map_model`.
        output: which tensor of several that the model returns.
        provenance: JSON-able facts to keep with it.

    Returns:
        The path.

    Raises:
        TraceError: if the model cannot be turned into a graph.
        BadInput: if an argument is of another type, or the file cannot be written.
    """
    path = values.path(path, "the new file")
    added = plain(dict(given.provenance(provenance)), "provenance")
    example = given.images(example, what="example inputs")
    model = model if isinstance(model, Graph) else given.own_copy(model)
    graph = traced(model, example, inputs=inputs, output=output)
    facts = {"has8": version("has8"), "model": name_of(model), **added}
    arrays: Arrays = {}
    manifest = _Manifest(FORMAT, VERSION, facts, pack_graph(graph, arrays))
    content = encoded(manifest, "this network")
    _graph(manifest, arrays)
    write_whole(path, lambda file: write(file, content, arrays))
    return path


def load_model(path: str | Path) -> Graph:
    """Read a network that :func:`save_model` wrote, to be mapped.

    Raises:
        CheckpointError: if the file is missing, is none, or is damaged.
    """
    return read_network(path)[0]


def read_network(path: str | Path) -> tuple[Graph, Mapping[str, Any]]:
    """The graph of a saved network and the facts that were kept with it.

    Raises:
        CheckpointError: as :func:`load_model`.
    """
    path = values.path(path, "a network that was saved")
    with reading(path, "saved network", "write it with mapping.save_model"):
        content, arrays = read(path, FORMAT, VERSION)
        manifest = msgspec.json.decode(content, type=_Manifest)
        return _graph(manifest, arrays), manifest.provenance


def _graph(manifest: _Manifest, arrays: Arrays) -> Graph:
    """The graph of a manifest, checked."""
    graph = unpack_graph(manifest.nodes, arrays)
    verify_graph(graph)
    return graph
