"""The command line: ``has8`` with its verbs, and ``has8-map`` for the commonest one.

Results go to stdout, progress and errors to stderr. A mistake of the user's is one sentence and
exit code 1.
"""

from __future__ import annotations

import io
import os
import sys
from typing import NoReturn

import click

from has8.cli.map import map_command
from has8.cli.simulate import simulate
from has8.cli.train import train
from has8.errors import Has8Error
from has8.text import printable


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="has8")
def has8() -> None:
    """Train hybrid ANN-SNN models, map them to neuromorphic chips, price the result."""


has8.add_command(train)
has8.add_command(map_command)
has8.add_command(simulate)


def main() -> NoReturn:
    """Entry point of ``has8``."""
    _run(has8, "has8")


def map_main() -> NoReturn:
    """Entry point of ``has8-map``."""
    _run(map_command, "has8-map")


def _run(command: click.Command, name: str) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # terminals that know no µ
    try:
        code = command.main(prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = 1
    except (Has8Error, click.ClickException) as error:
        message = error.format_message() if isinstance(error, click.ClickException) else str(error)
        click.echo(f"error: {printable(message)}", err=True)
        code = 1
    except BrokenPipeError:  # whoever read the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        click.echo(f"error: {error.strerror or error}", err=True)
        code = 1
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        code = 130
    sys.exit(code if isinstance(code, int) else 0)
