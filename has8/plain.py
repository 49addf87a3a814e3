"""Plain values: what a file of has8 can hold beside tensors, and what Python code has instead."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np

from has8.errors import BadInput

DEEPEST, MOST = 50, 1_000_000
"""Most levels of containers in each other, and most values in all."""


def plain(value: Any, name: str) -> Any:
    """The same value made of dict, list, str, int, float, bool and None.

    Tuples and NumPy arrays become lists, NumPy numbers and strings those of Python, paths strings,
    a ``Namespace`` a dict.

    Args:
        value: anything.
        name: how a message calls it, such as "config".

    Raises:
        BadInput: naming the first value that is anything else: an object, a number that is not
            finite, a key that is no string, a container in itself.
    """
    left = MOST

    def convert(value: Any, name: str, depth: int) -> Any:
        nonlocal left
        left -= 1
        if depth > DEEPEST or left < 0:
            raise BadInput(f"{name[:200]} is too large or too deep: leave it out")
        if isinstance(value, np.generic | np.ndarray):
            value = value.tolist()
        if isinstance(value, Namespace):
            value = vars(value)
        if value is None or type(value) in (bool, int, str):
            return value
        if isinstance(value, float):
            if math.isfinite(value):
                return float(value)
            raise BadInput(f"{name} is {value}, which no file can hold: leave it out")
        if isinstance(value, PurePath):
            return str(value)
        if type(value) in (list, tuple):
            return [convert(item, f"{name}[{i}]", depth + 1) for i, item in enumerate(value)]
        if isinstance(value, Mapping):
            pairs = {}
            for key, item in value.items():
                if not isinstance(key, str):
                    raise BadInput(f"{name} has the key {key!r}: its keys must be strings")
                pairs[str(key)] = convert(item, f"{name}.{key}", depth + 1)
            return pairs
        raise BadInput(
            f"{name} is a {type(value).__name__}, which no file can hold: give a number, a string, "
            "a list or a dict"
        )

    return convert(value, name, 0)
