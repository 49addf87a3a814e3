"""The simulators by name."""

from __future__ import annotations

from collections.abc import Callable

from has8.errors import BackendError
from has8.registry import Registry
from has8.values import described
from hwsim.backends.fast.backend import Fast
from hwsim.backends.lava.backend import Lava
from hwsim.backends.protocol import Backend
from hwsim.backends.reference import Reference

BACKENDS: Registry[Callable[[], Backend]] = Registry("backend")
"""Makers of backends by name."""
for _maker in (Fast, Reference, Lava):
    BACKENDS.register(_maker.name)(_maker)


def named_backend(backend: str | Backend) -> Backend:
    """A backend by name, or the one given; it may not be able to run here.

    Raises:
        UnknownName: for an unknown name.
        BackendError: if it is no backend.
    """
    found = BACKENDS.get(backend)() if isinstance(backend, str) else backend
    parts = (getattr(found, name, None) for name in ("unavailable", "compile"))
    if isinstance(found, type) or not all(map(callable, parts)):
        raise BackendError(
            f"expected the name of a backend, or a backend, not {described(backend)}"
        )
    return found


def find_backend(backend: str | Backend) -> Backend:
    """A backend by name, or the one given, checked to be available.

    Raises:
        UnknownName: for an unknown name.
        BackendError: if it cannot run here, in which case the message says why, or is none.
    """
    found = named_backend(backend)
    reason = found.unavailable()
    if reason is not None:
        raise BackendError(reason)
    return found
