"""Draw docs/report.svg, the picture of a report that README shows.

uv run python docs/report_picture.py
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

ROOT = Path(__file__).parent.parent
COLUMNS = 84


def main() -> None:
    """Run the command as a user would, in a terminal of fixed width, and draw what it prints."""
    model = ROOT / "examples" / "models" / "digits.pt"
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "has8.cli", "map", str(model), "--target", "loihi", "--quiet"],
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "COLUMNS": str(COLUMNS), "FORCE_COLOR": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    shown = done.stdout.split("Assumptions")[0].rstrip()
    console.print(Text("$ has8-map examples/models/digits.pt --target loihi\n"))
    console.print(Text.from_ansi(shown))
    svg = console.export_svg(title="has8-map", theme=DIMMED_MONOKAI)
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # no fonts from elsewhere
    svg = svg.replace("Fira Code", "Menlo, Consolas, DejaVu Sans Mono")
    (ROOT / "docs" / "report.svg").write_text(svg)


if __name__ == "__main__":
    main()
