"""How a run is told to stop: by SIGTERM or Ctrl-C, held back until the step at hand is done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stop_signals() -> Iterator[Callable[[], int]]:
    """Hold back the first SIGTERM or SIGINT; what is yielded tells its number, or 0.

    A second one acts at once, as it would have before. Outside the main thread, where Python
    allows no handlers, nothing is held back. A signal that the caller did not act on (by an
    exception) is sent again at the end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    caught = 0
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def note(number: int, _: object) -> None:
        nonlocal caught
        caught = number
        restore()

    try:
        for number in previous:
            signal.signal(number, note)
        yield lambda: caught
    finally:
        restore()
    if caught:
        signal.raise_signal(caught)
