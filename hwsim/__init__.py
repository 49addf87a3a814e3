"""Run a mapped model and price it."""

from has8.lazy import lazy as _lazy

__getattr__, __dir__ = _lazy(__name__)
