"""Hybrid ANN-SNN models that can be cut between a GPU and a neuromorphic chip."""

from has8.lazy import lazy as _lazy

__getattr__, __dir__ = _lazy(__name__)
