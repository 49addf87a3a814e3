"""Run a mapped model and price it."""

from has8.lazy import lazy

__getattr__, __dir__ = lazy(__name__)
