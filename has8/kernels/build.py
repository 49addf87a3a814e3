"""C sources, compiled by the machine's own compiler when they are first needed.

The compiler is ``$CC``, by default ``cc``; it takes a few seconds, and the result is kept in
``$HAS8_CACHE/kernels``, by default in ``~/.cache/has8``. ``HAS8_KERNELS=off`` switches all of it
off. :mod:`has8.kernels.compiler` and :mod:`has8.kernels.libraries` say what either is trusted with.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import subprocess
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from has8.kernels import libraries

FLAGS = ("-O3", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off")
_VARIANTS = (
    ("-march=native", "-mprefer-vector-width=512", "-fopenmp"),
    ("-march=native", "-fopenmp"),
    ("-fopenmp",),
    ("-march=native",),
    (),
)
_TYPES = {"n": ctypes.c_long, "r": ctypes.c_double, "p": ctypes.c_void_p, "i": ctypes.c_int32}
_FAILURES = (OSError, subprocess.SubprocessError)
"""What compiling and loading raise."""


def load(sources: Sequence[Path], functions: Mapping[str, str]) -> ctypes.CDLL | None:
    """Load a library of C functions, made from source unless that was done before.

    Args:
        sources: the file to compile, then the files that it includes.
        functions: for the name of each function, one letter per argument: n for a whole number,
            r for a real number, p for a pointer, i for an int32. The first argument of every
            function is its number of threads.

    Returns:
        The library; None, after a warning, where it cannot be had, or if kernels are switched off.
    """
    if os.environ.get("HAS8_KERNELS", "").lower() in ("off", "0", "no"):
        return None
    try:
        return _best(sources, functions)
    except _FAILURES as error:
        reason = error
    warnings.warn(
        f"has8's kernels cannot be compiled ({reason}), so it is slower: install a C compiler, "
        "name it with CC, or set HAS8_KERNELS=off",
        RuntimeWarning,
        stacklevel=3,
    )
    return None


def call(library: ctypes.CDLL | None, name: str, *args: Any) -> None:
    """Run a kernel with torch's number of threads.

    Args:
        library: from :func:`load`.
        name: the function's name.
        args: the function's arguments behind the number of threads, in its order; tensors and
            None are passed as pointers. Tensors must be dense in the memory order and of the type
            that the kernel expects.
    """
    pointers = (arg.data_ptr() if isinstance(arg, Tensor) else arg for arg in args)
    getattr(library, name)(torch.get_num_threads(), *pointers)


def _best(sources: Sequence[Path], functions: Mapping[str, str]) -> ctypes.CDLL:
    """The library with the best flags that work here; the last failure is raised if none do."""
    words, start = _command(), time.monotonic()
    _share_openmp()
    failure: Exception
    for variant in _VARIANTS:
        try:
            return _library(words, (*FLAGS, *variant), sources, functions, start)
        except (FileNotFoundError, subprocess.TimeoutExpired):
            raise  # other flags would not help
        except _FAILURES as error:
            failure = error
    raise failure


def _command() -> tuple[str, ...]:
    """The words that call the compiler; FileNotFoundError is raised if ``$CC`` holds none."""
    if os.name != "posix":
        raise FileNotFoundError("has8 calls compilers on Linux and macOS only")
    try:
        words = tuple(shlex.split(os.environ.get("CC") or "cc"))
    except ValueError as error:
        raise FileNotFoundError(f"{error} in $CC") from error
    if not words:
        raise FileNotFoundError("no command in $CC")
    return words


def _library(
    words: Sequence[str],
    flags: Sequence[str],
    sources: Sequence[Path],
    functions: Mapping[str, str],
    start: float,
) -> ctypes.CDLL:
    """The library from the cache; where there is none that loads, it is compiled and kept."""
    name = _name(words, flags, sources)
    library = libraries.read(name)
    if library is not None:
        with suppress(OSError):
            return _declared(libraries.opened(library), functions)
    from has8.kernels import compiler  # not before a library has to be made

    library = compiler.compiled(words, flags, sources[0], _openmp(), start)
    loaded = _declared(libraries.opened(library), functions)
    try:
        libraries.keep(name, library)
    except OSError as error:
        warnings.warn(
            f"has8's kernels cannot be kept ({error}), so they are compiled at every start: set "
            "HAS8_CACHE to a folder of yours that has room",
            RuntimeWarning,
            stacklevel=1,
        )
    return loaded


def _name(words: Sequence[str], flags: Sequence[str], sources: Sequence[Path]) -> str:
    """What a library is kept under; another source, compiler, flag or processor, another name."""
    parts = (_machine(), words, flags, [source.read_bytes() for source in sources])
    return f"{sources[0].stem}-{hashlib.sha256(repr(parts).encode()).hexdigest()}.so"


def _declared(loaded: ctypes.CDLL, functions: Mapping[str, str]) -> ctypes.CDLL:
    """Tell ctypes what each function takes, so that it converts numbers and refuses the rest."""
    for name, letters in functions.items():
        function = getattr(loaded, name, None)
        if function is None:
            raise OSError(f"the library has no function {name}")
        function.argtypes, function.restype = [_TYPES[letter] for letter in letters], None
    return loaded


@cache
def _openmp() -> list[Path]:
    """Torch's own OpenMP libraries."""
    return sorted(Path(torch.__file__).parent.glob("lib/libgomp*"))


@cache
def _share_openmp() -> None:
    """Let the kernels run on torch's own threads: a second pool would fight for the cores."""
    for path in _openmp():
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def _machine() -> str:
    """The facts that -march=native depends on, since machines may share a cache."""
    flags = ""
    with suppress(OSError), Path("/proc/cpuinfo").open() as lines:
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.system()} {platform.machine()} {flags}"
