"""Write the reference of the API, from the docstrings, as HTML.

uv run --group docs python docs/reference.py site
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pdoc

MODULES = (
    "has8",
    "has8.colanet",
    "has8.data",
    "has8.encoders",
    "has8.errors",
    "mapping",
    "mapping.chip.neurons",
    "mapping.chip.segment",
    "mapping.chip.wiring",
    "mapping.graph.ir",
    "mapping.graph.ops.op",
    "mapping.hosts.schema",
    "mapping.targets.figures",
    "mapping.targets.schema",
    "hwsim",
    "hwsim.backends.protocol",
    "hwsim.report",
)
"""The three packages, and what docs/extending.md and docs/own_target.md build on."""


def main(folder: Path) -> None:
    """Write ``folder/index.html`` and a page for each module; a warning of pdoc is an error."""
    warnings.filterwarnings("error", category=UserWarning, module="pdoc")
    # A NamedTuple's constructor lives in a module of its own, where pdoc finds no names.
    warnings.filterwarnings("ignore", r"Error parsing type annotation .*\.Step\.__init__")
    pdoc.render.configure(docformat="google", footer_text="has8", show_source=False)
    pdoc.pdoc(*MODULES, output_directory=folder)
    print(folder / "index.html")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "site"))
