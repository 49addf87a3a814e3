"""The outer boundary of every command: whatever happens inside ends in words and an exit code.

Exit codes: 0 done, 1 a mistake or a fault, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from has8.memory import keep_pages

if TYPE_CHECKING:
    Handler = Callable[[int, FrameType | None], Any] | int | None

REPORT_TO = "the issue tracker of has8"
INTERRUPTED, TERMINATED = 130, 143
LONGEST = 300
"""Most characters of an internal error's own words on the screen; the file has all of them."""


def run(command: str, name: str) -> NoReturn:
    """Import a command, do what ``sys.argv`` asks of it, and exit.

    Args:
        command: where it is, as ``module:attribute``.
        name: what the user called.
    """
    # While modules are imported, and when all is done, nothing is open that would have to be
    # closed, and an exception may be swallowed or end in a traceback: so the process ends at once.
    before = [_handle(signal.SIGINT, _leave), _handle(signal.SIGTERM, _terminate)]
    try:
        _open_closed_streams()
        code = _guarded(command, name)
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    except KeyboardInterrupt:
        _say("interrupted")
        code = INTERRUPTED
    code = _flushed(code)
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
        _handle(number, handler)
    atexit.register(_handle, signal.SIGINT, _leave)
    sys.exit(code)


def do(job: str, options: dict[str, Any]) -> None:
    """Import a job of :mod:`has8.cli.jobs`, and do it; Ctrl-C is an exception to it.

    Args:
        job: where it is, as ``module:function``.
        options: what the command was told.
    """
    work = _imported(f"has8.cli.jobs.{job}")
    keep_pages()
    if signal.getsignal(signal.SIGINT) is _leave:
        _handle(signal.SIGINT, signal.default_int_handler)
    try:
        work(**options)
    except KeyboardInterrupt:
        _say("interrupted")
        raise SystemExit(INTERRUPTED) from None


def _guarded(command: str, name: str) -> int:
    """The command's exit code, with errors told in one line."""
    try:
        import click

        from has8.errors import Has8Error
        from has8.text import printable
    except Exception as error:
        return _fault(error)
    try:
        code = _imported(command).main(prog_name=name, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
    except click.ClickException as error:
        _say(f"error: {printable(error.format_message())}")
    except Has8Error as error:
        _say(f"error: {error}")
    except BrokenPipeError:  # whoever read the output has gone
        pass
    except OSError as error:
        where = "" if error.filename is None else f": {printable(str(error.filename))}"
        _say(f"error: {error.strerror or error}{where}")
    except Exception as error:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            _say("error: there is not enough memory: choose smaller batches or fewer samples")
        else:
            return _fault(error)
    return 1


def _fault(error: Exception) -> int:
    """Tell of a fault that is has8's own: one line, and all that is known of it in a file."""
    import tempfile
    import traceback

    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="has8-", suffix=".txt", delete=False, errors="backslashreplace"
        ) as file:
            file.write(f"{sys.argv}\nPython {sys.version}\n")
            traceback.print_exception(error, file=file)
        where = f" with {file.name}"
    except OSError:
        where = ""
    words = f"{type(error).__name__}: {error}".partition("\n")[0]
    _say(f"internal error: {ascii(words[:LONGEST])[1:-1]}; please report it to {REPORT_TO}{where}")
    return 1


def _imported(place: str) -> Any:
    from importlib import import_module

    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def _open_closed_streams() -> None:
    """Give a closed stdin, stdout or stderr a place, which no other file may then take."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, open(number, mode))  # noqa: SIM115, PTH123
        elif mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # terminals that know no µ


def _flushed(code: int) -> int:
    """Write out what is left; where that cannot be done, the code tells it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            if not (code or isinstance(error, BrokenPipeError)):  # else the user knows
                _say(f"error: cannot write the output ({error.strerror})")
            with suppress(OSError, ValueError):  # or Python tries again, and says so
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            code = code or 1
    return code


def _say(words: str) -> None:
    with suppress(OSError):
        print(words, file=sys.stderr, flush=True)


def _handle(number: int, handler: Handler) -> Handler:
    """Handle a signal, unless whoever started this process had it ignored; return what did."""
    before = signal.getsignal(number)
    with suppress(ValueError):  # not the main thread, where Python allows no handlers
        if before is not signal.SIG_IGN and handler is not None:
            signal.signal(number, handler)
    return before


def _leave(number: int, frame: FrameType | None) -> None:
    with suppress(OSError):
        os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


def _terminate(number: int, frame: FrameType | None) -> None:
    """End by an exception, so that temporary files and child processes go, too."""
    raise SystemExit(TERMINATED)
