"""Text from files is text: nothing in a name reaches the terminal, the markup or a path."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from has8.errors import BadInput, UnknownName
from has8.text import file_name, printable
from hwsim.report.screen import Text, empty_table, facts, heading

NASTY = "[/x][red]\x1b[2J\r\nerror: \u202e\x07\x9b"


@given(st.text())
def test_text_is_printable_on_one_line_and_plain_text_stays(text):
    shown = printable(text)
    assert shown.isprintable() and printable(shown) == shown
    assert shown == text or not text.isprintable()
    assert not {"/", "\\"} & {*file_name(text)}


@pytest.mark.parametrize("error", [BadInput(NASTY), UnknownName(NASTY, "a", [NASTY])])
def test_errors_are_one_printable_line(error):
    assert str(error).isprintable() and "[/x]" in str(error)


def test_screens_show_names_as_they_are():
    console = Console(file=io.StringIO(), width=400)
    heading(console, NASTY)
    console.print(facts([(NASTY, Text(NASTY))]))
    table = empty_table(NASTY, left=1)
    table.add_row(Text.assemble(NASTY, (NASTY, "bold")))
    console.print(table)
    shown = console.file.getvalue()
    assert shown.count(printable(NASTY)) == 6
    assert all(line.isprintable() for line in shown.split("\n"))


def test_a_name_is_one_part_of_a_path():
    assert file_name("model-../../x\\y\n-data") == "model-.._.._x_y_n-data"
