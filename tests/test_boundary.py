"""The outer boundary of the commands: interrupts, closed streams and faults end in one line."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from has8.cli import map_main

DIGITS = Path(__file__).parent.parent / "examples" / "models" / "digits.pt"

# Sends this process a signal, as Ctrl-C does, when a module is about to be imported or a file to be
# opened. What Python code then raises is swallowed, as some imports do.
AT = """
import os, signal, sys
def at(name):
    if name == {name!r}:
        try:
            os.kill(os.getpid(), signal.{signal})
        except KeyboardInterrupt:
            if not {swallow}:
                raise
class Finder:
    def find_spec(self, name, *rest):
        at(name)
sys.meta_path.insert(0, Finder())
sys.addaudithook(lambda event, about: event == "open" and at(os.path.basename(str(about[0]))))
from has8.cli import map_main
map_main()
"""


# A command that says whether a file that it opens takes a new number, none of the streams'.
OPENS = """
import os, types
from has8.cli.boundary import run
command = types.SimpleNamespace(main=lambda **options: print(os.dup(1) > 2))
run("__main__:command", "opens")
"""


def command(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


@pytest.mark.parametrize(
    ("name", "swallow"),
    [
        ("click", True),
        ("mapping.targets.schema", True),
        ("has8.cli.jobs.map", True),
        ("torch", True),
        ("digits.csv.gz", False),  # the job is under way
    ],
)
def test_an_interrupt_is_one_word_in_every_stage(tmp_path, name, swallow):
    code = AT.format(name=name, swallow=swallow, signal="SIGINT")
    done = subprocess.run(
        command(code, DIGITS, "--quiet", "--out", tmp_path), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
    assert not list(tmp_path.iterdir())


def test_a_process_that_is_told_to_end_says_so_by_its_exit_code(tmp_path):
    code = AT.format(name="has8.cli.jobs.map", swallow=False, signal="SIGTERM")
    done = subprocess.run(command(code, DIGITS, "--out", tmp_path), capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_streams_that_are_closed_or_full(tmp_path, monkeypatch, unbuffered):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    version = [sys.executable, "-m", "has8.cli", "--version"]

    def run(redirect: str, line: list[str] = version) -> tuple[int, str, str]:
        done = subprocess.run(
            ["sh", "-c", f"{shlex.join(line)} {redirect}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout, done.stderr

    assert run(">&-") == (0, "", "")
    assert run("<&- 2>&-")[0] == 0
    assert run("--wrong 2>&-") == (1, "", "")
    assert run("<&-", command(OPENS)) == (0, "True\n", "")
    if Path("/dev/full").exists():
        assert run(">/dev/full") == (1, "", "error: No space left on device\n")
        assert run("--wrong 2>/dev/full") == (1, "", "")


def test_a_fault_is_one_line_and_a_file(tmp_path, monkeypatch, capfd):
    def fault(**options: object) -> None:
        raise RuntimeError("no \x1b[31msuch\nthing")

    def fails() -> str:
        with pytest.raises(SystemExit) as left:
            map_main()
        out, err = capfd.readouterr()
        assert (left.value.code, out, err.count("\n")) == (1, "", 1)
        assert "\x1b" not in err
        return err

    monkeypatch.setattr("has8.cli.jobs.map.run_map", fault)
    monkeypatch.setattr("sys.argv", ["has8-map", "model.pt"])
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path))
        said = fails()
    (file,) = tmp_path.iterdir()
    assert said.startswith("internal error: RuntimeError: no \\x1b[31msuch; ")
    assert said.endswith(f"please report it to the issue tracker of has8 with {file}\n")
    kept = file.read_text()
    assert "Traceback" in kept and "in fault" in kept and "model.pt" in kept
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
        assert fails().endswith("please report it to the issue tracker of has8\n")


def test_a_program_that_calls_a_command_keeps_its_handlers(monkeypatch, capfd):
    def own(number: int, frame: object) -> None:
        pass

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, own) for number in numbers]
    monkeypatch.setattr("sys.argv", ["has8-map", os.devnull + "x"])
    try:
        with pytest.raises(SystemExit):
            map_main()
        assert [signal.getsignal(number) for number in numbers] == [own, own]
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
