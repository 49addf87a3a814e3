"""Compiled kernels for the elementwise part of a hybrid block, on the CPU.

``kernels.c`` is compiled by the machine's C compiler (``$CC``, default ``cc``) when it is first
needed, in a few seconds, and kept in ``$HAS8_CACHE`` (default ``~/.cache/has8``). Without a
compiler plain torch computes the same, in another order of summation, and a warning says so.
``HAS8_KERNELS=off`` asks for that.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SOURCES = ("kernels.c", "template.h")
FLAGS = ("-O3", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off")
_VARIANTS = (
    ("-march=native", "-mprefer-vector-width=512", "-fopenmp"),
    ("-march=native", "-fopenmp"),
    ("-fopenmp",),
    ("-march=native",),
    (),
)
_SECONDS = 120
KINDS = {torch.float32: "f32", torch.float64: "f64", torch.bfloat16: "bf16"}
"""Storage types; bfloat16 is computed in float32."""


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where they cannot be had or are switched off."""
    if os.environ.get("HAS8_KERNELS", "").lower() in ("off", "0", "no"):
        return None
    command = shlex.split(os.environ.get("CC", "cc"))
    _share_openmp()
    reason: object = "no command in $CC"
    for flags in _VARIANTS:
        try:
            return _declared(_built((*command, *FLAGS, *flags)))
        except FileNotFoundError as error:
            reason = error
            break
        except (OSError, subprocess.SubprocessError) as error:
            reason = error
    warnings.warn(
        f"has8's kernels cannot be compiled ({reason}), so training is slower: install a C "
        "compiler, name it with CC, or set HAS8_KERNELS=off",
        RuntimeWarning,
        stacklevel=2,
    )
    return None


def available() -> bool:
    """Whether compiled kernels run here."""
    return library() is not None


def call(name: str, dtype: torch.dtype, *args: Any) -> None:
    """Run a kernel with torch's number of threads.

    Args:
        name: of the function in ``template.h``.
        dtype: how large tensors are stored; a key of :data:`KINDS`.
        args: in the order of the C function; tensors and None are passed as pointers. Tensors
            must be dense in the memory order and of the type that the kernel expects.
    """
    function = getattr(library(), f"{name}_{KINDS[dtype]}")
    pointers = (arg.data_ptr() if isinstance(arg, Tensor) else arg for arg in args)
    function(torch.get_num_threads(), *pointers)


_TYPES = {"n": ctypes.c_long, "r": ctypes.c_double, "p": ctypes.c_void_p, "i": ctypes.c_int32}
_ARGUMENTS = {
    "leaky_forward": "nnnnppprrrppp",
    "leaky_backward": "nnnnppprrrrppppppp",
    "moments": "nnnppp",
    "combine": "nnnppppp",
    "encode": "nnprrpp",
    "encode_backward": "nnprrppirpp",
    "decode": "nnnppp",
    "decode_backward": "nnnppp",
}
"""Of each function: whole numbers, real numbers, pointers, and the slope's kind."""


def _declared(loaded: ctypes.CDLL) -> ctypes.CDLL:
    """Tell ctypes what each function takes, so that it converts numbers and refuses the rest."""
    for name, letters in _ARGUMENTS.items():
        for kind in KINDS.values():
            function = getattr(loaded, f"{name}_{kind}")
            function.argtypes, function.restype = [_TYPES[letter] for letter in letters], None
    return loaded


def _share_openmp() -> None:
    """Let the kernels run on torch's own threads: a second pool would fight for the cores."""
    for path in sorted(Path(torch.__file__).parent.glob("lib/libgomp*")):
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def _built(command: tuple[str, ...]) -> ctypes.CDLL:
    """Compile unless it is done already, and load; a file that does not load is made anew."""
    here = Path(__file__).parent
    key = hashlib.sha256()
    for part in (*(here.joinpath(name).read_bytes() for name in SOURCES), _machine().encode()):
        key.update(part)
    key.update(" ".join(command).encode())
    suffix = sysconfig.get_config_var("SHLIB_SUFFIX") or ".so"
    folder = Path(os.environ.get("HAS8_CACHE", "~/.cache/has8")).expanduser()
    target = folder / f"kernels-{key.hexdigest()[:16]}{suffix}"
    if target.exists():
        with suppress(OSError):
            return ctypes.CDLL(str(target))
    with tempfile.TemporaryDirectory() as scratch:
        built = _compile(command, here / SOURCES[0], Path(scratch))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            draft = target.with_name(f".{target.name}.{os.getpid()}")
            shutil.copy(built, draft)
            draft.replace(target)
        except OSError:  # a cache that cannot be written: compiled anew each time
            target = built
        return ctypes.CDLL(str(target))


def _compile(command: tuple[str, ...], source: Path, folder: Path) -> Path:
    """In two steps, since linking with -fopenmp would bring a second OpenMP library."""
    part, whole = folder / "kernels.o", folder / "kernels.so"
    for step in (
        [*command, "-c", str(source), "-o", str(part)],
        [command[0], "-shared", str(part), "-o", str(whole), "-lm"],
    ):
        subprocess.run(step, check=True, capture_output=True, timeout=_SECONDS)
    return whole


def _machine() -> str:
    """What -march=native depends on; caches are shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        flags = ""
    return f"{platform.system()} {platform.machine()} {platform.processor()} {flags}"
