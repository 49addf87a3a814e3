"""``name.h8``: a mapped model as one file.

A zip of a manifest and of NumPy arrays (:mod:`mapping.chip.archive`); the same mapping gives the
same bytes. Chip segments can be read with NumPy alone (:mod:`mapping.chip.serial`).
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from has8 import given, values
from has8.files import write_whole
from has8.plain import plain
from mapping.chip.archive import FORMAT, VERSION, read, reading, write
from mapping.chip.serial import Arrays, pack, unpack
from mapping.cores.placement import Placement
from mapping.graph.serial import PackedNode, encoded, pack_graph, unpack_graph
from mapping.integers.errors import LayerError
from mapping.mapped import Mapped
from mapping.partition.segments import Partition
from mapping.targets.schema import Target
from mapping.verify import check_mapped


class _Manifest(msgspec.Struct, frozen=True):
    format: str
    version: int
    provenance: dict[str, Any]
    target: Target
    nodes: tuple[PackedNode, ...]
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
    content, arrays = _packed(mapped)
    write_whole(path, lambda file: write(file, content, arrays))
    return path


def identity(mapped: Mapped) -> str:
    """SHA-256 of all that :func:`save` would write, in hexadecimal."""
    content, arrays = _packed(mapped)
    total = sha256(content)
    for name, array in sorted(arrays.items()):
        total.update(repr((name, array.dtype.str, array.shape)).encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def _packed(mapped: Mapped) -> tuple[bytes, Arrays]:
    """The manifest of a mapping, and its arrays."""
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
        pack_graph(mapped.graph, arrays),
        mapped.partition,
        tuple(segments),
        dict(mapped.errors),
        mapped.placement,
    )
    return encoded(manifest, "this mapping"), arrays


def load(path: str | Path) -> Mapped:
    """Read a mapping.

    Raises:
        CheckpointError: if the file is missing, is no has8 artefact, or is damaged.
    """
    path = values.path(path, "a mapping that was saved")
    with reading(path, "mapped model", "write it with has8-map"):
        content, arrays = read(path)
        manifest = msgspec.json.decode(content, type=_Manifest)
        mapped = Mapped(
            unpack_graph(manifest.nodes, arrays),
            manifest.partition,
            tuple(unpack(packed, arrays) for packed in manifest.chip_segments),
            manifest.errors,
            manifest.placement,
            manifest.target,
            manifest.provenance,
        )
        check_mapped(mapped)
    return mapped
