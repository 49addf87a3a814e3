"""Model files: a trained model with all that is needed to build it again.

A ``.pt`` file is one dictionary of tensors and plain values, written by :func:`torch.save`. It
holds no code and is read with ``weights_only=True``, so opening a stranger's file is safe.
"""

from __future__ import annotations

import math
import pickletools
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from has8 import given, values
from has8.errors import BadInput, CheckpointError, Has8Error
from has8.files import write_whole
from has8.models import create_model
from has8.plain import plain
from has8.reading import regular_file, zip_archive

FORMAT, VERSION = "has8", 1
MOST_VALUES = 2**28
"""Most values of one image."""
MOST_PICKLED = 2**26
"""Bytes of a foreign file in which code is looked for."""
_BUILDERS = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
}
_CODE_OPCODES = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}


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
        model: from :func:`has8.models.create_model`; it may be wrapped by ``torch.compile`` or
            ``DataParallel``.
        input_shape: ``(C, H, W)`` of one image.
        class_names: one for each output.
        provenance: facts about the training, see :func:`has8.plain.plain`; the versions of has8
            and torch are added.

    Raises:
        BadInput: if the file cannot be written, the model has no ``config``, or :func:`load` would
            refuse the file or give another model; nothing is written then.
    """
    path = values.path(path, "the new model file")
    payload = content_of(
        model, input_shape=input_shape, class_names=class_names, provenance=provenance
    )
    write_whole(path, lambda file: torch.save(payload, file))


def content_of(
    model: nn.Module,
    *,
    input_shape: Sequence[int],
    class_names: Sequence[str],
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What :func:`save` writes, with the same arguments.

    Raises:
        BadInput: if :func:`load` would refuse it or give another model.
    """
    model = given.unwrapped(model)
    config = config_of(model)
    facts = {"has8": version("has8"), "torch": torch.__version__, **given.provenance(provenance)}
    payload = {
        "format": FORMAT,
        "version": VERSION,
        "config": config,
        "input_shape": _list(input_shape, "input_shape"),
        "class_names": _list(class_names, "class_names"),
        "state_dict": {key: value.detach().cpu() for key, value in model.state_dict().items()},
        "provenance": plain({**facts, "torch": str(facts["torch"])}, "provenance"),
    }
    try:
        *_, twin = _parse(payload)
    except ValueError as error:
        raise BadInput(f"this model cannot be saved: {error}{_remedy(model)}") from error
    other = _difference(model, twin)
    if other:
        raise BadInput(
            f"this model cannot be saved: {other}, which its config does not say: build it with "
            "has8.models.create_model, or register its function with has8.models.MODELS"
        )
    return payload


def load(path: str | Path) -> Checkpoint:
    """Read a model file written by :func:`save`.

    Raises:
        CheckpointError: if it is missing, no has8 model file, damaged, unsafe, of another version,
            or its weights do not belong to its model.
    """
    path = values.path(path, "a model file")
    payload = read_plain(path, FORMAT, VERSION)
    try:
        config, shape, class_names, provenance, state, _ = _parse(payload)
        model = _built(config)
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be loaded: {error}") from error
    try:
        model.load_state_dict(state)
    except (Has8Error, RuntimeError, TypeError) as error:
        detail = str(error).splitlines()[-1].strip()
        raise CheckpointError(
            f"the weights in {path} do not belong to its model: {detail}"
        ) from error
    return Checkpoint(model.eval(), config, shape, class_names, provenance)


def _list(items: Any, name: str) -> list[Any]:
    if not isinstance(items, Iterable):
        raise BadInput(f"{name} must be a list, not {values.described(items)}")
    made: list[Any] = plain(list(items), name)
    return made


