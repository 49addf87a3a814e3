"""What callers give: made into what functions take where its meaning is clear, else refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from os import PathLike
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from has8.errors import BadInput
from has8.values import described

T = TypeVar("T")


def images(x: Any, *, what: str = "images") -> Tensor:
    """A batch of images, or of other inputs, as models take it.

    Args:
        x: a tensor or NumPy array ``[N, ...]`` of floats of any width; of bytes 0 to 255, which
            become ``x / 255``; or of bools.
        what: what it is, for messages.

    Returns:
        ``float32[N, ...]``, N > 0, finite, on the CPU.

    Raises:
        BadInput: for anything else.
    """
    if isinstance(x, np.ndarray) and (x.dtype.kind == "f" or x.dtype in (np.uint8, np.bool_)):
        x = torch.from_numpy(np.array(x, np.float32 if x.dtype.kind == "f" else x.dtype))
    if not isinstance(x, Tensor):
        raise BadInput(f"{what} must be one tensor [N, ...], not {described(x)}: {_hint(x)}")
    if x.layout != torch.strided or x.device.type == "meta":
        raise BadInput(f"{what} must be a dense tensor that holds values, not {described(x)}")
    if x.dtype == torch.uint8:
        x = x.float() / 255
    elif x.dtype != torch.bool and not x.is_floating_point():
        raise BadInput(f"{what} must be floats, or bytes from 0 to 255, not {described(x)}")
    if x.dim() == 0 or x.numel() == 0:
        raise BadInput(f"{what} must be at least one, in a tensor [N, ...], not {described(x)}")
    batch: Tensor = x.detach().to("cpu", torch.float32)
    if not bool(batch.isfinite().all()):
        raise BadInput(f"{what} must be finite numbers: some are NaN or infinite")
    return batch


def labels(y: Any, samples: int, classes: int | None) -> Tensor:
    """The right classes of some samples.

    Args:
        y: a tensor, array or sequence of N whole numbers from 0 to classes - 1, the number of the
            model's outputs.
        samples: N.
        classes: how many there are; None if that is not known yet.

    Returns:
        ``int64[N]`` on the CPU.

    Raises:
        BadInput: for anything else.
    """
    try:
        numbers = np.asarray(y.detach().cpu() if isinstance(y, Tensor) else y)
    except (TypeError, ValueError, RuntimeError):  # of a type or form that NumPy has not
        numbers = None
    if numbers is None or numbers.dtype.kind not in "iu" or numbers.shape != (samples,):
        raise BadInput(
            f"labels must be {samples} whole numbers, one for each image, not "
            f"{described(y if numbers is None else numbers)}"
        )
    low, high = (int(numbers.min()), int(numbers.max())) if samples else (0, 0)
    if low < 0 or (classes is not None and high >= classes):
        most = "up" if classes is None else f"to {classes - 1}, one for each output of the model"
        raise BadInput(f"labels must be from 0 {most}, and are from {low} to {high}")
    return torch.from_numpy(numbers.astype(np.int64))


@contextmanager
def taking(shape: Sequence[int]) -> Iterator[None]:
    """A body that runs a model on images of a shape ``(C, H, W)``.

    Raises:
        BadInput: for torch's error where the model cannot take them.
    """
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise BadInput(
            f"the model cannot take images of {'x'.join(map(str, shape))} ({reason}): choose a "
            f"smaller depth or images of another size"
        ) from error


def logits(answer: Any, samples: int) -> Tensor:
    """What a model answered to a batch of images, if it is a number for each class.

    Args:
        answer: anything.
        samples: images in the batch, N.

    Returns:
        ``[N, classes]``.

    Raises:
        BadInput: if it is anything else.
    """
    if not isinstance(answer, Tensor) or answer.dim() != 2 or len(answer) != samples:
        raise BadInput(
            f"a model must answer {samples} images with one tensor of logits "
            f"[{samples}, classes], not {described(answer)}"
        )
    return answer


def callback(call: Any) -> None:
    """Refuse what cannot be called to tell of progress.

    Raises:
        BadInput: if it is neither a function nor None.
    """
    if call is not None and not callable(call):
        raise BadInput(f"on_progress must be a function, or None, not {described(call)}")


def provenance(facts: Any) -> Mapping[str, Any]:
    """Facts to keep beside something; None for none.

    Raises:
        BadInput: if it is no dictionary.
    """
    if facts is not None and not isinstance(facts, Mapping):
        raise BadInput(f"provenance must be a dictionary of facts, or None, not {described(facts)}")
    return facts or {}


def unwrapped(model: Any) -> Any:
    """The model that DataParallel, DistributedDataParallel or ``torch.compile`` wrapped."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif type(model).__name__ == "OptimizedModule":  # torch gives it no public name
            model = model._orig_mod
        else:
            return model


def own_copy(model: Any) -> nn.Module:
    """A copy of a model that may be changed: in float32, on the CPU, out of its wrappers.

    Args:
        model: any module; what DataParallel or ``torch.compile`` made of one is that one.

    Raises:
        BadInput: if it is no module, has no values (the meta device), or holds NaN or infinity.
    """
    model = unwrapped(model)
    if not isinstance(model, nn.Module):
        raise BadInput(f"a model must be a torch module, not {described(model)}: {_hint(model)}")
    for name, values in (*model.named_parameters(), *model.named_buffers()):
        if values.device.type == "meta":
            raise BadInput(f"{name!r} of the model has no values yet: load its weights first")
        if values.is_floating_point() and not bool(values.isfinite().all()):
            raise BadInput(
                f"{name!r} of the model holds NaN or infinity: train it anew, or load other weights"
            )
    return deepcopy(model, _detached(model)).to("cpu").float()


def _detached(model: nn.Module) -> dict[int, Any]:
    """Copies of what a forward left in a model with its gradient, which torch does not copy."""
    held = [*(item for module in model.modules() for item in vars(module).values())]
    held += [buffer for module in model.modules() for buffer in module._buffers.values()]
    held += [item for kept in held if isinstance(kept, list | tuple) for item in kept]
    return {
        id(item): item.detach().clone()
        for item in held
        if isinstance(item, Tensor) and not item.is_leaf
    }


def instance(value: Any, kind: type[T], what: str) -> T:
    """A value of some class.

    Args:
        value: anything.
        kind: the class that it must be of.
        what: what it must be, for messages, such as "a mapping from mapping.map_model".

    Raises:
        BadInput: if it is of another.
    """
    if not isinstance(value, kind):
        raise BadInput(f"expected {what}, not {described(value)}: {_hint(value)}")
    return value


def _hint(value: Any) -> str:
    """What to do with something of another kind."""
    if isinstance(value, str | PathLike):
        return "read the file first"
    if isinstance(value, type):
        return "make one of it"
    if isinstance(value, nn.Module):
        return "this is a model"
    if isinstance(getattr(value, "model", None), nn.Module):
        return "take its .model"
    if isinstance(value, Mapping):
        return "load it into its model" if value else "it is empty"
    if callable(getattr(value, "tensors", None)):
        return "take some with its .tensors(N)"
    if hasattr(value, "__iter__"):
        return "stack its items into one tensor"
    return "check the order of the arguments"
