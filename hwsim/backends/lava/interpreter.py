"""Which interpreter runs Lava: this one, or the one that HAS8_LAVA_PYTHON names."""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import sys

from has8.errors import BackendError
from hwsim.backends.lava.isolate import interpreter_with

PYTHON = "HAS8_LAVA_PYTHON"
"""The environment variable that names the interpreter which has Lava, if it is another one."""

INSTALL = "`pip install lava-nc==0.10.0`"


def lava_python() -> str:
    """The path of the interpreter that has Lava: this one, or the one that HAS8_LAVA_PYTHON names.

    Raises:
        BackendError: if there is none; says how to get one.
    """
    if not hasattr(os, "killpg"):
        raise BackendError(
            "Lava's worker needs process groups, which this system lacks; use Linux or macOS"
        )
    if named := os.environ.get(PYTHON):
        return _named_python(named)
    if importlib.util.find_spec("lava") is not None:
        return sys.executable
    if sys.version_info < (3, 11):
        raise BackendError(f"Lava is not installed; run {INSTALL}")
    raise BackendError(
        f"lava-nc 0.10.0 needs Python 3.10, but this is {platform.python_version()}; make a 3.10 "
        f"environment with {INSTALL} and set {PYTHON} to its python"
    )


@functools.cache
def _named_python(named: str) -> str:
    try:
        return interpreter_with("lava.magma", named)
    except BackendError as error:
        raise BackendError(
            f"{PYTHON} is wrong: {error}; set it to the python of a 3.10 environment with {INSTALL}"
        ) from None
