"""Checks of what a command is given: data that fit a model, and places to write to."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from has8.cli.preparation import Preparation
from has8.data import Data, data_names, event_names
from has8.errors import BadInput
from mapping.graph.ir import Graph


def find_data(
    data: str | None,
    root: Path | None,
    *,
    training: Mapping[str, Any],
    input_shape: Sequence[int] | None,
    class_names: Sequence[str] | None,
    preparation: Preparation | None = None,
) -> Data:
    """The data to run a trained model on.

    Args:
        data: a name or folder; None for what the model was trained on.
        root: where named data lie.
        training: the provenance of the model's training.
        input_shape: of one sample that the model takes; None if it is not known.
        class_names: classes that the model knows; None if they were not kept.
        preparation: what is done to the data first.

    Raises:
        UnknownName: if it is neither a name nor a folder.
        BadInput: if no data are named and none known, or they do not fit the model.
    """
    how = Preparation() if preparation is None else preparation
    if input_shape is not None:
        if len(input_shape) not in (1, 3):
            raise BadInput(
                f"the model takes inputs of shape {tuple(input_shape)}, neither images (C, H, W) "
                "nor vectors of their pixels"
            )
        how = how.for_input(tuple(input_shape), None)
    source = how.load(_name(data, training), root, training.get("preprocess", "crop"))
    shape = (math.prod(source.input_shape),) if how.flatten else source.input_shape
    if input_shape is not None and shape != tuple(input_shape):
        raise BadInput(
            f"{source.name} has images of shape {source.input_shape} and the model takes "
            f"{tuple(input_shape)}: choose its data with --data"
        )
    known = source.class_names  # none where there are no labels
    if class_names is not None and known and known != tuple(class_names):
        raise BadInput(
            f"{source.name} has the classes {_few(source.class_names)} and the model knows "
            f"{_few(class_names)}: choose its data with --data"
        )
    return source


def partition_names(partition: str) -> str | list[str]:
    """A partition as :func:`mapping.map_model` takes it: "all", "none", or the names in a list."""
    names = [name.strip() for name in partition.split(",") if name.strip()]
    return partition if partition in ("all", "none") else names


def check_classes(graph: Graph, source: Data) -> None:
    """Refuse data that have more classes than a network has outputs.

    Raises:
        BadInput: if they have.
    """
    outputs, classes = graph.output.type.size, len(source.class_names)
    if outputs < classes:
        raise BadInput(
            f"{source.name} has {classes} classes and the network {outputs} outputs: choose its "
            "data with --data, or another of its outputs with --output"
        )


def check_writable(folder: Path) -> None:
    """Refuse an unusable output folder before any work is done, without making it.

    Raises:
        BadInput: if it is a file, or lies where nothing can be written.
    """
    nearest = next(
        path
        for path in (folder.absolute(), *folder.absolute().parents)
        if _can_be(path) and path.exists()
    )
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise BadInput(f"cannot write to {folder}: {nearest} is no folder that can be written to")


def check_new_file(path: Path, *inputs: Path) -> None:
    """Refuse an output file that cannot be written, or would take the place of something else.

    Args:
        path: the file to write.
        inputs: the files that the command reads.

    Raises:
        BadInput: if its folder cannot be written to, or it is an input or no ordinary file.
    """
    check_writable(path.parent)
    if not path.name or not _can_be(path):
        raise BadInput(f"cannot write to a file called {path.name[:40]!r}: choose another name")
    if path.exists() and not path.is_file():
        raise BadInput(f"{path} is no ordinary file: name another to write to")
    if any(path.exists() and other.exists() and path.samefile(other) for other in inputs):
        raise BadInput(f"{path} is what is to be read: choose another place to write to")


def _can_be(path: Path) -> bool:
    """Whether the file system takes such a name."""
    try:
        path.exists()
    except OSError:
        return False
    return True


def _name(data: str | None, training: Mapping[str, Any]) -> str:
    if data is not None:
        return data
    trained_on = training.get("data")
    if trained_on not in [*data_names(), *event_names()]:
        raise BadInput(
            f"the model was trained on {trained_on or 'unknown data'}, which has8 cannot find by "
            f"that name: say which data to run with --data NAME or --data FOLDER"
        )
    return str(trained_on)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
