"""What public functions are given, checked at the door; what means the same is converted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from has8.errors import BadInput


def check_model(model: object) -> None:
    """Refuse what is no model.

    Raises:
        BadInput: says how to get a model from what was given.
    """
    if isinstance(model, nn.Module):
        return
    hint = "make one with has8.create_model"
    if hasattr(model, "model") and isinstance(model.model, nn.Module):
        hint = "take its .model"
    elif isinstance(model, str | bytes) or hasattr(model, "__fspath__"):
        hint = "read it with has8.load_checkpoint(path).model"
    elif isinstance(model, type):
        hint = "make one of this class"
    raise BadInput(f"a torch.nn.Module is needed as the model, not {_kind(model)}: {hint}")


def images(x: object, shape: Sequence[int] | None = None) -> Tensor:
    """Images as models take them.

    Args:
        x: a tensor or an array ``[N, *shape]``, N > 0, of floats, or of uint8 from 0 to 255, which
            are divided by 255.
        shape: of one image; None for any.

    Returns:
        ``float32[N, *shape]`` on the CPU; the same tensor if it is that.

    Raises:
        BadInput: if it is anything else, or not finite.
    """
    if isinstance(x, np.ndarray):
        if x.dtype.kind not in "fu":
            raise BadInput(f"images must be floats or uint8, not {x.dtype}")
        x = torch.from_numpy(np.ascontiguousarray(x.astype(x.dtype.newbyteorder("="))))
    if not isinstance(x, Tensor):
        raise BadInput(
            f"images must be a tensor or an array [N, C, H, W], not {_kind(x)}: stack them with "
            "torch.stack, or join a loader's batches with torch.cat"
        )
    if x.ndim < 2 or len(x) == 0 or (shape is not None and tuple(x.shape[1:]) != tuple(shape)):
        wanted = "(N, C, H, W)" if shape is None else str(("N", *shape)).replace("'", "")
        raise BadInput(f"the model takes images {wanted}, N > 0, not {tuple(x.shape)}")
    if x.dtype == torch.uint8:
        x = x.float() / 255
    if not x.is_floating_point() or not bool((x := x.float().cpu()).isfinite().all()):
        raise BadInput(f"images must be finite floats, as the model was trained on, not {x.dtype}")
    return x


def labels(y: object, count: int, classes: int | None = None) -> Tensor:
    """Labels of images.

    Args:
        y: integers in a tensor or an array ``[N]``.
        count: how many images there are.
        classes: outputs of the model; None if they are not known.

    Returns:
        ``int64[N]`` on the CPU.

    Raises:
        BadInput: if it is anything else, or a label is no class's.
    """
    if isinstance(y, np.ndarray) and y.dtype.kind in "iu":
        y = torch.from_numpy(y.astype(np.int64))
    if not isinstance(y, Tensor) or y.is_floating_point() or y.dtype == torch.bool:
        kind = y.dtype if isinstance(y, Tensor) else _kind(y)
        raise BadInput(f"labels must be integers in a tensor or an array [N], not {kind}")
    y = y.long().cpu()
    if tuple(y.shape) != (count,):
        raise BadInput(
            f"there must be a label each for {count} images, not labels of shape {tuple(y.shape)}"
        )
    low, high = (int(y.min()), int(y.max())) if count else (0, 0)
    if low < 0 or (classes is not None and high >= classes):
        most = "" if classes is None else f" to {classes - 1}"
        raise BadInput(f"labels must be classes from 0{most}, and these are {low} to {high}")
    return y


def _kind(value: object) -> str:
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    return f"{'an' if name[0] in 'aeio' else 'a'} {name}"
