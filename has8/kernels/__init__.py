"""Compiled kernels for the elementwise part of hybrid networks, on the CPU.

Without a C compiler plain torch computes the same, in another order of summation, and a warning
says so; :mod:`has8.kernels.build` has the details.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch

from has8.kernels import build

SOURCES = ("kernels.c", "template.h", "iir.h")
"""The file to compile, and those that it includes."""
KINDS = {torch.float32: "f32", torch.float64: "f64", torch.bfloat16: "bf16"}
"""The types that tensors are stored in, with the ends of the kernels' names; bfloat16 is computed
in float32."""

_ARGUMENTS = {
    "leaky_forward": "nnnnppprrrppp",
    "leaky_backward": "nnnnppprrrrppppppp",
    "chip_forward": "nnnnppprrp",
    "chip_backward": "nnnnppprrrppp",
    "psp_forward": "nnnnppppp",
    "psp_backward": "nnnnppppppp",
    "iir_forward": "nnnnprrrrrp",
    "iir_backward": "nnnnprrrrrrpp",
    "fired_forward": "nnnnnnnnprrrrrpppp",
    "fired_backward": "nnnnnnnnprrrrrrpppppp",
    "moments": "nnnppp",
    "combine": "nnnppppp",
    "encode": "nnprrpp",
    "encode_backward": "nnprrppirpp",
    "decode": "nnnppp",
    "decode_backward": "nnnppp",
}


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where they cannot be had or are switched off."""
    functions = {
        f"{name}_{kind}": letters for name, letters in _ARGUMENTS.items() for kind in KINDS.values()
    }
    return build.load([Path(__file__).with_name(name) for name in SOURCES], functions)


def available() -> bool:
    """Whether compiled kernels run here."""
    return library() is not None


def call(name: str, dtype: torch.dtype, *args: Any) -> None:
    """Run a kernel with torch's number of threads.

    Args:
        name: the function's name in ``template.h``.
        dtype: the type that large tensors are stored in; a key of :data:`KINDS`.
        args: the function's arguments behind the number of threads; see
            :func:`has8.kernels.build.call`.
    """
    build.call(library(), f"{name}_{KINDS[dtype]}", *args)
