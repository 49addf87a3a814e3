"""Images of the user's own as arrays: ``.npy``, or ``.npz`` with labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from has8.data.images import ArrayImages
from has8.errors import BadInput, CheckpointError
from has8.reading import regular_file
from has8.values import described

ARRAY_FILES = (".npy", ".npz")
"""What the name of a file of arrays ends in."""
MOST_CLASSES = 1_000_000
"""Of which each has a name."""


def is_array_file(name: str) -> bool:
    """Whether data are named that lie in a file of arrays."""
    return Path(name).suffix.lower() in ARRAY_FILES


def read_arrays(file: Path, size: int | None) -> tuple[ArrayImages, tuple[str, ...]]:
    """All images of a file, and a name for each class.

    Args:
        file: a ``.npy`` of images, or a ``.npz`` with them as ``x`` and, if they are known, labels
            as ``y``, whole numbers ``[N]``. Images are ``[N, C, H, W]`` or vectors ``[N, K]``,
            which become ``[N, 1, 1, K]``: bytes, or floats in [0, 1].
        size: side to which square images are resized; None keeps theirs.

    Returns:
        The images, and the classes "0" to the largest label; none where there are no labels.

    Raises:
        BadInput: if the file cannot be read or does not hold that.
    """
    arrays = _read(file)
    if "x" not in arrays:
        names = ", ".join(sorted(arrays)[:8]) or "nothing"
        raise BadInput(
            f"{file} has no array x of images, but {names}: np.savez(..., x=x) makes one"
        )
    x = torch.from_numpy(_checked(arrays["x"], file))
    images = x.reshape(len(x), 1, 1, -1) if x.ndim == 2 else x
    height, width = images.shape[-2:]
    if size is not None and height != width:
        raise BadInput(
            f"{file} holds images of {height} x {width} pixels, and squares of {size} are asked "
            "for: give it images of the right shape"
        )
    if "y" not in arrays:
        return ArrayImages(images, torch.zeros(len(x), dtype=torch.int64), size=size), ()
    labels = torch.from_numpy(_labels(arrays["y"], file))
    found = ArrayImages(images, labels, size=size)
    return found, tuple(map(str, range(int(found.labels.max()) + 1)))


def _labels(y: np.ndarray[Any, Any], file: Path) -> np.ndarray[Any, Any]:
    """Labels as int64, of at most :data:`MOST_CLASSES` classes."""
    if y.dtype.kind not in "iu":
        raise BadInput(f"labels y of {file} must be whole numbers [N], not {described(y)}")
    if y.size and not 0 <= int(y.min()) <= int(y.max()) < MOST_CLASSES:
        raise BadInput(
            f"labels y of {file} must be from 0 to {MOST_CLASSES - 1:,}, and go from {y.min()} to "
            f"{y.max()}: number the classes from 0"
        )
    return np.ascontiguousarray(y, np.int64)


def _read(file: Path) -> dict[str, np.ndarray[Any, Any]]:
    try:
        with regular_file(file) as raw:
            found = np.load(raw, allow_pickle=False)
            return {"x": found} if isinstance(found, np.ndarray) else dict(found)
    except CheckpointError as error:
        raise BadInput(str(error)) from None
    except Exception as error:  # a broken file can raise anything
        raise BadInput(
            f"{file} is no file of numbers or is damaged ({type(error).__name__}): save it with "
            "np.save or np.savez"
        ) from None


def _checked(x: np.ndarray[Any, Any], file: Path) -> np.ndarray[Any, Any]:
    """Images as bytes or float32."""
    what = f"{file} must hold images [N, C, H, W] or vectors [N, K]"
    if x.ndim not in (2, 4) or not x.size:
        raise BadInput(f"{what}, at least one, not {described(x)}")
    if x.dtype == np.uint8:
        return np.ascontiguousarray(x)
    if x.dtype.kind != "f":
        raise BadInput(f"{what} as bytes, or as floats from 0 to 1, not {described(x)}")
    low, high = float(x.min()), float(x.max())
    if not (low >= 0 and high <= 1):
        raise BadInput(
            f"{what} from 0 to 1, and has values from {low:g} to {high:g}: scale them; --mean and "
            "--std make of them what a network takes"
        )
    return np.ascontiguousarray(x, np.float32)
