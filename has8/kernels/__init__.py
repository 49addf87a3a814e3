"""Compiled kernels for the elementwise part of a hybrid block, on the CPU.

``kernels.c`` is compiled by the machine's C compiler when it is first needed, in about two
seconds, and kept in ``$HAS8_CACHE`` (default ``~/.cache/has8``). Without a compiler everything
runs on plain torch, with equal results. ``HAS8_KERNELS=off`` asks for that.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sysconfig
import tempfile
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
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return None
    _share_openmp()
    for flags in _VARIANTS:
        built = _built(compiler, (*FLAGS, *flags))
        if built is not None:
            return built
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
            must be dense in the memory order that the kernel expects.
    """
    loaded = library()
    assert loaded is not None
    values = [torch.get_num_threads(), *args]
    getattr(loaded, f"{name}_{KINDS[dtype]}")(*map(_as_c, values))


def _as_c(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_double(value) if isinstance(value, float) else ctypes.c_long(value)


def _share_openmp() -> None:
    """Let the kernels run on torch's own threads: a second pool would fight for the cores."""
    for path in sorted(Path(torch.__file__).parent.glob("lib/libgomp*")):
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def _built(compiler: str, flags: tuple[str, ...]) -> ctypes.CDLL | None:
    """Compile unless it is done already; None if it does not compile or load."""
    here = Path(__file__).parent
    key = hashlib.sha256()
    for part in (*(here.joinpath(name).read_bytes() for name in SOURCES), _machine().encode()):
        key.update(part)
    key.update(" ".join((compiler, *flags)).encode())
    suffix = sysconfig.get_config_var("SHLIB_SUFFIX") or ".so"
    try:
        folder = Path(os.environ.get("HAS8_CACHE", "~/.cache/has8")).expanduser()
        target = folder / f"kernels-{key.hexdigest()[:16]}{suffix}"
        if not target.exists():
            folder.mkdir(parents=True, exist_ok=True)
            _compile(compiler, flags, here / SOURCES[0], target)
        return ctypes.CDLL(str(target))
    except (OSError, RuntimeError, subprocess.SubprocessError):
        return None


def _compile(compiler: str, flags: tuple[str, ...], source: Path, target: Path) -> None:
    """In two steps, since linking with -fopenmp would bring a second OpenMP library."""
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        part, whole = Path(scratch) / "kernels.o", Path(scratch) / target.name
        for command in (
            [compiler, *flags, "-c", str(source), "-o", str(part)],
            [compiler, "-shared", str(part), "-o", str(whole), "-lm"],
        ):
            subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)
        whole.replace(target)


def _machine() -> str:
    """What -march=native depends on; caches are shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        flags = ""
    return f"{platform.system()} {platform.machine()} {platform.processor()} {flags}"
