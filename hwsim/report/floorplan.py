"""The chips of a mapping in a terminal: one cell a core, and a legend of layers."""

from __future__ import annotations

from rich.columns import Columns
from rich.console import Console, Group
from rich.table import Table

from hwsim.report.screen import Text, empty_table, heading, indented
from hwsim.report.units import many, percent
from mapping.cores.floorplan import FloorPlan, PlanCell, Row, floor_plan
from mapping.mapped import Mapped

COLOURS = ("cyan", "yellow", "magenta", "green", "blue", "red")
"""Of layers, in turn; letters tell them apart where there are no colours, or the same again."""
FREE, MISSING = "·", " "


def render_chips(console: Console, mapped: Mapped, name: str | None = None) -> None:
    """Print every chip that a mapping uses, and what its cores hold.

    Args:
        console: where to; its width and colours are respected.
        mapped: a mapping.
        name: what it is called; None for its model's name.
    """
    placement = mapped.placement
    name = name or str(mapped.provenance.get("model", {}).get("name", "model"))
    cores, chips = many(placement.cores_used, "core"), many(placement.chips_used, "chip")
    title = ((name, "bold"), " on ", (mapped.target.name, "bold"), f": {cores} on {chips}")
    console.print(Text.assemble(*title))
    if not placement.cores:
        indented(console, Text("all layers are on the host"))
        return
    chip = mapped.target.chip
    plan = floor_plan(placement, chip)
    width = max(len(layer.label) for layer in plan.layers)
    console.print()
    drawn = [_chip(plan, number, width, chip.cores) for number in plan.chips]
    indented(console, Columns(drawn, padding=(1, 4)))
    heading(console, "Layers")
    indented(console, _legend(plan))
    if any(layer.shared for layer in plan.layers):
        console.print()
        indented(
            console,
            Text("small letters: several layers share the core; it is named after the largest"),
        )


def _chip(plan: FloorPlan, number: int, width: int, cores: int) -> Group:
    rows = plan.chips[number]
    used = sum(cell.core is not None for row in rows for router in row for cell in router if cell)
    title = Text.assemble((f"chip {number}", "bold"), f"  {used} of {cores:,} cores")
    return Group(title, *(_row(plan, row, width) for row in rows))


def _row(plan: FloorPlan, row: Row, width: int) -> Text:
    line = Text(no_wrap=True)
    for router in row:
        for cell in router:
            line.append(*_cell(plan, cell, width))
        line.append(" ")
    return line


def _cell(plan: FloorPlan, cell: PlanCell | None, width: int) -> tuple[str, str]:
    """What stands for a core, and its style."""
    if cell is None or cell.layer is None:
        return (MISSING if cell is None else FREE).ljust(width), "dim"
    label = plan.layers[cell.layer].label
    return (label.lower() if cell.shared else label).ljust(width), _colour(cell.layer)


def _colour(layer: int) -> str:
    return f"bold {COLOURS[layer % len(COLOURS)]}"


def _legend(plan: FloorPlan) -> Table:
    table = empty_table("", "layer", "cores", "neurons", "fullest core", left=2)
    table.columns[1].overflow, table.columns[4].no_wrap = "fold", True
    for number, layer in enumerate(plan.layers):
        table.add_row(
            Text(layer.label, _colour(number)),
            Text(layer.name),
            Text(f"{layer.cores:,}"),
            Text(f"{layer.neurons:,}"),
            Text(f"{layer.resource.replace('_', ' ')} {percent(layer.share)}"),
        )
    return table
