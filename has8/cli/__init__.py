"""The command line: ``has8`` with its verbs, and ``has8-map`` for the commonest one.

Results go to stdout, progress and errors to stderr. A mistake of the user's is one sentence and
exit code 1. Nothing is imported here, so that all that takes time happens inside the boundary.
"""

from typing import NoReturn


def main() -> NoReturn:
    """Entry point of ``has8``."""
    from has8.cli.boundary import run

    run("has8.cli.commands:has8", "has8")


def map_main() -> NoReturn:
    """Entry point of ``has8-map``."""
    from has8.cli.boundary import run

    run("has8.cli.map:map_command", "has8-map")
