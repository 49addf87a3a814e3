"""All numbers of a report as a table of two columns, for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def to_csv(report: Mapping[str, Any]) -> str:
    """A report as CSV: the path of each value, such as ``likely.total.0``, and the value.

    Args:
        report: from :func:`hwsim.report.to_dict`, or another that JSON can hold.
    """
    out = io.StringIO()
    rows = csv.writer(out)
    rows.writerow(("path", "value"))
    rows.writerows(_flat(report, ""))
    return out.getvalue()


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, Sequence) and not isinstance(value, str):
        items = enumerate(value)
    else:
        yield path, {True: "true", False: "false"}[value] if isinstance(value, bool) else value
    for key, one in items:
        yield from _flat(one, f"{path}.{key}" if path else str(key))
