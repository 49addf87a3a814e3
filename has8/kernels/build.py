"""C sources, compiled by the machine's own compiler when they are first needed.

The compiler is ``$CC``, by default ``cc``; it takes a few seconds, and the result is kept in
``$HAS8_CACHE``, by default ``~/.cache/has8``. ``HAS8_KERNELS=off`` switches all of it off.
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
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FLAGS = ("-O3", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off")
_VARIANTS = (
    ("-march=native", "-mprefer-vector-width=512", "-fopenmp"),
    ("-march=native", "-fopenmp"),
    ("-fopenmp",),
    ("-march=native",),
    (),
)
_SECONDS = 120
"""Longest time that the compiler may take."""
_TYPES = {"n": ctypes.c_long, "r": ctypes.c_double, "p": ctypes.c_void_p, "i": ctypes.c_int32}


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
    command = shlex.split(os.environ.get("CC", "cc"))
    _share_openmp()
    reason: object = "no command in $CC"
    for flags in _VARIANTS:
        try:
            return _declared(_built((*command, *FLAGS, *flags), sources), functions)
        except FileNotFoundError as error:
            reason = error
            break
        except (OSError, subprocess.SubprocessError) as error:
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


def _declared(loaded: ctypes.CDLL, functions: Mapping[str, str]) -> ctypes.CDLL:
    """Tell ctypes what each function takes, so that it converts numbers and refuses the rest."""
    for name, letters in functions.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = [_TYPES[letter] for letter in letters], None
    return loaded


@cache
def _share_openmp() -> None:
    """Let the kernels run on torch's own threads: a second pool would fight for the cores."""
    for path in sorted(Path(torch.__file__).parent.glob("lib/libgomp*")):
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def _built(command: tuple[str, ...], sources: Sequence[Path]) -> ctypes.CDLL:
    """Compile unless it is done already, and load; a file that does not load is made anew."""
    key = hashlib.sha256()
    for part in (*(source.read_bytes() for source in sources), _machine().encode()):
        key.update(part)
    key.update(" ".join(command).encode())
    suffix = sysconfig.get_config_var("SHLIB_SUFFIX") or ".so"
    folder = Path(os.environ.get("HAS8_CACHE", "~/.cache/has8")).expanduser()
    target = folder / f"{sources[0].stem}-{key.hexdigest()[:16]}{suffix}"
    if target.exists():
        with suppress(OSError):
            return ctypes.CDLL(str(target))
    with tempfile.TemporaryDirectory() as scratch:
        built = _compile(command, sources[0], Path(scratch))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            draft = target.with_name(f".{target.name}.{os.getpid()}")
            shutil.copy(built, draft)
            draft.replace(target)
        except OSError:  # a cache that cannot be written: compiled anew each time
            target = built
        return ctypes.CDLL(str(target))


def _compile(command: tuple[str, ...], source: Path, folder: Path) -> Path:
    """Compile and link in two steps: linking with -fopenmp would bring a second OpenMP library."""
    part, whole = folder / "kernels.o", folder / "kernels.so"
    for step in (
        [*command, "-c", str(source), "-o", str(part)],
        [command[0], "-shared", str(part), "-o", str(whole), "-lm"],
    ):
        subprocess.run(step, check=True, capture_output=True, timeout=_SECONDS)
    return whole


def _machine() -> str:
    """The facts that -march=native depends on, since machines may share a cache."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        flags = ""
    return f"{platform.system()} {platform.machine()} {platform.processor()} {flags}"
