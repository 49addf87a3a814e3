"""Write docs/report.schema.json, which types the keys of NAME.report.json.

uv run python docs/report_schema.py
"""

from __future__ import annotations

import json
from pathlib import Path

from hwsim.report.schema import report_schema

if __name__ == "__main__":
    text = json.dumps(report_schema(), indent=1)
    Path(__file__).with_name("report.schema.json").write_text(f"{text}\n", encoding="utf-8")
