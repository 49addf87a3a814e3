"""What the pages tell a reader to type works.

A fence says what becomes of its block. All blocks of a page run in one folder, in their order:

- ``python`` runs, in the names that the page's earlier blocks left behind;
- ``console`` has commands behind ``$`` and what they print, ``...`` for what is left out: it runs
  and prints that;
- ``bash`` has commands that take long or need data: their options are parsed;
- ``text``, ``yaml`` and others are to be read.

``<!-- not run: REASON -->`` in front of a python block keeps it from running.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from io import StringIO
from pathlib import Path
from runpy import run_path
from types import ModuleType
from typing import Any

import click
import pytest

from has8.cli.commands import has8
from hwsim.backends.lava.backend import Lava

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")],
    key=lambda path: path.name,
)
KINDS = {"python", "console", "bash", "text", "yaml"}
IN_LAVA = {"own_network.md"}
"""Pages whose code is held against real Lava processes; others take the reference for time."""
FENCE = re.compile(r"^(<!-- not run: .+ -->\n)?```(\w*)\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block: its kind, its text, the line it begins in, and whether it is to run."""

    kind: str
    text: str
    line: int
    runs: bool


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start(3)) + 1
        yield Block(found[2], found[3], line, found[1] is None)


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command, without ``uv run`` in front and without comments."""
    for line in text.replace("\\\n", " ").splitlines():
        for command in line.split(" && "):
            words = shlex.split(command, comments=True)
            if words[:2] == ["uv", "run"]:
                words = words[4:] if words[2] == "--group" else words[2:]
            if words:
                yield words


def context(words: list[str]) -> click.Context:
    """A command of has8 with its options parsed."""
    name, *rest = words
    command: click.Command = has8.commands["map"] if name == "has8-map" else has8
    while isinstance(command, click.Group):
        command, rest = command.commands[rest[0]], rest[1:]
    return command.make_context(name, rest)


def check(words: list[str]) -> None:
    """Options that has8 takes, or a file and options that its parser has."""
    if words[0] in ("has8", "has8-map"):
        context(words).close()
    elif words[0] == "python":
        module = ROOT / words[2].replace(".", "/") if words[1] == "-m" else None
        path = ROOT / words[1] if module is None else module.with_suffix(".py")
        path = path if path.exists() or module is None else module / "__main__.py"
        assert path.exists(), words
        known = path.read_text() + "".join(p.read_text() for p in path.parent.glob("*.py"))
        for word in words:
            assert not word.startswith("--") or f'"{word}"' in known, words
    else:
        assert words[0] in ("pip", "uv", "pytest", "bash", "ruff", "mypy", "lint-imports"), words


def run_console(text: str) -> None:
    """Run each command and hold what it prints to what the page shows."""
    for part in re.split(r"^\$ ", text, flags=re.M)[1:]:
        command, _, shown = part.partition("\n")
        said = StringIO()
        for words in commands(command):
            with redirect_stdout(said):
                if words[0] == "python":
                    run_path(words[1], run_name="__main__")
                else:
                    with context(words) as parsed:
                        parsed.command.invoke(parsed)
        flags = ELLIPSIS | NORMALIZE_WHITESPACE
        assert OutputChecker().check_output(shown, said.getvalue(), flags), said.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_block_says_what_it_is_and_commands_parse(page):
    found = list(blocks(page))
    fences = [line for line in page.read_text().splitlines() if line.startswith("```")]
    assert len(fences) == 2 * len(found)
    for block in found:
        assert block.kind in KINDS, f"{page.name}:{block.line}: {block.kind!r} says nothing"
        if block.kind == "bash":
            for words in commands(block.text):
                check(words)
    indented = re.findall(r"^ {4}(?:has8|has8-map|uv|python) .*$", page.read_text(), re.M)
    assert not indented  # commands are fenced, so that they are checked


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        path, _, heading = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), target
        headings = re.findall(r"^#+ (.*)$", there.read_text(), re.M) if heading else ()
        slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}
        assert not heading or heading in slugs, target


def examples(command: click.Command) -> Iterator[list[str]]:
    for line in (command.help or "").splitlines():
        if re.match(r"\s*has8(-map)? ", line):
            yield from commands(line)


@pytest.mark.parametrize("name", has8.commands)
def test_the_examples_of_help_parse(name):
    found = list(examples(has8.commands[name]))
    assert found
    for words in found:
        check(words)


RUNS = [page for page in PAGES if any(b.kind in ("python", "console") for b in blocks(page))]


@pytest.mark.parametrize("page", RUNS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_runs(page, tmp_path, monkeypatch):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    module = ModuleType("page")  # in which dataclasses look up their names
    monkeypatch.setitem(sys.modules, "page", module)
    names = module.__dict__
    lava = page.name in IN_LAVA and Lava().unavailable() is None
    for block in blocks(page):
        if block.kind == "console":
            run_console(block.text)
        elif block.kind == "python" and block.runs:
            code = block.text if lava else block.text.replace('"lava"', '"reference"')
            # as many lines in front as the page has, so that a traceback names the page's line
            exec(compile("\n" * (block.line - 1) + code, str(page), "exec"), names)
    held = LAWS.get(page.name)
    if held is not None:
        held(names)


def own_network(names: dict[str, Any]) -> None:
    found = names["found"]
    assert found.float_accuracy > 0.8
    assert found.accuracy > found.float_accuracy - 0.05
    assert names["overview"].on_chip == names["overview"].neuron_layers == 2
    (chip,) = names["looped"].chip_segments
    assert [s.delay for p, s in chip.synapses() if s.source == p.name] == [1]
    sizes = [p.size for chip in names["direct"].chip_segments for p in chip.populations]
    assert sizes == [100, 10]


LAWS = {"own_network.md": own_network}
"""What holds when a page has run, beyond that it ran."""
