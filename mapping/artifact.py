"""``name.h8``: a mapped model as a zip of ``manifest.json`` and ``tensors.safetensors``.

The same mapping gives the same bytes: entries carry no time, tensors are stored in sorted order
and safetensors' own metadata stays empty. Chip segments can be read with NumPy alone.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from has8.errors import CheckpointError
from has8.files import write_whole
from mapping.chip.segment import ChipSegment, Population, Port, Synapse
from mapping.cores.placement import Placement
from mapping.graph.ir import Graph, Node, TensorType
from mapping.graph.verify import verify_chips, verify_graph
from mapping.integers.quantize import LayerError
from mapping.mapped import Mapped
from mapping.partition.cut import Partition
from mapping.targets.schema import Target

FORMAT, VERSION = "has8-mapped", 2
MANIFEST, TENSORS = "manifest.json", "tensors.safetensors"

Arrays = dict[str, NDArray[Any]]


class _Node(msgspec.Struct, frozen=True):
    name: str
    op: str
    inputs: tuple[str, ...]
    type: TensorType
    attrs: dict[str, Any]
    tensors: tuple[str, ...]


class _Synapse(msgspec.Struct, frozen=True):
    name: str
    source: str
    kind: str
    attrs: dict[str, Any]
    weight_exp: int
    sign_mode: str
    weight_bits: int


class _Population(msgspec.Struct, frozen=True):
    name: str
    shape: tuple[int, ...]
    synapses: tuple[_Synapse, ...]
    neuron: str
    bias_exp: int
    du: int
    dv: int


class _ChipSegment(msgspec.Struct, frozen=True):
    name: str
    steps: int
    inputs: tuple[Port, ...]
    populations: tuple[_Population, ...]
    outputs: tuple[str, ...]


class _Manifest(msgspec.Struct, frozen=True):
    format: str
    version: int
    provenance: dict[str, Any]
    target: Target
    nodes: tuple[_Node, ...]
    partition: Partition
    chips: tuple[_ChipSegment, ...]
    errors: dict[str, LayerError]
    placement: Placement


def save(mapped: Mapped, path: str | Path) -> Path:
    """Write a mapping; the file appears whole or not at all.

    Args:
        mapped: from :func:`mapping.map_model`.
        path: usually ends in ``.h8``.

    Returns:
        The path.

    Raises:
        BadInput: if the file cannot be written.
    """
    arrays: Arrays = {}
    manifest = _Manifest(
        FORMAT,
        VERSION,
        dict(mapped.provenance),
        mapped.target,
        tuple(_pack_node(node, arrays) for node in mapped.graph),
        mapped.partition,
        tuple(_pack_chip(chip, arrays) for chip in mapped.chips),
        dict(mapped.errors),
        mapped.placement,
    )
    entries = {
        MANIFEST: msgspec.json.encode(manifest),
        TENSORS: save_tensors({name: arrays[name] for name in sorted(arrays)}),
    }

    def write(file: Any) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, content in entries.items():
                archive.writestr(zipfile.ZipInfo(name), content)  # dated 1980

    write_whole(path, write)
    return Path(path)


def load(path: str | Path) -> Mapped:
    """Read a mapping.

    Raises:
        CheckpointError: if the file is missing, is no has8 artefact, or is damaged.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {str(path)!r}: {error.strerror}") from None
    try:
        manifest, arrays = _read(content)
        graph = Graph(tuple(_unpack_node(node, arrays) for node in manifest.nodes))
        verify_graph(graph)
        chips = tuple(_unpack_chip(chip, arrays) for chip in manifest.chips)
        verify_chips(graph, manifest.partition, chips, manifest.target.registers)
    except Exception as error:  # a broken archive can raise anything
        raise CheckpointError(
            f"{str(path)!r} is no mapped model or is damaged ({error}): write it with has8-map"
        ) from None
    return Mapped(
        graph,
        manifest.partition,
        chips,
        manifest.errors,
        manifest.placement,
        manifest.target,
        manifest.provenance,
    )


def _read(content: bytes) -> tuple[_Manifest, Mapping[str, NDArray[Any]]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        manifest, tensors = archive.read(MANIFEST), archive.read(TENSORS)
    head = msgspec.json.decode(manifest)
    kind, version = head.get("format"), head.get("version")
    if (kind, version) != (FORMAT, VERSION):
        raise ValueError(f"{kind!r} version {version}, and this has8 reads version {VERSION}")
    return msgspec.json.decode(manifest, type=_Manifest), load_tensors(tensors)


def _pack_node(node: Node, arrays: Arrays) -> _Node:
    for name, tensor in node.tensors.items():
        arrays[f"graph/{node.name}/{name}"] = tensor.contiguous().numpy()
    return _Node(
        node.name, node.op, node.inputs, node.type, dict(node.attrs), tuple(sorted(node.tensors))
    )


def _unpack_node(packed: _Node, arrays: Mapping[str, NDArray[Any]]) -> Node:
    tensors = {
        name: torch.from_numpy(arrays[f"graph/{packed.name}/{name}"]) for name in packed.tensors
    }
    return Node(packed.name, packed.op, packed.inputs, packed.type, packed.attrs, tensors)


def _pack_chip(chip: ChipSegment, arrays: Arrays) -> _ChipSegment:
    populations = []
    for p in chip.populations:
        arrays[f"chip/{p.name}/bias"] = _narrow(p.bias)
        arrays[f"chip/{p.name}/threshold"] = _narrow(p.threshold)
        for place, s in enumerate(p.synapses):
            arrays[f"chip/{p.name}/{place}"] = _narrow(s.weight)
        synapses = tuple(
            _Synapse(
                s.name, s.source, s.kind, dict(s.attrs), s.weight_exp, s.sign_mode, s.weight_bits
            )
            for s in p.synapses
        )
        populations.append(
            _Population(
                p.name,
                p.shape,
                synapses,
                p.neuron,
                p.bias_exp,
                p.du,
                p.dv,
            )
        )
    return _ChipSegment(chip.name, chip.steps, chip.inputs, tuple(populations), chip.outputs)


def _narrow(integers: NDArray[np.int64]) -> NDArray[Any]:
    """The same in the narrowest type that holds them all."""
    low, high = integers.min(initial=0), integers.max(initial=0)
    return integers.astype(np.result_type(np.min_scalar_type(low), np.min_scalar_type(high)))


def _unpack_chip(packed: _ChipSegment, arrays: Mapping[str, NDArray[Any]]) -> ChipSegment:
    populations = []
    for p in packed.populations:
        synapses = tuple(
            Synapse(
                s.name,
                s.source,
                s.kind,
                s.attrs,
                arrays[f"chip/{p.name}/{place}"].astype(np.int64),
                s.weight_exp,
                s.sign_mode,
                s.weight_bits,
            )
            for place, s in enumerate(p.synapses)
        )
        threshold, bias = (
            arrays[f"chip/{p.name}/{key}"].astype(np.int64) for key in ("threshold", "bias")
        )
        populations.append(
            Population(
                p.name,
                p.shape,
                synapses,
                p.neuron,
                threshold,
                bias,
                p.bias_exp,
                p.du,
                p.dv,
            )
        )
    return ChipSegment(packed.name, packed.steps, packed.inputs, tuple(populations), packed.outputs)
