"""From a model to a chip: graph, segments, integers, cores."""

from has8.lazy import lazy

__getattr__, __dir__ = lazy(__name__)