def config_of(model: nn.Module) -> dict[str, Any]:
    """The model's own description of how it was built, as plain values.

    Raises:
        BadInput: if it has none, because :func:`has8.models.create_model` did not build it, or one
            that cannot be made plain.
    """
    config = getattr(given.unwrapped(model), "config", None)
    if not isinstance(config, Mapping | Namespace):
        raise BadInput(
            f"a {type(model).__name__} without a config cannot be saved: "
            "build the model with has8.models.create_model"
        )
    values: dict[str, Any] = plain(config, "config")
    return values


def unfit(own: Mapping[str, Any], state: Any) -> str | None:
    """Why a saved state is not one of a model whose own is given; None if it is.

    Args:
        own: a tensor for each key; shapes and types count, values do not.
        state: what was read: it must have the same keys, each with a dense tensor of the same shape
            and type that holds all its numbers, and these must be finite.
    """
    if not isinstance(state, Mapping):
        return "they are no dictionary"
    for key in sorted(own.keys() | state.keys(), key=str):
        here, there = _kind(own.get(key)), _kind(state.get(key))
        if key not in own or key not in state or here != there:
            shown = there if key in state else "missing"
            return f"{key!r} is {shown} there and {here if key in own else 'absent'} here"
        value = state[key]
        if value.is_floating_point() and not value.isfinite().all():
            return f"{key!r} holds numbers that are not finite"
    return None


def _kind(value: object) -> str:
    """Shape and type of a dense tensor; in words, anything else."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    kind = f"{tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    if value.layout != torch.strided:
        return f"{kind}, sparse"
    held = value.is_meta or value.untyped_storage().nbytes() >= value.numel() * value.element_size()
    return kind if held else f"{kind}, repeated"


def _parse(
    payload: Mapping[str, Any],
) -> tuple[
    dict[str, Any],
    tuple[int, int, int],
    tuple[str, ...],
    dict[str, Any],
    dict[str, Tensor],
    nn.Module,
]:
    """Config, input shape, class names, provenance, weights, and the model without memory.

    Raises:
        ValueError: with a sentence, if an entry is missing or does not fit the others.
    """
    try:
        config, provenance = (plain(payload[key], key) for key in ("config", "provenance"))
        shape, names = payload["input_shape"], payload["class_names"]
        state = payload["state_dict"]
    except (KeyError, BadInput) as error:
        raise ValueError(f"bad or missing entry: {error}") from error
    rules = {
        "config": isinstance(config, dict),
        "provenance": isinstance(provenance, dict),
        "input_shape": type(shape) is list
        and len(shape) == 3
        and all(type(size) is int and size > 0 for size in shape)
        and math.prod(shape) <= MOST_VALUES,
        "class_names": type(names) is list and all(type(name) is str for name in names),
    }
    for key, holds in rules.items():
        if not holds:
            raise ValueError(f"bad or missing entry: {key}")
    # Without memory first: a config of a few bytes may describe a model of any size.
    with torch.device("meta"), NoInitialisation():
        twin = _built(config)
    reason = unfit(twin.state_dict(), state)
    if reason:
        raise ValueError(f"its weights do not belong to its model: {reason}")
    made = config_of(twin)
    for key, entry, found in (
        ("num_classes", "class_names", len(names)),
        ("in_channels", "input_shape", shape[0]),
    ):
        if made[key] != found:
            raise ValueError(f"bad or missing entry: {entry} is for {key}={found}, not {made[key]}")
    return config, tuple(shape), tuple(names), provenance, dict(state), twin


class NoInitialisation(TorchFunctionMode):
    """Leave new weights as they are: on "meta", a draw of them would import torch's compiler."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        draws = func in (Tensor.uniform_, Tensor.normal_)
        if draws or getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return func(*args, **(kwargs or {}))


def _built(config: Mapping[str, Any]) -> nn.Module:
    """A model with weights of no meaning.

    Raises:
        ValueError: with a sentence, if there is no such model.
    """
    try:
        return create_model(**config)
    except (Has8Error, TypeError, ValueError, RuntimeError, OverflowError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"the model cannot be built: {reason}") from error


