"""Image and event classification data behind one function: :func:`load_data`.

Images arrive as float32 in [0, 1], ``[C, H, W]``, without normalisation: the range of the
first encoder belongs to the model, and a recipe that normalises asks :func:`channel_statistics`.
Recordings of events arrive as spikes in steps, ``[T, C, H, W]``.
"""

from has8.lazy import lazy as _lazy

__getattr__, __dir__ = _lazy(__name__)
