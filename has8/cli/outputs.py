"""The files of a mapping: where they are, whose they are, and what may take their place."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from has8.cli.inputs import check_new_file
from has8.errors import BadInput
from has8.files import write_whole
from hwsim.report import to_csv
from mapping.chip import archive

DIGEST = "model_sha256"
"""Where a mapping's provenance, a report and an exploration say whose they are."""
LARGEST = 1 << 26
"""Bytes; a report that is larger is none."""


@dataclass(frozen=True)
class Outputs:
    """Where a model's mapping and its report go.

    Args:
        model: the model's file.
        folder: where to; None for beside the model.
        read: other files that are read.
        weights: the files of these that make the model, beside its own.
        told: what else makes it.
        called: what its files are called, if not as the model's file.
    """

    model: Path
    folder: Path | None
    read: tuple[Path, ...] = ()
    weights: tuple[Path, ...] = ()
    told: str = ""
    called: str | None = None

    @property
    def artefact(self) -> Path:
        """The mapping's file."""
        return (self.folder or self.model.parent) / f"{self.called or self.model.stem}.h8"

    @property
    def report(self) -> Path:
        """The report's file."""
        return self.artefact.with_suffix(".report.json")

    @property
    def exploration(self) -> Path:
        """The file of what an exploration found."""
        return self.artefact.with_suffix(".explore.json")

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the model's file and of what else makes it, in hexadecimal."""
        files = b"".join(path.read_bytes() for path in (self.model, *self.weights))
        return sha256(files + self.told.encode()).hexdigest()

    def check(self, *, verify: bool, overwrite: bool) -> None:
        """Refuse to lose what is there, before any work is done.

        Args:
            verify: whether the new report will be held against Lava.
            overwrite: whether the user asked for what is there to be replaced.

        Raises:
            BadInput: if the files cannot be written, belong to another model, or hold a verified
                report that one without would replace.
        """
        for path in (self.artefact, self.report):
            check_new_file(path, self.model, *self.read, *self.weights)
        if overwrite:
            return
        found = {
            path: read(path)
            for path, read in ((self.artefact, _provenance), (self.report, _report))
            if path.exists()
        }
        for path, facts in found.items():
            self._check_whose(path, facts, "replace it with --overwrite")
        verified = found.get(self.report, {}).get("verified")
        if not verify and isinstance(verified, dict) and verified.get("equal"):
            raise BadInput(
                f"{self.report} was verified against Lava: leave out --verify none, choose another "
                "folder with --out, or replace it with --overwrite"
            )

    def check_exploration(self) -> None:
        """Refuse to lose what was found of another model, before any work is done.

        Raises:
            BadInput: if the file cannot be written, or is not of this model as it is now.
        """
        check_new_file(self.exploration, self.model, *self.read, *self.weights)
        if self.exploration.exists():
            self._check_whose(self.exploration, _report(self.exploration), "move it away")

    def _check_whose(self, path: Path, facts: Mapping[str, Any], otherwise: str) -> None:
        if facts.get(DIGEST) != self.digest:
            raise BadInput(
                f"{path} is not of {self.model} as it is now: choose another folder with --out, "
                f"or {otherwise}"
            )


HEAD = 4096
"""Bytes in which a report says that it is one."""
MARKS = {False: b'<meta name="generator" content="has8 ', True: b"path,value"}
"""What a page and a table of has8's begin with, by whether it is a table."""


def check_report(path: Path | None, *inputs: Path) -> None:
    """Refuse a file for ``--report`` that cannot be written, or that has no known kind.

    Args:
        path: the file; None where none was asked for.
        inputs: the files that the command reads.

    Raises:
        BadInput: if it cannot be written, ends neither in .html nor in .csv, or is there and no
            report.
    """
    if path is None:
        return
    if path.suffix.lower() not in (".html", ".csv"):
        raise BadInput(f"{path} is neither .html nor .csv: name a report FILE.html or FILE.csv")
    check_new_file(path, *inputs)
    if path.exists():
        with path.open("rb") as file:
            begins = file.read(HEAD)
        if begins.strip() and MARKS[is_csv(path)] not in begins:
            raise BadInput(f"{path} is no report of has8's and would be lost: name another file")


def is_csv(path: Path) -> bool:
    """Whether a report's name asks for its numbers alone."""
    return path.suffix.lower() == ".csv"


def write_report(path: Path, page: Callable[[], str], numbers: Mapping[str, Any]) -> None:
    """Write a report as its name says.

    Args:
        path: the file.
        page: makes the HTML page.
        numbers: what CSV has.
    """
    text = to_csv(numbers) if is_csv(path) else page()
    write_whole(path, lambda file: file.write(text.encode()))


def _provenance(path: Path) -> Mapping[str, Any]:
    return _plain(lambda: json.loads(archive.read(path)[0])["provenance"])


def _report(path: Path) -> Mapping[str, Any]:
    return _plain(lambda: json.loads(path.read_text()) if path.stat().st_size < LARGEST else {})


def _plain(read: Any) -> Mapping[str, Any]:
    """What a file says; nothing if it cannot be read, however it is broken."""
    try:
        found = read()
    except Exception:
        return {}
    return found if isinstance(found, dict) else {}
