"""From a model to a chip: graph, segments, integers, cores."""

from has8.lazy import lazy as _lazy

__getattr__, __dir__ = _lazy(__name__)
