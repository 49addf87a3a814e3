"""``name.h8``: a mapped model as one file.

A zip of a manifest and of NumPy arrays (:mod:`mapping.chip.archive`); the same mapping gives the
same bytes. Chip segments can be read with NumPy alone (:mod:`mapping.chip.serial`).
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from numpy.typing import NDArray

from has8 import given, values
from has8.errors import BadInput, CheckpointError, Has8Error
from has8.files import write_whole
from has8.plain import plain
from mapping.chip.archive import FORMAT, VERSION, read, write
from mapping.chip.serial import Arrays, pack, unpack
from mapping.cores.placement import Placement
from mapping.graph.ir import Graph, Node, Signal
from mapping.integers.errors import LayerError
from mapping.mapped import Mapped
from mapping.partition.segments import Partition
from mapping.targets.schema import Target
from mapping.verify import check_mapped


class _Node(msgspec.Struct, frozen=True):
    name: str
    op: str
    inputs: tuple[str, ...]
    type: Signal
    attrs: dict[str, Any]
    tensors: tuple[str, ...]


class _Manifest(msgspec.Struct, frozen=True):
    format: str
    version: int
    provenance: dict[str, Any]
    target: Target
    nodes: tuple[_Node, ...]
    partition: Partition
    chip_segments: tuple[dict[str, Any], ...]
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
        BadInput: if the mapping is not sound, or the file cannot be written.
    """
    check_mapped(given.instance(mapped, Mapped, "a mapping from mapping.map_model"))
    path = values.path(path, "the new file")
    arrays: Arrays = {}
    segments = []
    for segment in mapped.chip_segments:
        packed, integers = pack(segment)
        segments.append(packed)
        arrays |= integers
    manifest = _Manifest(
        FORMAT,
        VERSION,
        plain(dict(mapped.provenance), "provenance"),
        mapped.target,
        tuple(_pack_node(node, arrays) for node in mapped.graph),
        mapped.partition,
        tuple(segments),
        dict(mapped.errors),
        mapped.placement,
    )
    content = msgspec.json.encode(manifest)
    try:  # what is not a number would be written as null
        again = msgspec.json.encode(msgspec.json.decode(content, type=_Manifest))
    except msgspec.ValidationError as error:
        raise BadInput(f"this mapping cannot be saved: {error}") from error
    if again != content:
        raise BadInput("this mapping cannot be saved: reading it would give another one")
    write_whole(path, lambda file: write(file, content, arrays))
    return path


def load(path: str | Path) -> Mapped:
    """Read a mapping.

    Raises:
        CheckpointError: if the file is missing, is no has8 artefact, or is damaged.
    """
    path = values.path(path, "a mapping that was saved")
    try:
        content, arrays = read(path)
        manifest = msgspec.json.decode(content, type=_Manifest)
        mapped = Mapped(
            Graph(tuple(_unpack_node(node, arrays) for node in manifest.nodes)),
            manifest.partition,
            tuple(unpack(packed, arrays) for packed in manifest.chip_segments),
            manifest.errors,
            manifest.placement,
            manifest.target,
            manifest.provenance,
        )
        check_mapped(mapped)
    except CheckpointError as error:
        raise CheckpointError(f"cannot read a mapping: {error}") from None
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(f"cannot read {str(path)!r}: {reason}") from None
    except Exception as error:  # a broken archive can raise anything
        said = isinstance(error, Has8Error | ValueError | zipfile.BadZipFile)
        what = error if said else "its content is in another form than has8 writes"
        raise CheckpointError(
            f"{str(path)!r} is no mapped model or is damaged ({what}): write it with has8-map"
        ) from None
    return mapped


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
