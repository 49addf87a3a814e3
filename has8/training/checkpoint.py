"""Model files: a trained model with all that is needed to build it again.

A ``.pt`` file is one dictionary of tensors and plain values, written by :func:`torch.save`. It
holds no code and is read with ``weights_only=True``, so opening a stranger's file is safe.
"""

from __future__ import annotations

import json
import pickletools
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from has8.errors import BadInput, CheckpointError, Has8Error
from has8.files import write_whole
from has8.models import create_model

FORMAT, VERSION = "has8", 1
_CODE_OPCODES = {"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "REDUCE"}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The content of a model file.

    Args:
        model: the trained model, in evaluation mode, on the CPU.
        config: ``create_model(**config)`` builds the same model with random weights.
        input_shape: ``(C, H, W)`` of one image.
        class_names: one for each output.
        provenance: what the writer knew about the training: versions, data, seed, accuracy.
    """

    model: nn.Module
    config: Mapping[str, Any]
    input_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)


def save(
    path: str | Path,
    model: nn.Module,
    *,
    input_shape: Sequence[int],
    class_names: Sequence[str],
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write a model file, whole or not at all.

    Args:
        path: the new file, ``*.pt`` by custom; folders are made as needed.
        model: from :func:`has8.models.create_model`.
        input_shape: ``(C, H, W)`` of one image.
        class_names: one for each output.
        provenance: JSON-able facts about the training; the versions of has8 and torch are added.

    Raises:
        BadInput: if the file cannot be written, or the model has no ``config``.
    """
    facts = {"has8": version("has8"), "torch": torch.__version__, **(provenance or {})}
    payload = {
        "format": FORMAT,
        "version": VERSION,
        "config": config_of(model),
        "input_shape": list(input_shape),
        "class_names": list(class_names),
        "state_dict": {key: value.detach().cpu() for key, value in model.state_dict().items()},
        "provenance": json.loads(json.dumps(facts)),
    }
    write_whole(path, lambda file: torch.save(payload, file))


def load(path: str | Path) -> Checkpoint:
    """Read a model file written by :func:`save`.

    Raises:
        CheckpointError: if it is missing, no has8 model file, damaged, unsafe, of another version,
            or its weights do not belong to its model.
    """
    payload = read_plain(path, FORMAT, VERSION)
    try:
        config = dict(payload["config"])
        state = dict(payload["state_dict"])
        channels, height, width = map(int, payload["input_shape"])
        class_names = tuple(map(str, payload["class_names"]))
        provenance = dict(payload["provenance"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no complete has8 model file (bad or missing entry: {error}): write it anew"
        ) from error
    try:
        model = create_model(**config)
    except (Has8Error, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"the model in {path} cannot be built: {error}") from error
    _load_weights(model, state, path)
    return Checkpoint(model.eval(), config, (channels, height, width), class_names, provenance)


def config_of(model: nn.Module) -> dict[str, Any]:
    """The model's own description of how it was built.

    Raises:
        BadInput: if it has none, because :func:`has8.models.create_model` did not build it.
    """
    config = getattr(model, "config", None)
    if not isinstance(config, dict):
        raise BadInput(
            f"a {type(model).__name__} without a config cannot be saved: "
            "build the model with has8.models.create_model"
        )
    return config


def read_plain(path: str | Path, kind: str, newest: int) -> dict[str, Any]:
    """A dictionary of tensors and plain values, saved under the format name ``kind``.

    Raises:
        CheckpointError: if the file is missing, damaged, unsafe, of another kind or version.
    """
    path = Path(path)
    try:
        path.stat()
    except OSError as error:
        raise CheckpointError(f"there is no file {path} ({error.strerror}): check it") from None
    if not path.is_file():
        raise CheckpointError(f"{path} is a folder: name the model file in it")
    payload = _read_safely(path)
    if not isinstance(payload, dict) or payload.get("format") != kind:
        bare = isinstance(payload, dict) and any(map(torch.is_tensor, payload.values()))
        what = "a bare state_dict without its model's config" if bare else "no has8 file"
        raise CheckpointError(f"{path} is {what}: expected a file that has8 wrote ({kind!r})")
    if payload.get("version") != newest:
        raise CheckpointError(
            f"{path} has version {payload.get('version')!r} of the format {kind!r} and this has8 "
            f"reads version {newest}: use the has8 that wrote it"
        )
    return payload


def _read_safely(path: Path) -> Any:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                # torch does not compare the checksums of tensors.
                damaged = archive.testzip() is not None
                script = any("/code/" in name for name in archive.namelist())
                mapped = "manifest.json" in archive.namelist()
            if damaged:
                raise CheckpointError(f"{path} is damaged (wrong checksum): fetch it again")
            if mapped:
                raise CheckpointError(f"{path} is a mapped model already: name the .pt it is from")
            if script:
                raise CheckpointError(
                    f"{path} is a TorchScript archive, which holds code: expected a file that "
                    "has8 wrote"
                )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except PermissionError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # a broken pickle can raise anything
        if _holds_code(path):
            raise CheckpointError(
                f"{path} is refused: it contains code (pickled objects), which could run on "
                "loading; expected a file that has8 wrote"
            ) from error
        raise CheckpointError(
            f"{path} is no has8 file or is damaged: expected a file that has8 wrote"
        ) from error


def _holds_code(path: Path) -> bool:
    """Whether the file is a whole pickle, bare or in torch's zip, that calls something."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                pickled = archive.read(name)
        else:
            pickled = path.read_bytes()
        return bool({opcode.name for opcode, _, _ in pickletools.genops(pickled)} & _CODE_OPCODES)
    except Exception:  # no pickle at all
        return False


def _load_weights(model: nn.Module, state: dict[str, Any], path: str | Path) -> None:
    """Give a model its weights; a missing, odd or left-over one is named."""
    own = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    saved = {key: tuple(getattr(value, "shape", ())) for key, value in state.items()}
    wrong = sorted(key for key in own.keys() | saved.keys() if own.get(key) != saved.get(key))
    try:
        if not wrong:
            model.load_state_dict(state)
            return
        key = wrong[0]
        detail = f"{key!r} is {saved.get(key, 'missing')} there and {own.get(key, 'absent')} here"
    except (RuntimeError, TypeError) as error:
        detail = str(error).splitlines()[-1].strip()
    raise CheckpointError(f"the weights in {path} do not belong to its model: {detail}")
