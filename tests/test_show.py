"""``has8 show``: every core of the chips is drawn where it lies, once."""

import io
import re
import sys
from collections import Counter

import msgspec
import pytest
import torch
from builders import IMAGE, LOIHI, everything
from rich.console import Console

from has8.cli import main
from hwsim.report.floorplan import render_chips
from mapping import map_model, save
from mapping.cores.floorplan import floor_plan

CHIP = msgspec.structs.replace(
    LOIHI.chip, mesh_width=2, mesh_height=3, cores_per_tile=2, usable_cores=9
)
TINY = msgspec.structs.replace(
    LOIHI, chip=CHIP, core=msgspec.structs.replace(LOIHI.core, neurons=20)
)


@pytest.fixture(scope="module")
def mapped():
    return map_model(everything(), target=TINY, calibration=torch.rand(8, *IMAGE))


def drawn(mapped, **options):
    console = Console(file=io.StringIO(), **options)
    render_chips(console, mapped)
    return console.file.getvalue()


def test_every_core_is_drawn_where_it_lies(mapped):
    placement, plan = mapped.placement, floor_plan(mapped.placement, CHIP)
    assert len(plan.chips) == placement.chips_used > 1
    seen = Counter()
    for number, rows in plan.chips.items():
        cells = [cell for row in rows for router in row for cell in router]
        assert len(cells) == 12 and sum(cell is not None for cell in cells) == 9
        for place, row in enumerate(rows):
            for x, router in enumerate(row):
                for slot, cell in enumerate(router):
                    if cell is not None and cell.core is not None:
                        core = placement.cores[cell.core]
                        assert (core.chip, core.index) == (number, 2 * ((2 - place) * 2 + x) + slot)
                        seen[cell.core] += 1
    assert seen == dict.fromkeys(range(placement.cores_used), 1)
    neurons = {p.name: p.size for chip in mapped.chip_segments for p in chip.populations}
    assert {layer.name: layer.neurons for layer in plan.layers} == neurons
    assert {layer.share for layer in plan.layers} <= {*(n / 20 for n in range(21))}


def test_letters_say_without_colours_what_colours_say(mapped):
    plain = drawn(mapped, width=80)
    assert "\x1b" not in plain and all(len(line) <= 80 for line in plain.splitlines())
    rows = floor_plan(mapped.placement, CHIP).chips.values()
    cells = [cell for chip in rows for row in chip for router in row for cell in router if cell]
    picture = re.sub(r"chip \d.*cores", "", plain.split("Layers")[0].split("\n", 1)[1])
    for letter, layer in (("A", 0), ("B", 1), ("C", 2)):
        for case, shared in ((letter, False), (letter.lower(), True)):
            count = sum((cell.layer, cell.shared) == (layer, shared) for cell in cells)
            assert picture.count(case) == count
    assert "b" in picture and "B" in picture
    assert "\x1b[1;36mA" in drawn(mapped, width=80, force_terminal=True, color_system="standard")


def test_the_command_draws_a_file_and_refuses_others(mapped, tmp_path, monkeypatch, capsys):
    def call(path):
        monkeypatch.setattr(sys, "argv", ["has8", "show", str(path)])
        with pytest.raises(SystemExit) as done:
            main()
        return done.value.code, *capsys.readouterr()

    code, out, err = call(save(mapped, tmp_path / "net.h8"))
    assert code == 0 and out.startswith("net on loihi: ") and "chip 1" in out and not err
    (tmp_path / "not.h8").write_text("chips")
    code, out, err = call(tmp_path / "not.h8")
    assert code == 1 and not out and err.startswith("error: ") and err.count("\n") == 1