def _remedy(model: nn.Module) -> str:
    """What to do about weights that are kept under other names or as another type."""
    keys = list(model.state_dict())
    if any(key.endswith("_mask") for key in keys):
        return "; make pruning permanent first, with torch.nn.utils.prune.remove"
    if any(".parametrizations." in f".{key}" for key in keys):
        return "; call torch.nn.utils.parametrize.remove_parametrizations first"
    if any(key.endswith(("weight_g", "weight_v")) for key in keys):
        return "; call torch.nn.utils.remove_weight_norm first"
    if any("_orig_mod." in key for key in keys):
        return "; compile the whole model rather than its parts"
    if any(p.dtype != torch.float32 for p in model.parameters()):
        return "; call model.float() first"
    return ""


def _difference(model: nn.Module, twin: nn.Module) -> str | None:
    """What a model has that one built by the same config has not, beside weights."""
    own, built = (dict(m.named_modules(remove_duplicate=False)) for m in (model, twin))
    for name in sorted(own.keys() | built.keys()):
        one, other = own.get(name), built.get(name)
        if one is None or other is None or not isinstance(one, type(other)):
            return f"{name or 'the model'} is a {type(one).__name__}, not a {type(other).__name__}"
        for key, value in vars(other).items():
            simple = isinstance(value, bool | int | float | str | tuple | None)
            if key[0] == "_" or key == "training" or not simple:
                continue
            if vars(one).get(key) != value:
                return f"{key} of {name or 'the model'} is {vars(one).get(key)!r}, not {value!r}"
    return None


def read_plain(path: str | Path, kind: str, newest: int) -> dict[str, Any]:
    """A dictionary of tensors and plain values, saved under the format name ``kind``.

    Raises:
        CheckpointError: if the file is missing, damaged, unsafe, of another kind or version.
    """
    with regular_file(path) as file:
        payload = _read_safely(file, path)
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


def _read_safely(file: BinaryIO, path: str | Path) -> Any:
    pickled = b""
    try:
        with zip_archive(file) as archive:
            # torch does not compare the checksums of tensors.
            if archive.testzip() is not None:
                raise CheckpointError(f"{path} is damaged (wrong checksum): fetch it again")
            names = archive.namelist()
            if "manifest.json" in names:
                raise CheckpointError(f"{path} is a mapped model already: name the .pt it is from")
            if any("/code/" in name for name in names):
                raise CheckpointError(
                    f"{path} is a TorchScript archive, which holds code: expected a file that "
                    "has8 wrote"
                )
            (pickle,) = (name for name in names if name.split("/")[1:] == ["data.pkl"])
            pickled = archive.read(pickle)
        if _holds_code(pickled):
            raise _refused(path)
        file.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except zipfile.BadZipFile as error:
        file.seek(0)
        if _holds_code(file.read(MOST_PICKLED)):
            raise _refused(path) from error
        raise CheckpointError(
            f"{path} is no has8 file or is damaged: expected a file that has8 wrote"
        ) from error
    except Exception as error:  # a broken pickle can raise anything
        raise CheckpointError(
            f"{path} is no has8 file or is damaged: expected a file that has8 wrote"
        ) from error


def _refused(path: str | Path) -> CheckpointError:
    return CheckpointError(
        f"{path} is refused: it contains code (pickled objects), which could run on "
        "loading; expected a file that has8 wrote"
    )


def _holds_code(pickled: bytes) -> bool:
    """Whether a pickle makes anything but dictionaries, tensors and plain values."""
    try:
        return any(
            opcode.name in _CODE_OPCODES
            or (opcode.name == "GLOBAL" and argument not in _BUILDERS and not _storage(argument))
            for opcode, argument, _ in pickletools.genops(pickled)
        )
    except Exception:  # no pickle at all
        return False


def _storage(name: object) -> bool:
    module, _, kind = str(name).partition(" ")
    return module == "torch" and kind.endswith("Storage") and kind.isalnum()
